"""How cosdask compiles for the device at hand: one place for compiler options, precision and threads."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

#: XLA's CPU backend sends convolutions to a library that is slower than its own; products stay with the library,
#: which is faster for those. Measured per layer in benchmarks/README.md.
_CPU_OPTIONS: Mapping[str, str] = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}


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
    return jax.jit(
        function,
        donate_argnums=tuple(donate),
        static_argnums=tuple(static),
        compiler_options=compiler_options() or None,
    )


def cpu_count() -> int:
    """Number of CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu_count() -> int:
    """Number of NVIDIA GPUs of this machine that this process may see, found without loading JAX's backends."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    return len(glob.glob("/proc/driver/nvidia/gpus/*"))
