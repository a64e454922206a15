"""What a training is told besides its nets: all that another process needs to run the same one."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cosdask.proto import caffe_pb2, read_solver


@dataclass(frozen=True)
class Settings:
    """What a training needs beside the solver's message; all that another process needs to run the same one.

    Attributes:
        path: of the solver file (relative paths in it are looked for there too), or None.
        weights: initial weights: one path, or several separated by commas, later ones winning.
        snapshot: a solver state to go on from; with ``weights``, those are loaded instead of the model it names.
        world: number of ranks over which the rows are planned.
        ranks: the ranks that this process runs.
        seed: replaces the solver's ``random_seed``; -1 draws one.
        threads: decoding threads of each feed; None chooses by the cores.
        global_batch_norm: BatchNorm uses all ranks' batches together.
        global_loss: losses count all ranks' labels together.
        precision: of the nets (:mod:`cosdask.nn.precision`).
        lr_scale: what every learning rate is multiplied with.
        warmup: iterations in which that factor grows evenly from 1 to ``lr_scale``.
        test_at_start: validate before the first iteration; None: as the solver's ``test_initialization`` says.
        groups: the sizes that the group has had, the present one last: from which iteration, how many ranks, rows an
            iteration that each took; empty where it was always the same.
        options: of the sources that the engine opens itself (see :class:`cosdask.data.Source`).
    """

    path: str | None = None
    weights: str | None = None
    snapshot: str | None = None
    world: int = 1
    ranks: tuple[int, ...] = (0,)
    seed: int | None = None
    threads: int | None = None
    lr_scale: float = 1.0
    warmup: int = 0
    test_at_start: bool | None = None
    precision: str = "float32"
    global_batch_norm: bool = False
    global_loss: bool = False
    groups: tuple[tuple[int, int, int], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def weights_files(self) -> list[str]:
        """The paths of ``weights``, in the order in which they are loaded."""
        return [path.strip() for path in (self.weights or "").split(",") if path.strip()]

    def lr_factor(self, iteration: int) -> float:
        """What an iteration's learning rate is multiplied with.

        Example:
            >>> settings = Settings(lr_scale=4.0, warmup=10)
            >>> [settings.lr_factor(iteration) for iteration in (0, 5, 10, 1000)]
            [1.0, 2.5, 4.0, 4.0]
        """
        if iteration >= self.warmup:
            return self.lr_scale
        return 1.0 + (self.lr_scale - 1.0) * iteration / self.warmup


def solver_message(where: str | os.PathLike[str] | caffe_pb2.SolverParameter) -> tuple[Any, str | None]:
    """The solver's message, and its path where it has one."""
    if isinstance(where, caffe_pb2.SolverParameter):
        return where, None
    return read_solver(where), os.fspath(where)


def solver_seed(param: caffe_pb2.SolverParameter, given: int | None) -> int:
    """The seed to use: the one given, the solver's ``random_seed``, or one drawn now."""
    for seed in (given, param.random_seed):
        if seed is not None and seed >= 0:
            return seed
    return secrets.randbelow(2**31)


def settings_share(settings: Settings) -> bool:
    """Whether ranks share anything inside of a step: they are several, and an option says so."""
    return settings.world > 1 and (settings.global_batch_norm or settings.global_loss)
