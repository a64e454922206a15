"""What a training says about its input, and what of it waits in memory."""

from __future__ import annotations

import gc
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from cosdask import Solver
from cosdask.data import write_lmdb
from cosdask.errors import SolverError
from cosdask.events import Event, RowsSkipped, Warned, from_dict
from cosdask.solver.watches import InputWatch

NET = """
layer { name: "data" type: "Data" top: "data" top: "label" transform_param { scale: 0.01 crop_size: 6 }
  data_param { source: "FOLDER/lmdb" backend: LMDB batch_size: 4 } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


def _reading() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "cosdask-feed"}


def test_a_solver_that_is_dropped_leaves_no_thread(tmp_path: Path) -> None:
    """Who makes one solver after the other in a notebook, and closes none, keeps neither threads nor batches."""
    write_lmdb(tmp_path / "lmdb", np.zeros((9, 1, 8, 8), np.uint8), [0, 1, 2] * 3)
    (tmp_path / "net.prototxt").write_text(NET.replace("FOLDER", str(tmp_path)))
    path = tmp_path / "solver.prototxt"
    path.write_text(f'net: "{tmp_path}/net.prototxt" base_lr: 0.1 lr_policy: "fixed" random_seed: 1')
    before = _reading()
    solver = Solver(path)
    solver.step(1)
    (thread,) = _reading() - before
    del solver
    gc.collect()
    thread.join(30)
    assert not thread.is_alive()


@pytest.fixture
def solver_path(tmp_path: Path) -> Path:
    """A net over ten rows, of which row 7 holds an image that is smaller than the crop."""
    images = [np.full((8, 8), 20 * row, np.uint8) for row in range(10)]
    images[7] = images[7][:4, :4]
    import cv2

    write_lmdb(tmp_path / "lmdb", [cv2.imencode(".png", image)[1].tobytes() for image in images], [0, 1, 2] * 3 + [0])
    (tmp_path / "net.prototxt").write_text(NET.replace("FOLDER", str(tmp_path)))
    path = tmp_path / "solver.prototxt"
    path.write_text(f'net: "{tmp_path}/net.prototxt" base_lr: 0.1 lr_policy: "fixed" random_seed: 1')
    return path


def test_skipped_rows_are_an_event_once(solver_path: Path) -> None:
    """The row is told when it is first met, with where it lies and why, and the record can be kept and read back."""
    events: list[Event] = []
    with Solver(solver_path, on_event=events.append, on_bad_rows="skip") as solver:
        solver.step(4)
        solver.step(4)
        assert np.isfinite(solver.loss)
    (told,) = [event for event in events if isinstance(event, RowsSkipped)]
    (row,) = told.rows
    assert (row["row"], row["id"], row["column"], row["partition"]) == (7, "00000007", "data", 0)
    assert "smaller than crop_size 6" in row["reason"] and row["reason"] in told.message
    assert from_dict(told.to_dict()) == told
    with pytest.raises(SolverError, match="on_bad_rows"):
        Solver(solver_path, on_bad_rows="ignore")


def test_a_training_that_waits_for_rows_says_so(solver_path: Path) -> None:
    """Invariant 8: the split of the time, once; a training that does not wait says nothing."""
    events: list[Event] = []
    with Solver(solver_path, on_event=events.append, on_bad_rows="skip") as solver:
        source = solver.engine.source
        plain = source.decode

        def slow(*arguments: object) -> object:
            time.sleep(0.02)
            return plain(*arguments)

        source.decode = slow
        solver._loop._watch = InputWatch(look=0.1, quiet=60, share=0.3)
        solver.step(40)
    warned = [event.message for event in events if type(event) is Warned]
    assert len(warned) == 1 and "waiting for rows took" in warned[0] and "--threads" in warned[0]
    watch = InputWatch(look=1, quiet=5)
    told = [watch.notice(float(second), 0.5 * second, 0.0, 0.0) for second in range(13)]
    assert [bool(text) for text in told] == [second in (1, 6, 11) for second in range(13)]
    assert not any(InputWatch(look=1).notice(float(second), 0.05 * second, 0.0, 0.0) for second in range(9))


def test_memory_of_the_feed_is_flat(solver_path: Path) -> None:
    """Twenty epochs hold no more batches than the first few, and the host does not run away from the device."""
    with Solver(solver_path, on_bad_rows="skip") as solver:
        buffers = solver.engine.source._buffers
        solver.step(10)
        before = buffers.count, len(jax.live_arrays())
        for _ in range(20):
            solver.step(3)
        after = buffers.count, len(jax.live_arrays())
    assert after[0] <= max(before[0], 16)
    assert after[1] <= before[1] + 8
