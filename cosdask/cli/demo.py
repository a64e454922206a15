"""``cosdask demo``: from real digits to a trained network, its features and a picture."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cosdask.cli import clusters
from cosdask.cli.demo_data import (
    Digits,
    check_extras,
    load_digits,
    prepare_folder,
    write_data,
    write_pictures,
    write_prototxts,
)
from cosdask.config import Config, FlagParser
from cosdask.errors import StorageError
from cosdask.storage import atomic_output, local_path

_ABOUT = """Train, test and use LeNet on 5,000 real digits, on a local cluster of two workers.

It writes the digits as LMDB and parquet, trains on 4,000 of them while validating, tests on the other 1,000, extracts
features, fits scikit-learn's logistic regression on them, classifies single images, and draws a picture of it all.
Everything lands in one folder. Takes about a minute on two cores."""

_EXAMPLES = """examples:
  cosdask demo
  cosdask demo --output ~/lenet --cluster local[4]"""

_NEXT = """
Try next:
  cosdask predict {folder}/digits --net {folder}/lenet_train_test.prototxt --model {folder}/lenet.caffemodel --top 2
  cosdask test --conf {folder}/lenet_solver.prototxt --model {folder}/lenet.caffemodel
  cosdask features --conf {folder}/lenet_solver.prototxt --model {folder}/lenet.caffemodel --features ip1,ip2 \\
      --label label --output {folder}/my_features --output-format json
