"""The parts of JAX's multi-process runtime that need care, in one place.

Two things are not reachable through JAX's public interface: on which address gloo (the CPU collectives) listens, and
that the coordination service should notice a dead process within seconds. They are set here and nowhere else.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
from jax._src.lib import _jax  # type: ignore[attr-defined]  # gloo's host name has no public setting

from cosdask.errors import DeadlineError, GroupError


def join_group(coordinator: str, world: int, process: int, host: str, deadline: float, heartbeat: float = 10.0) -> None:
    """Join the other processes of the group; must come before the first use of JAX's devices.

    Args:
        coordinator: ``host:port`` on which process 0 listens.
        world: number of processes.
        process: this one's number.
        host: the address at which the others reach this process.
        deadline: seconds to wait for the others.
        heartbeat: seconds after which a silent process counts as dead.

    Raises:
        DeadlineError: where not all processes came in time.
        GroupError: where the coordinator cannot be reached or its port is taken.
    """
    _listen_on(host)
    try:
        jax.distributed.initialize(
            coordinator_address=coordinator,
            num_processes=world,
            process_id=process,
            initialization_timeout=max(1, int(deadline)),
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


def leave_group() -> None:
    """Leave the group in step with the others."""
    jax.distributed.shutdown()


def _listen_on(host: str) -> None:
    """Make gloo use ``host``; by default it takes what the machine's own name resolves to, often the wrong one."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    make = _jax.make_gloo_tcp_collectives
    if not isinstance(make, functools.partial):
        _jax.make_gloo_tcp_collectives = functools.partial(_make_gloo, make, host)


def _make_gloo(make: Any, host: str, **keywords: Any) -> Any:
    return make(**{**keywords, "hostname": host})
