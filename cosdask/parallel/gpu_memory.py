"""How a GPU's memory is divided between a Dask worker's own tasks and its rank, a process of its own.

Left to itself JAX takes three quarters of a GPU when a process first uses it, and keeps them as long as the process
lives. That suits a rank, which ends with its training. A worker lives on: had a test or features taken that much, ranks
would be left with the rest.
"""

from __future__ import annotations

import os

_PREALLOCATE = "XLA_PYTHON_CLIENT_PREALLOCATE"
#: says that the setting is meant for this process, a worker, and not for the processes that it starts
_OWN = "COSDASK_OWN_PREALLOCATE"


def take_as_needed() -> None:
    """In this process JAX shall take a GPU's memory piece by piece; to be called before JAX first uses the GPU.

    What the user has set stays as it is.
    """
    if _PREALLOCATE not in os.environ:
        os.environ.update({_PREALLOCATE: "false", _OWN: "1"})


def without_own(environment: dict[str, str]) -> dict[str, str]:
    """An environment for another process, without what :func:`take_as_needed` has set for this one."""
    dropped = (_PREALLOCATE, _OWN) if _OWN in environment else ()
    return {name: value for name, value in environment.items() if name not in dropped}
