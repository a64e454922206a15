"""The parts of JAX's multi-process runtime that need care, in one place.

Some things are not reachable through JAX's public interface: on which address gloo (the CPU collectives) listens, and
that processes other than the first keep their compiled programs too. They are set here and nowhere else, and so is that
the coordination service should notice a dead process within seconds. So is the quick way to place a step's arrays.
"""

from __future__ import annotations

import functools
import socket
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax._src import compiler, core, distributed
from jax._src.interpreters import pxla
from jax._src.lib import _jax  # type: ignore[attr-defined]  # gloo's host name has no public setting

from cosdask.errors import DeadlineError, GroupError

#: seconds that one try to reach the coordinator may take, and between two tries
_TRY, _PAUSE = 1.0, 0.01


def join_group(coordinator: str, process: int, hosts: Sequence[str], deadline: float, heartbeat: float = 10.0) -> None:
    """Join the other processes of the group; must come before the first use of JAX's devices.

    Args:
        coordinator: ``host:port`` on which process 0 listens.
        process: this one's number.
        hosts: the address at which the others reach each process.
        deadline: seconds to wait for the others; JAX's own client aborts the process then, so a caller that wants to
            say more keeps a deadline of its own that comes before.
        heartbeat: seconds after which a silent process counts as dead.

    Raises:
        DeadlineError: where not all processes came in time.
        GroupError: where the coordinator cannot be reached or its port is taken.
    """
    world, host = len(hosts), hosts[process]
    _listen_on(host)
    _keep_programs_of_every_process()
    left = deadline if process == 0 else _wait_for_listener(coordinator, deadline)
    try:
        jax.distributed.initialize(
            coordinator_address=coordinator,
            num_processes=world,
            process_id=process,
            initialization_timeout=max(1, int(left)),
            heartbeat_timeout_seconds=max(1, int(heartbeat)),
            shutdown_timeout_seconds=max(1, int(deadline)),
            coordinator_bind_address=coordinator if process == 0 else None,
        )
    except Exception as error:
        text = str(error)
        where = f"rank {process} of {world} at {host}, coordinator {coordinator}"
        if "DEADLINE_EXCEEDED" in text or "timed out" in text.lower():
            raise DeadlineError(
                f"{where}: not all ranks came together within {deadline:.0f} s. Is the coordinator's port reachable "
                "from every worker?",
                rank=process,
                host=host,
            ) from error
        raise GroupError(f"{where}: could not join the group: {text}", rank=process, host=host) from error


def _wait_for_listener(address: str, deadline: float) -> float:
    """Wait until somebody listens, and return the seconds that are left.

    The runtime's own second try would come a second after a first one that failed. Where nobody listens in time,
    joining says so with all that is known.
    """
    host, port = address.rsplit(":", 1)
    until = time.monotonic() + deadline
    while time.monotonic() < until:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_TRY).close()
        except OSError:
            time.sleep(_PAUSE)
        else:
            break
    return max(0.0, until - time.monotonic())


def leave_group() -> None:
    """Leave the group in step with the others."""
    jax.distributed.shutdown()


def place_parts(parts: Sequence[np.ndarray], sharding: jax.sharding.Sharding, devices: Sequence[Any]) -> jax.Array:
    """One array over all devices of all processes, split along its first axis, from this process's parts of it.

    It is what ``jax.make_array_from_process_local_data`` ends with. That one works out anew which part belongs where,
    which takes ten times as long; a step places several arrays, and ranks of one core pay for it with their own time.

    Args:
        parts: one for each device of this process; all processes' parts have the same shape.
        sharding: of the whole array.
        devices: this process's, in the order of the parts.
    """
    kind = jax.dtypes.canonicalize_dtype(parts[0].dtype)
    shape = (len(sharding.device_set) * parts[0].shape[0], *parts[0].shape[1:])
    found = [np.asarray(part, kind) for part in parts]
    placed: jax.Array = pxla.batched_device_put(core.ShapedArray(shape, kind), sharding, found, devices)
    return placed


def _listen_on(host: str) -> None:
    """Make gloo use ``host``; by default it takes what the machine's own name resolves to, often the wrong one."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    make = _jax.make_gloo_tcp_collectives
    if not isinstance(make, functools.partial):
        _jax.make_gloo_tcp_collectives = functools.partial(_make_gloo, make, host)


def _keep_programs_of_every_process() -> None:
    """Have every process of a group on CPUs write the programs it compiles to the cache, not the first alone.

    JAX spares the others the writing, for on most devices all find what the first has written. On CPUs a process's
    programs have keys of its own, so without this all ranks but the first would compile anew after every restart.
    """
    write = compiler._cache_write
    if isinstance(write, functools.partial):
        return  # done before

    compiler._cache_write = functools.partial(_write_as_first, write)


def _write_as_first(write: Any, key: str, seconds: float, name: str, backend: Any, *others: Any) -> None:
    state = distributed.global_state
    mine = state.process_id
    try:
        if backend.platform == "cpu":
            state.process_id = 0
        write(key, seconds, name, backend, *others)
    finally:
        state.process_id = mine


def _make_gloo(make: Any, host: str, **keywords: Any) -> Any:
    return make(**{**keywords, "hostname": host})
