"""Getting a training ready: data found and counted on the workers."""

from __future__ import annotations

from typing import Any

from cosdask.data import Source, get_source
from cosdask.device import computing_on_cpu
from cosdask.parallel.counting import counted
from cosdask.parallel.gpu_memory import take_as_needed
from cosdask.parallel.locality import places_of
from cosdask.parallel.plugins import load_plugins
from cosdask.proto import initial_weights, parse_solver
from cosdask.solver import read_state
from cosdask.solver.nets import test_nets, train_net
from cosdask.solver.snapshots import model_of
from cosdask.storage import absolute


def inspect_training(
    solver: str,
    source: dict[str, Any] | None,
    validate: bool,
    weights: str,
    snapshot: str,
    options: dict[str, Any],
    plugins: str,
) -> dict[str, Any]:
    """On a worker, without its GPU: build the nets, load the weights, find and count the rows.

    What is wrong with any of them is raised here, before ranks start and before anything is written.

    Args:
        solver: text of the self-contained solver.
        source: specification of the rows to train on; None for those that the net names.
        validate: whether test nets are needed.
        weights: files to begin from, separated by commas; "" for those that the snapshot or the solver names.
        snapshot: solver state to begin from, or "".
        options: of the sources.
        plugins: the user's own layers and sources.

    Returns:
        ``source`` and ``tests``: specifications; ``rows`` and ``batch``: of the TRAIN source; ``places``: where its
        rows lie; ``begins``: the files that the training begins from.
    """
    take_as_needed()
    load_plugins(plugins)
    param = parse_solver(solver)
    given = None if source is None else Source.from_spec(source)
    with computing_on_cpu():
        net = train_net(param, None).open(seed=0, tops=given.tops if given is not None else None)
        files = [path for path in weights.split(",") if path]
        if not files:
            files = [model_of(read_state(snapshot), snapshot)] if snapshot else initial_weights(param, None)
        for path in files:
            net.load(path)
        nets = [named.open(seed=0) for named in test_nets(param, None)] if validate and param.test_iter else []
    train = counted(given if given is not None else get_source(net, phase="TRAIN", options=options))
    tests = [counted(get_source(test, phase="TEST", options=options)).spec() for test in nets]
    found = {"source": train.spec(), "tests": tests, "rows": train.rows, "batch": train.batch_size}
    begins = [absolute(path) for path in (snapshot, *files) if path]
    return {**found, "places": places_of(train), "begins": begins}
