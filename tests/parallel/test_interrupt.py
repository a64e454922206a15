"""Ctrl-C in a terminal, SIGTERM of a batch system: where they reach every process, too, the ranks leave a snapshot."""

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

# A shell's background jobs, which tests may run in, ignore Ctrl-C and hand that on; a terminal's do not.
MAIN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from cosdask.cli.main import main
sys.exit(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals to process groups")
@pytest.mark.parametrize(
    ("send", "number", "code"),
    [
        pytest.param(os.killpg, signal.SIGINT, 130, id="Ctrl-C"),
        pytest.param(os.killpg, signal.SIGTERM, 143, id="SIGTERM to all"),
        pytest.param(os.kill, signal.SIGTERM, 143, id="SIGTERM", marks=pytest.mark.long),
    ],
)
def test_a_command_that_is_to_end_leaves_a_snapshot(
    problem: Callable[..., Problem], send: Callable[[int, int], None], number: int, code: int
) -> None:
    """The command ends within seconds with its exit code and names the snapshot."""
    made = problem(settings="max_iter: 1000000 display: 1")
    command = [sys.executable, "-c", MAIN, "train", "-conf", str(made.solver), "-model", made.model]
    with subprocess.Popen(
        [*command, "--cluster", "local[2]", "--progress", "lines"],
        start_new_session=True,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as process:
        before = _read_until(process, "Iteration 2, loss")
        send(process.pid, number)
        asked = time.monotonic()
        assert process.stderr is not None
        rest = process.stderr.read()
        assert process.wait(60) == code, before + rest
    assert time.monotonic() - asked < 60
    assert "go on from it with --resume" in rest
    folder = RunFolder(made.folder / "out" / "small.run")
    (snapshot,) = folder.read_snapshots()
    assert snapshot["iteration"] > 0
    assert [event["status"] for event in folder.read_events() if event["kind"] == "run_ended"] == ["stopped"]


def _read_until(process: subprocess.Popen[str], words: str) -> str:
    assert process.stderr is not None
    text = ""
    # the test's own time limit bounds this
    for line in process.stderr:
        text += line
        if words in line:
            return text
    pytest.fail(text)
