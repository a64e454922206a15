"""Getting a training ready: data found and counted on the workers."""

from __future__ import annotations

from typing import Any

from cosdask.data import Source, get_source
from cosdask.device import on_cpu
from cosdask.parallel.counting import counted
from cosdask.parallel.gpu_memory import take_as_needed
from cosdask.parallel.locality import places_of
from cosdask.parallel.plugins import load_plugins
from cosdask.proto import parse_solver
from cosdask.solver.nets import test_nets, train_net


def inspect_training(
    solver: str,
    source: dict[str, Any] | None,
    validate: bool,
    weights: str,
    options: dict[str, Any],
    plugins: str,
) -> dict[str, Any]:
    """On a worker, without its GPU: build the nets, load the weights, find and count the rows.

    What is wrong with any of them is raised here, before ranks start and before anything is written.

    Returns:
        ``source`` and ``tests``: specifications; ``rows`` and ``batch``: of the TRAIN source; ``places``: where its
        rows lie.
    """
    take_as_needed()
    load_plugins(plugins)
    param = parse_solver(solver)
    given = None if source is None else Source.from_spec(source)
    with on_cpu():
        net = train_net(param, None).open(seed=0, tops=given.tops if given is not None else None)
        for path in weights.split(","):
            if path:
                net.load(path)
        nets = [named.open(seed=0) for named in test_nets(param, None)] if validate and param.test_iter else []
    train = counted(given if given is not None else get_source(net, phase="TRAIN", options=options))
    tests = [counted(get_source(test, phase="TEST", options=options)).spec() for test in nets]
    found = {"source": train.spec(), "tests": tests, "rows": train.rows, "batch": train.batch_size}
    return {**found, "places": places_of(train)}
