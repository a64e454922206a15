"""What tests of the group share besides fixtures."""

from __future__ import annotations

import os
from typing import Any

import psutil
from problems import Problem

import cosdask


def ranks_alive() -> list[psutil.Process]:
    """The rank processes below this one, spares that wait for a job left out."""
    return [
        process
        for process in psutil.Process(os.getpid()).children(recursive=True)
        if process.status() != psutil.STATUS_ZOMBIE
        and "cosdask.parallel.rank" in " ".join(process.cmdline())
        and process.name() != "cosdask-spare"
    ]


def config(problem: Problem, **options: Any) -> cosdask.Config:
    """A configuration of the problem's solver and model, without a progress bar."""
    given = {"conf": str(problem.solver), "model": problem.model, "progress": "none", "rank_silence": 120, **options}
    return cosdask.Config(**given)
