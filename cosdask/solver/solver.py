"""Caffe's solver in one process."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from cosdask.device import on_device
from cosdask.errors import SolverError
from cosdask.events import Event
from cosdask.nn.net import Net
from cosdask.proto import caffe_pb2
from cosdask.solver.engine import Engine, Settings, Test, solver_message
from cosdask.solver.loop import Loop


def _ignore(event: Event) -> None:
    """Nobody listens."""


class Solver:
    """Trains a net as a Caffe solver file says, in this process.

    Relative paths inside of the files are looked for in the working directory, as in Caffe, then beside the file.

    Args:
        path_or_url: a solver prototxt, or a ``SolverParameter`` message.
        weights: initial weights (several paths separated by commas), copied by layer name.
        snapshot: a solver state to go on from.
        ranks: number of ranks whose batches of the plan this process takes, joined in rank order: the same training
            that a group of as many workers makes.
        on_event: called with every event (:mod:`cosdask.events`).
        seed: replaces the solver's ``random_seed``.
        shuffle: visit the training rows in a new order each epoch.
        global_batch_norm: with several ranks, BatchNorm uses all their batches together instead of each its own.
        global_loss: with several ranks, losses count all their labels together instead of each its own.
        precision: ``"float32"``, ``"tf32"`` or ``"bfloat16"``; weights, history and updates are float32 in each.
        on_bad_rows: ``"error"``, or ``"skip"`` to go on without rows that cannot be read.

    Raises:
        ProtoError, SolverError, NetError, DataError, WeightsError: naming file and place.
    """

    def __init__(
        self,
        path_or_url: str | os.PathLike[str] | caffe_pb2.SolverParameter,
        weights: str | None = None,
        snapshot: str | None = None,
        ranks: int = 1,
        on_event: Callable[[Event], None] = _ignore,
        seed: int | None = None,
        shuffle: bool = False,
        precision: str = "float32",
        global_batch_norm: bool = False,
        global_loss: bool = False,
        on_bad_rows: str = "error",
    ) -> None:
        if ranks < 1:
            raise SolverError(f"ranks (={ranks}) must be 1 or more.")
        if on_bad_rows not in ("error", "skip"):
            raise SolverError(f'on_bad_rows (="{on_bad_rows}") must be "error" or "skip".')
        param, path = solver_message(path_or_url)
        settings = Settings(
            path=path,
            weights=weights,
            snapshot=snapshot,
            world=ranks,
            ranks=tuple(range(ranks)),
            seed=seed,
            precision=precision,
            global_batch_norm=global_batch_norm,
            global_loss=global_loss,
            options={"shuffle": shuffle, "on_bad_rows": on_bad_rows},
        )
        self.param: caffe_pb2.SolverParameter = param
        self.engine = Engine(param, settings)
        self._loop = Loop(self.engine, on_event)

    @property
    def iter(self) -> int:
        """Iterations done."""
        return self.engine.iteration

    @property
    def loss(self) -> float:
        """The loss of the last iteration, not smoothed; with ``iter_size`` above 1, of its last batch.

        That is what the net's loss blob holds after Caffe's step; events carry the mean over the iteration's batches,
        which is what Caffe displays.
        """
        return self.engine.last_loss

    @property
    def lr(self) -> float:
        """The learning rate of the next iteration."""
        return float(self.engine.step_functions.scalars(self.iter)[0])

    @property
    def net(self) -> Net:
        """The TRAIN net. Its ``params`` are the current weights; setting or loading weights trains on from those."""
        return self.engine.net

    @property
    def test_nets(self) -> list[Net]:
        """The test nets with the current weights."""
        for test in self.engine.tests:
            _share(self.engine, test)
        return [test.net for test in self.engine.tests]

    def step(self, n: int) -> None:
        """Make ``n`` iterations, with the tests, progress events and snapshots that fall due."""
        self._loop.run(self.iter + n)

    def solve(self) -> None:
        """Train to ``max_iter``, then test and snapshot as Caffe does at the end."""
        self._loop.run(self.param.max_iter)
        param = self.param
        if param.snapshot_after_train and not self._loop.snapshot_is_current:
            self._loop.snapshot()
        if param.test_interval and self.iter % param.test_interval == 0:
            self._loop.validate()

    def test(self, i: int = 0) -> dict[str, Any]:
        """Test net ``i`` over its next ``test_iter`` batches: ``{output: value}``."""
        return self.engine.test(i).means()

    def snapshot(self) -> tuple[str, str]:
        """Write a snapshot now; returns the paths of the model and the state."""
        return self._loop.snapshot()

    def restore(self, state: str | os.PathLike[str]) -> None:
        """Go on from a solver state, Caffe's or cosdask's, with the data position that belongs to it."""
        self.engine.restore(os.fspath(state))

    def close(self) -> None:
        """End the background threads; stepping on starts new ones."""
        self.engine.close()

    def __enter__(self) -> Solver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _share(engine: Engine, test: Test) -> None:
    test.net.params = {key: on_device(value) for key, value in test.weights(engine.state.params).items()}
