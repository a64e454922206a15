"""Ctrl-C in a terminal: it reaches every process of the group, and still the ranks write their snapshot."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from problems import Problem

from cosdask.storage import RunFolder

MAIN = "import sys; from cosdask.cli.main import main; sys.exit(main())"


@pytest.mark.skipif(sys.platform == "win32", reason="signals to process groups")
def test_ctrl_c_in_a_terminal_leaves_a_snapshot(problem: Callable[..., Problem]) -> None:
    """The command ends within seconds with exit code 130 and names the snapshot."""
    made = problem(settings="max_iter: 1000000 display: 1")
    command = [sys.executable, "-c", MAIN, "train", "-conf", str(made.solver), "-model", made.model]
    process = subprocess.Popen(
        [*command, "--cluster", "local[2]", "--progress", "lines"],
        start_new_session=True,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "Iteration 2, loss" in line:
            os.killpg(process.pid, signal.SIGINT)
            asked = time.monotonic()
            break
    else:
        pytest.fail("".join(lines))
    rest = process.stderr.read()
    assert process.wait(60) == 130, rest
    assert time.monotonic() - asked < 60
    assert "go on from it with --resume" in rest
    (snapshot,) = RunFolder(made.folder / "out" / "small.run").read_snapshots()
    assert snapshot["iteration"] > 0