"""

_PICTURES = 20
_PREDICTED = 5
_DRAWN, _DRAWN_WRONG = 40, 8


def main(words: Sequence[str]) -> int:
    """Runs the verb with the words after it; returns the exit code."""
    given = vars(_parser().parse(words))
    folder = local_path(given.pop("output"))
    cluster = given.pop("cluster")
    check_extras()
    if folder is None:
        raise StorageError("the demo's folder is on this machine: name a local one with --output")
    prepare_folder(folder, given.pop("overwrite", False))
    demo = Demo(folder, cluster, given)
    accuracy, rows = demo.run()
    print(_NEXT.format(folder=folder))
    print(f"test accuracy {accuracy:.4f} ({rows} rows)", flush=True)
    return 0


def _parser() -> FlagParser:
    flags = FlagParser(
        prog="cosdask demo",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="cosdask demo [flags]",
    )
    flags.add_argument("--output", default="out/demo", metavar="DIR", help="folder for everything (default out/demo)")
    flags.add_argument(
        "--cluster", default="local[2]", metavar="WHERE", help=clusters.HELP.replace("; the default", "")
    )
    flags.add_options(("overwrite", "seed", "progress"))
    return flags


@dataclass
class Demo:
    """One demo: its folder, where its workers come from, and what else was asked for.

    Attributes:
        folder: an empty place for everything it writes.
        cluster: as ``--cluster``.
        options: options of :class:`cosdask.Config` that were given.
    """

    folder: Path
    cluster: str
    options: dict[str, Any]

    def run(self) -> tuple[float, int]:
        """Does it all.

        Returns:
            The accuracy over the test digits, and their number.
        """
        test = self._make_data()
        net, solver = write_prototxts(self.folder)
        model = self.folder / "lenet.caffemodel"
        config = Config(conf=str(solver), model=str(model), label="label", overwrite=True, **self.options)
        with clusters.connect(self.cluster, config) as client:
            history, validation = _train(client, config, len(client.scheduler_info(n_workers=-1)["workers"]))
            accuracy = _test(client, config)
            features = _extract(client, config, self.folder)
        _regress(*features)
        pictures = write_pictures(self.folder, test, _PICTURES)
        _predict(pictures[:_PREDICTED], net, model)
        guesses = _matrix(features[1], "ip2").argmax(axis=1)
        self._draw(history, validation, test, guesses, accuracy)
        return accuracy, len(test)

    def _make_data(self) -> Digits:
        train, test = load_digits()
        _step(f"Digits: {len(train):,} to train on and {len(test):,} to test with, as LMDB and as parquet")
        write_data(self.folder, train, test)
        for path in sorted(self.folder.glob("mnist_*")):
            print(f"  {path}")
        return test

    def _draw(self, history: Any, validation: Any, test: Digits, guesses: np.ndarray, accuracy: float) -> None:
        from cosdask.view import plot_summary

        picture = self.folder / "demo.png"
        _step("Picture: loss and accuracy, and digits with their predictions")
        wrong = np.flatnonzero(guesses != test.labels)
        right = np.flatnonzero(guesses == test.labels)
        some = wrong[:_DRAWN_WRONG]
        rows = np.sort(np.concatenate([some, right[: _DRAWN - len(some)]]))
        shown = f"{len(rows)} of them, with {len(some)} of the {len(wrong)} wrong ones"
        title = f"LeNet on {len(test):,} test digits: accuracy {accuracy:.4f}; on the right {shown}"
        plot_summary(history, validation, test.images[rows], test.labels[rows], guesses[rows], picture, title)
        print(f"  {picture}")


def _step(text: str) -> None:
    # Flushed, so that headings stand before the log lines, which go to standard error.
    print(f"\n{text}", flush=True)


def _train(client: Any, config: Config, workers: int) -> tuple[Any, Any]:
    """Trains with validation; the loss at each iteration, and the validations."""
    from cosdask.parallel import CaffeOnDask
    from cosdask.parallel.results import Record
    from cosdask.view import default_consumers

    _step(f"Training: LeNet on {workers} worker{'s' if workers != 1 else ''}, validated on the way")
    record = Record()
    consumers = [*default_consumers(config.progress), record]
    validation = CaffeOnDask(client, config, consumers).train_with_validation()
    print(f"  {config.model}")
    return record.history(), validation


def _test(client: Any, config: Config) -> float:
    from cosdask.parallel import CaffeOnDask

    _step("Test: every test digit once")
    outputs = CaffeOnDask(client, config).test()
    print("".join(f"  {name} {float(value):.4f}\n" for name, value in outputs.items()), end="")
    return float(outputs["accuracy"])


def _extract(client: Any, config: Config, folder: Path) -> tuple[Any, Any]:
    """Writes ``ip1`` of all digits as parquet; frames of the training and the test digits, with ``ip2`` as well."""
    import pyarrow.parquet as pq

    from cosdask.data.table_files import as_table
    from cosdask.parallel import CaffeOnDask

    _step("Features: ip1, the 500 numbers behind the last layer, of every digit")
    job = CaffeOnDask(client, config)
    frames = []
    for data, name in (("mnist_train_lmdb", "train_features.parquet"), ("mnist_test_lmdb", "features.parquet")):
        frame = job.features(str(folder / data), blobs=["ip1", "ip2"]).compute()
        with atomic_output(folder / name) as file:
            pq.write_table(as_table(frame[["SampleID", "ip1", "label"]]), file)
        print(f"  {folder / name} ({len(frame)} rows)")
        frames.append(frame)
    return frames[0], frames[1]


def _regress(train: Any, test: Any) -> None:
    """scikit-learn's logistic regression, from features to digits."""
    from sklearn.linear_model import LogisticRegression

    _step("scikit-learn: logistic regression on these features")
    fitted = LogisticRegression(max_iter=1000).fit(_matrix(train, "ip1"), _matrix(train, "label")[:, 0])
    score = fitted.score(_matrix(test, "ip1"), _matrix(test, "label")[:, 0])
    print(f"  accuracy {score:.4f} ({len(test)} rows)")


def _matrix(frame: Any, blob: str) -> np.ndarray:
    """A column of 1-D cells as float32 (rows, values)."""
    return np.stack(list(frame[blob]))


def _predict(pictures: Sequence[Path], net: Path, model: Path) -> None:
    """What ``cosdask predict`` does, on a few pictures; their names begin with the right answer."""
    from cosdask.cli.predict import Classifier, load_image, report

    _step("Predictions: single images")
    classify = Classifier.open(str(net), str(model))
    names = [str(path) for path in pictures]
    for name, scores in zip(names, classify([load_image(name) for name in names], names), strict=True):
        print("  " + report(name, scores, 1, None).replace("\n", ""))
