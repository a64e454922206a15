"""How cosdask compiles for the device at hand: one place for compiler options, precision and threads."""

from __future__ import annotations

import contextlib
import functools
import glob
import hashlib
import os
import platform
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax._src.lru_cache import LRUCache

from cosdask.caches import cache_folder, prune

#: XLA's CPU backend sends convolutions to a library that is slower than its own; products stay with the library,
#: which is faster for those. Measured per layer in benchmarks/README.md.
_CPU_OPTIONS: Mapping[str, str] = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}


#: bytes of compiled programs that are kept
_KEPT = 2 << 30
#: seconds of compiling from which on a program is worth keeping
_WORTH_KEEPING = 0.1


@functools.cache
def keep_programs() -> None:
    """Keep compiled programs between processes, so that a second run and a restarted rank begin at once.

    They lie in the user's cache (:func:`cosdask.caches.cache_folder`), apart for each kind of processor, since homes
    are shared between hosts. Where JAX has been told of a place already (``JAX_COMPILATION_CACHE_DIR``), it stays.
    """
    keep_programs_whole()
    if jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        return
    folder = cache_folder("programs") / _processor()
    try:
        # compiled programs are code: nobody else may write there
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return  # a home that cannot be written to: every process compiles for itself
    prune(folder, _KEPT)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _WORTH_KEEPING)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def keep_programs_whole() -> None:
    """Have JAX put a compiled program into its cache at once, under its name only when it is whole.

    JAX writes in place: another process may read half a program, and where a process is killed meanwhile half a program
    stays for good, with a warning and a new compilation in every process that needs it.
    """
    LRUCache.put = _put_whole  # type: ignore[assignment, method-assign]


_put_in_place = LRUCache.put


def _put_whole(cache: LRUCache, key: str, value: bytes) -> None:
    folder = cache.path
    if cache.eviction_enabled or not isinstance(folder, Path):
        _put_in_place(cache, key, value)  # under a lock of its own, or not on this machine
        return
    place = folder / f"{key}-cache"
    if not place.exists():
        beside = folder / f"{key}.{os.getpid()}-{threading.get_ident()}.part"
        beside.write_bytes(value)
        beside.replace(place)


def _processor() -> str:
    """A name for this kind of processor: programs compiled for one may not run on another."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            lines = [line for line in file if line.startswith(("flags", "Features", "model name", "vendor_id"))]
    except OSError:
        lines = [platform.processor()]
    return hashlib.sha256("".join(sorted(set(lines))).encode()).hexdigest()[:16]


def compiler_options() -> dict[str, str]:
    """Compiler options for the default backend; a fixed table, so that the same program gives the same numbers."""
    return dict(_CPU_OPTIONS) if jax.default_backend() == "cpu" else {}


def compile_function(function: Callable[..., Any], donate: Sequence[int] = (), static: Sequence[int] = ()) -> Any:
    """``jax.jit`` with cosdask's compiler options.

    Args:
        function: a pure function of arrays.
        donate: positions of arguments whose buffers may be reused.
        static: positions of arguments that are compile-time constants.
    """
    keep_programs()
    return jax.jit(
        function,
        donate_argnums=tuple(donate),
        static_argnums=tuple(static),
        compiler_options=compiler_options() or None,
    )


def on_device(array: np.ndarray | jax.Array) -> jax.Array:
    """A copy of an array on the device; a value also where a user's ``jax.jit`` is tracing: it outlives the trace.

    ``jax.numpy.asarray`` and ``zeros_like`` compile a program for each shape: six seconds for a net of 64 layers.
    """
    with jax.ensure_compile_time_eval():
        return jax.device_put(array, may_alias=False)


@contextlib.contextmanager
def computing_on_cpu() -> Iterator[None]:
    """Within the block this thread's arrays lie on the CPU, so that looking at a net takes no GPU's memory."""
    cpu: jax.Device | None = None
    # JAX_PLATFORMS may leave no CPU to compute on
    with contextlib.suppress(RuntimeError):
        cpu = jax.local_devices(backend="cpu")[0]
    with jax.default_device(cpu):
        yield


def cpu_count() -> int:
    """Number of CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu_names() -> list[str]:
    """The NVIDIA GPUs of this machine that this process may see, as ``CUDA_VISIBLE_DEVICES`` calls them.

    They are found without loading JAX's backends.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    return [str(number) for number in range(len(glob.glob("/proc/driver/nvidia/gpus/*")))]
