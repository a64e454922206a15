"""A small training over an HDF5 file, changed by each test as it likes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from small_training import NET, ROWS

from cosdask.solver import Solver

MakeSolver = Callable[..., Solver]


@pytest.fixture
def rows() -> tuple[np.ndarray, np.ndarray]:
    """x (N, 5) and y (N, 2)."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((ROWS, 5)), rng.standard_normal((ROWS, 2))
    return x.astype(np.float32), y.astype(np.float32)


@pytest.fixture
def make_solver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: tuple[np.ndarray, np.ndarray]) -> MakeSolver:
    """``make_solver(settings, net=..., params=..., **keywords of Solver)`` in a folder that holds the rows."""
    monkeypatch.chdir(tmp_path)
    with h5py.File("rows.h5", "w") as file:
        file["x"], file["y"] = rows
    Path("rows.txt").write_text("rows.h5\n")
    opened: list[Solver] = []

    def make(settings: str, net: str = NET, params: str = "", **keywords: object) -> Solver:
        Path("net.prototxt").write_text(net.replace("PARAMS", params))
        Path("solver.prototxt").write_text(
            f'net: "net.prototxt" lr_policy: "fixed" random_seed: 3 snapshot_prefix: "s" {settings}'
        )
        opened.append(Solver("solver.prototxt", **keywords))
        return opened[-1]

    yield make
    for solver in opened:
        solver.close()
