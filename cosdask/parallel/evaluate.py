"""Evaluation without a group: every row once, in ordinary Dask tasks."""

from __future__ import annotations

import functools
import json
import logging
import time
from dataclasses import dataclass
from typing import Any

from distributed import Client

from cosdask.data import Segment, Source, get_source, window
from cosdask.data.skips import LISTED, in_words
from cosdask.device import computing_on_cpu
from cosdask.errors import ConfigError, DataError
from cosdask.nn.layers.hdf5_output import OutputFiles
from cosdask.nn.net import Net
from cosdask.nn.partition import hash_of
from cosdask.parallel.counting import counted
from cosdask.parallel.frame_input import GIVEN, given_source
from cosdask.parallel.gpu_memory import take_as_needed
from cosdask.parallel.group import Member
from cosdask.parallel.plugins import load_plugins
from cosdask.parallel.visible import check_data
from cosdask.parallel.waiting import results_of_work
from cosdask.proto import parse_solver
from cosdask.solver import Evaluator, Totals
from cosdask.solver.nets import test_nets

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """A TEST net with weights and rows, named so that any worker can open it.

    Attributes:
        solver: text of the self-contained solver.
        model: weights file.
        digest: its SHA-256, so that a changed file is noticed.
        spec: JSON of the source's specification, rows counted.
        rows: number of rows.
        batch: rows of a batch.
        plugins: the user's own layers and sources.
        precision: of the net.
    """

    solver: str
    model: str
    digest: str
    spec: str
    rows: int
    batch: int
    plugins: str
    precision: str = "float32"

    def open(self) -> tuple[Net, Source, Evaluator]:
        """On a worker: the net, its source and its evaluator; opened and compiled once a process."""
        return _opened(self)


@functools.lru_cache(maxsize=4)
def _opened(evaluation: Evaluation) -> tuple[Net, Source, Evaluator]:
    take_as_needed()
    load_plugins(evaluation.plugins)
    found = hash_of(evaluation.model)
    if found != evaluation.digest:
        raise DataError(f"{evaluation.model}: has changed since the work began.", path=evaluation.model)
    source = _source_of(json.loads(evaluation.spec))
    net = _test_net(evaluation.solver, evaluation.model, source, evaluation.precision)
    return net, source, Evaluator(net, source)


def _source_of(spec: dict[str, Any]) -> Source:
    source: Source = given_source(spec) if spec["kind"] == GIVEN else Source.from_spec(spec)
    return source


def _test_net(solver: str, model: str, source: Source | None, precision: str) -> Net:
    nets = test_nets(parse_solver(solver), None)
    if not nets:
        raise ConfigError(
            "the solver has no test net: state test_iter (0 is enough where nothing is validated while training)."
        )
    tops = source.tops if source is not None else None
    return nets[0].open(weights=model, seed=0, tops=tops, precision=precision)


def inspect_test(
    solver: str, model: str, spec: dict[str, Any] | None, options: dict[str, Any], plugins: str, precision: str
) -> Evaluation:
    """On a worker: build the net, load the weights, find and count the rows; what is wrong is raised here."""
    take_as_needed()
    load_plugins(plugins)
    given = None if spec is None else _source_of(spec)
    with computing_on_cpu():
        net = _test_net(solver, model, given, precision)
    source = given if given is not None else counted(get_source(net, phase="TEST", options=options))
    text = json.dumps(spec if spec is not None and spec["kind"] == GIVEN else source.spec())
    return Evaluation(solver, model, hash_of(model), text, source.rows, source.batch_size, plugins, precision)


def test(client: Client, evaluation: Evaluation, members: list[Member], silence: float) -> dict[str, Any]:
    """The outputs of the TEST net, averaged over all rows; it takes as long as it takes while its workers live.

    Raises:
        GroupError: a worker that has rows has sent no heartbeat for ``silence`` seconds, or none is left.
        DataError: the data changed meanwhile.
    """
    check_data(client, members, [json.loads(evaluation.spec)])
    world = len(members)
    futures = [
        client.submit(
            evaluate_rows,
            evaluation,
            window(0, evaluation.rows, evaluation.rows, world, rank),
            f"-{rank:05d}-of-{world:05d}" if world > 1 else "",
            key=f"cosdask-test-{rank}-{time.time_ns()}",
            workers=[member.address],
            allow_other_workers=True,
            pure=False,
        )
        for rank, member in enumerate(members)
    ]
    total = functools.reduce(Totals.merge, results_of_work(client, futures, silence))
    if total.rows + total.skips.count != evaluation.rows:
        raise DataError(
            f"{evaluation.rows} rows were counted, {total.rows} were evaluated; did the data change meanwhile?"
        )
    if total.skips.count:
        _LOG.warning("%s", in_words(total.skips.count, total.skips.rows, shown=LISTED))
    return total.means()


def evaluate_rows(evaluation: Evaluation, segments: list[Segment], part: str = "") -> Totals:
    """On a worker: the sums of the outputs over some rows; ``part`` names this worker's files of HDF5Output layers."""
    net, _, evaluator = evaluation.open()
    return evaluator.totals(net.params, segments, OutputFiles(net.layers, part))
