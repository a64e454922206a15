"""``global_batch_norm`` and ``global_loss`` (invariant 2's options): N ranks are then one rank of N times the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cosdask import Solver
from cosdask.data import write_lmdb
from cosdask.proto import parse_solver

NET = """
layer {{ name: "data" type: "Data" top: "data" top: "label"
  data_param {{ source: "{source}" batch_size: {batch} backend: LMDB }} transform_param {{ scale: 0.01 }} }}
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param {{ num_output: 3 kernel_size: 3
  bias_term: false weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" batch_norm_param {{ moving_average_fraction: 0.9 }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" inner_product_param {{ num_output: 4
  weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss"
  loss_param {{ ignore_label: 3 }} }}
"""
ROWS, BATCH, RANKS = 24, 4, 3


def trained(source: Path, batch: int, ranks: int, more: str = "", **options: bool) -> tuple[dict[str, list], float]:
    net = NET.format(source=source, batch=batch)
    text = f'base_lr: 0.1 momentum: 0.9 lr_policy: "fixed" max_iter: 4 random_seed: 3 {more} net_param {{ {net} }}'
    with Solver(parse_solver(text), ranks=ranks, **options) as solver:
        solver.step(4 if not more else 1)
        return solver.net.to_blobs(solver.net.params), solver.engine.loss


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Rows as three ranks deal them out, and the same batches in a row; a rank may have no label that counts."""
    folder = tmp_path_factory.mktemp("rows")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (ROWS, 2, 5, 5)).astype(np.uint8)
    labels = rng.integers(0, 4, ROWS)
    labels[:4] = 3
    order = np.arange(ROWS).reshape(RANKS, -1, BATCH).swapaxes(0, 1).ravel()
    write_lmdb(folder / "dealt", images, labels)
    write_lmdb(folder / "joined", images[order], labels[order])
    return folder / "dealt", folder / "joined"


@pytest.mark.parametrize("more", ["", "iter_size: 2"])
def test_ranks_that_share_are_one_rank_of_a_larger_batch(sources: tuple[Path, Path], more: str) -> None:
    """Weights, running sums and loss, also where ignored labels lie unevenly; each alone is not enough."""
    wanted, loss = trained(sources[1], BATCH * RANKS, 1, more)
    found, found_loss = trained(sources[0], BATCH, RANKS, more, global_batch_norm=True, global_loss=True)
    np.testing.assert_allclose(found_loss, loss, rtol=1e-4)
    for name, blobs in wanted.items():
        for one, other in zip(found[name], blobs, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5, err_msg=name)
    for options in ({}, {"global_batch_norm": True}, {"global_loss": True}):
        apart, _ = trained(sources[0], BATCH, RANKS, more, **options)
        assert not np.allclose(apart["ip"][0], wanted["ip"][0], rtol=1e-3, atol=1e-5), options


def test_one_rank_has_nobody_to_share_with(sources: tuple[Path, Path]) -> None:
    """The options change nothing then, bit for bit."""
    plain, shared = (
        trained(sources[0], BATCH, 1),
        trained(sources[0], BATCH, 1, global_batch_norm=True, global_loss=True),
    )
    assert plain[1] == shared[1]
    np.testing.assert_array_equal(plain[0]["ip"][0], shared[0]["ip"][0])
