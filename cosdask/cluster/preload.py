"""Loaded by each local worker when it starts (Dask's "preload").

Ctrl-C in a terminal goes to every process of the terminal's group. It is meant for the client, which asks the ranks
to write a snapshot; workers that ended by themselves would take the ranks down before that.

GPUs are claimed here, by the worker's own process: one that a nanny starts again finds the share of the one before it
free, and its rank inherits what it sees.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from cosdask.cluster.gpus import Claim, claim_share
from cosdask.parallel.gpu_memory import take_as_needed

#: environment variables by which a cluster tells its workers how GPUs are shared out, and where they are claimed
SHARES, LOCKS = "COSDASK_GPU_SHARES", "COSDASK_GPU_LOCKS"
#: held as long as this process lives
_claims: list[Claim] = []


def dask_setup(worker: Any) -> None:
    """Called by Dask in the worker's main thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    take_as_needed()
    shares = os.environ.get(SHARES, "").split(";")
    if any(shares):
        claim = claim_share(shares, Path(os.environ[LOCKS]))
        _claims.append(claim)
        os.environ["CUDA_VISIBLE_DEVICES"] = shares[claim.number]
