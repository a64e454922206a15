"""A large LMDB far away is counted and read by all workers, each its share, and never copied whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest_parallel import config
from distributed import Client
from problems import Problem

import cosdask
from benchmarks.counted import CountedFileSystem, register
from cosdask.data import write_lmdb

ROWS = 16000

_NET = """
layer {{ name: "data" type: "Data" top: "data" top: "label"
  data_param {{ source: "{source}" batch_size: 500 backend: LMDB }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param {{ num_output: 2 }} }}
layer {{ name: "mean" type: "Reduction" bottom: "label" top: "mean" reduction_param {{ operation: MEAN }} }}
"""


def bytes_read() -> int:
    """On a worker: what its process has read since :func:`begin`."""
    return CountedFileSystem.bytes_read


def begin() -> None:
    """On a worker: count from zero."""
    register()
    CountedFileSystem.reset()


def test_each_worker_reads_its_share_with_the_first_index(client: Client, tmp_path: Path) -> None:
    """Issue 5: every row once, at most 2.2 times a worker's share with the first count, and 1.1 times with it kept."""
    labels = np.arange(ROWS) % 7
    images = np.random.default_rng(0).integers(0, 256, (ROWS, 28, 28), dtype=np.uint8)
    write_lmdb(tmp_path / "rows", images, labels)
    share = (tmp_path / "rows" / "data.mdb").stat().st_size / 3
    url = f"counted://{tmp_path}/rows"
    (tmp_path / "net.prototxt").write_text(_NET.format(source=url))
    (tmp_path / "solver.prototxt").write_text('net: "net.prototxt" test_iter: 1 test_interval: 5 base_lr: 0.1\n')
    register()
    cosdask.Net.from_text(_NET.format(source=tmp_path / "rows"), phase="TEST", seed=1).save(tmp_path / "model")
    problem = Problem(tmp_path, tmp_path / "solver.prototxt", images, labels)
    test = cosdask.CaffeOnDask(client, config(problem, model=str(tmp_path / "model"), clusterSize=None))
    for limit in (2.2, 1.1):
        client.run(begin)
        assert test.test()["mean"] == pytest.approx(labels.mean(), rel=1e-6)
        shares = [read / share for read in client.run(bytes_read).values()]
        assert all(0.9 <= part <= limit for part in shares), f"shares read: {shares}, at most {limit} each"
