"""Guards what a new group's quick start (invariant 5) needs of JAX beyond its public interface."""

from __future__ import annotations

import inspect
import socket
from types import SimpleNamespace
from typing import Any

import pytest
from jax._src import compiler, distributed

from cosdask.parallel import compat
from cosdask.parallel.link import free_address


@pytest.mark.parametrize(("platform", "seen"), [("cpu", 0), ("cuda", 3)])
def test_every_rank_keeps_its_programs_on_cpus(platform: str, seen: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX writes for process 0 alone, though on CPUs no process finds another's programs."""
    written: list[tuple[int | None, tuple[Any, ...]]] = []
    monkeypatch.setattr(distributed.global_state, "process_id", 3)
    monkeypatch.setattr(
        compiler, "_cache_write", lambda *given: written.append((distributed.global_state.process_id, given))
    )
    compat._keep_programs_of_every_process()
    compat._keep_programs_of_every_process()
    given = ("key", 1.5, "jit_step", SimpleNamespace(platform=platform), "program", [])
    compiler._cache_write(*given)
    assert written == [(seen, given)]
    assert distributed.global_state.process_id == 3


def test_jax_still_writes_its_cache_as_we_expect() -> None:
    """Its parameters, and that it asks for the process: else another JAX would quietly compile at every restart."""
    write = compiler._cache_write
    function = write.args[0] if hasattr(write, "args") else write
    assert list(inspect.signature(function).parameters)[:4] == [
        "cache_key",
        "compile_time_secs",
        "module_name",
        "backend",
    ]
    assert "distributed.global_state.process_id" in inspect.getsource(function)


def test_ranks_wait_for_the_coordinator_to_listen() -> None:
    """As soon as it does they go on; where it never does, the wait ends at its deadline."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        assert compat._wait_for_listener(f"{host}:{port}", 30.0) > 20
    assert compat._wait_for_listener(free_address("127.0.0.1"), 0.05) == 0
