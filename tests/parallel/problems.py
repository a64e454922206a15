"""Small trainings on generated rows, as a user would have them: prototxt files beside LMDBs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cosdask.data import write_lmdb

_NET = """
name: "small"
layer {{ name: "data" type: "Data" top: "data" top: "label" include {{ phase: TRAIN }}
  transform_param {{ scale: 0.00390625 {train_transform} }}
  data_param {{ source: "train_lmdb" batch_size: {batch} backend: LMDB }} }}
layer {{ name: "data" type: "Data" top: "data" top: "label" include {{ phase: TEST }}
  transform_param {{ scale: 0.00390625 {test_transform} }}
  data_param {{ source: "test_lmdb" batch_size: {test_batch} backend: LMDB }} }}
layer {{ name: "conv1" type: "Convolution" bottom: "data" top: "conv1" 
  convolution_param {{ num_output: 6 kernel_size: 3 {conv} weight_filler {{ type: "xavier" }} }} }}
{middle}
layer {{ name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
  pooling_param {{ pool: AVE kernel_size: 2 stride: 2 }} }}
layer {{ name: "ip1" type: "InnerProduct" bottom: "pool1" top: "ip1"
  inner_product_param {{ num_output: 12 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "tanh1" type: "TanH" bottom: "ip1" top: "ip1" }}
{dropout}
layer {{ name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
  inner_product_param {{ num_output: 5 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "accuracy" type: "Accuracy" bottom: "ip2" bottom: "label" top: "accuracy" include {{ phase: TEST }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }}
"""

BATCH_NORM = 'layer { name: "bn1" type: "BatchNorm" bottom: "conv1" top: "conv1" }'
DROPOUT = 'layer { name: "drop1" type: "Dropout" bottom: "ip1" top: "ip1" }'
AUGMENTED = "mirror: true crop_size: 10"


@dataclass(frozen=True)
class Problem:
    """A training in a folder of its own."""

    folder: Path
    solver: Path
    images: np.ndarray
    labels: np.ndarray

    @property
    def model(self) -> str:
        """Where its model goes."""
        return str(self.folder / "out" / "small.caffemodel")


def digits(rows: int, seed: int = 0, size: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Images of five classes that a small net can tell apart: a bright square in a place of the class's own."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 5, rows)
    images = random.integers(0, 90, (rows, 1, size, size))
    for image, label in zip(images, labels, strict=True):
        image[0, 2 * label : 2 * label + 4, 4:8] += 120
    return images.astype(np.uint8), labels


def make_problem(
    folder: Path,
    rows: int = 200,
    test_rows: int = 60,
    batch: int = 8,
    test_batch: int = 10,
    settings: str = "max_iter: 20",
    middle: str = "",
    dropout: str = "",
    augmented: bool = False,
) -> Problem:
    """Write LMDBs, net and solver into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = digits(rows)
    write_lmdb(folder / "train_lmdb", images, labels)
    write_lmdb(folder / "test_lmdb", *digits(test_rows, seed=1))
    transforms = {"train_transform": AUGMENTED, "test_transform": "crop_size: 10"} if augmented else {}
    text = _NET.format(
        **{"train_transform": "", "test_transform": "", **transforms},
        batch=batch,
        test_batch=test_batch,
        middle=middle,
        # a bias before BatchNorm has no gradient but rounding, which two correct runs do not share
        conv="bias_term: false" if "BatchNorm" in middle else "",
        dropout=dropout,
    )
    (folder / "net.prototxt").write_text(text)
    solver = folder / "solver.prototxt"
    base = (
        'net: "net.prototxt" base_lr: 0.05 lr_policy: "inv" gamma: 0.01 power: 0.75 momentum: 0.9 weight_decay: 0.001'
    )
    solver.write_text(f'{base} random_seed: 5 snapshot_prefix: "small" {settings}\n')
    return Problem(folder, solver, images, labels)
