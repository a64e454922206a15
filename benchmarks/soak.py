"""Many random faults in one training: ``make soak``, or ``python -m benchmarks.soak --faults 30 --seed 7``.

Ranks and workers are killed, stopped or told to end at random moments of a long run on three workers; at the end the
weights must be those of the undisturbed run, bit for bit, and no process may be left. The seed is printed first: the
same seed draws the same faults (their moments are the machine's).
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import random
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
from distributed import Client

import cosdask
from benchmarks import inputs
from cosdask.events import Event, Progress, Restarted

WORKERS = 3
#: seconds between two faults: from, to
PAUSE = (0.5, 8.0)
#: faults without progress between them; a run ends after three groups that got nowhere, as it should
FRUITLESS = 2


def say(text: str) -> None:
    """Print a line with the time of day: workers' logs have it too."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def ranks() -> list[psutil.Process]:
    """The rank processes of this process's cluster."""
    found = psutil.Process().children(recursive=True)
    return [process for process in found if process.name().startswith("cosdask-rank-")]


def listening() -> set[int]:
    """The ports on which this process listens."""
    found = psutil.Process().net_connections("inet")
    return {connection.laddr.port for connection in found if connection.status == psutil.CONN_LISTEN}


def left_behind(before: set[int]) -> list[str]:
    """The processes and ports that are still there after the cluster, in words."""
    # those that are just ending have a moment for it
    _, children = psutil.wait_procs(_children(), timeout=10)
    return [*(str(process) for process in children), *(f"port {port}" for port in listening() - before)]


def _children() -> list[psutil.Process]:
    """The processes below this one but for multiprocessing's own helper, which lives as long as this one."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "resource_tracker" not in " ".join(process.cmdline()):
                found.append(process)
    return found


class Faults:
    """Makes faults until there were enough, then lets the run end."""

    def __init__(self, count: int, seed: int, client: Client) -> None:
        self._left, self._random, self._client = count, random.Random(seed), client
        self.made: list[str] = []
        self.restarts: list[str] = []
        self._best, self._fruitless = -1, 0
        self._running = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def handle(self, event: Event) -> None:
        """Faults begin with the first step; restarts are told."""
        if isinstance(event, Progress) and event.iteration > self._best:
            self._best, self._fruitless = event.iteration, 0
            self._running.set()
        if isinstance(event, Restarted):
            self.restarts.append(event.reason.splitlines()[0])
            say(f"  restarted from iteration {event.iteration}: {self.restarts[-1][:150]}")

    def close(self) -> None:
        """The run has ended."""
        self._ended.set()
        self._running.set()
        self._thread.join(60)

    def _work(self) -> None:
        kinds: dict[Callable[[], str], int] = {
            self._kill_rank: 6,
            self._kill_all: 1,
            self._stop_rank: 2,
            self._end_rank: 3,
            self._kill_worker: 2,
        }
        while self._left:
            self._running.wait()
            if self._ended.wait(self._random.uniform(*PAUSE)):
                return
            (kind,) = self._random.choices(list(kinds), list(kinds.values()))
            try:
                told = kind()
            except (psutil.NoSuchProcess, ProcessLookupError, IndexError):
                continue  # it was just ending anyway
            self._left -= 1
            self._fruitless += 1
            if self._fruitless == FRUITLESS:
                self._running.clear()
            self.made.append(told)
            say(f"fault {len(self.made)}: {told}")

    def _rank(self) -> psutil.Process:
        return self._random.choice(sorted(ranks(), key=lambda process: process.name()))

    def _kill_rank(self) -> str:
        process = self._rank()
        name = process.name()
        process.kill()
        return f"kill -9 of {name}"

    def _kill_all(self) -> str:
        found = ranks()
        if not found:
            raise IndexError("no rank lives just now")
        for process in found:
            process.kill()
        return "kill -9 of all ranks"

    def _stop_rank(self) -> str:
        process = self._rank()
        name = process.name()
        process.suspend()
        return f"SIGSTOP of {name}"

    def _end_rank(self) -> str:
        process = self._rank()
        name = process.name()
        process.terminate()
        return f"SIGTERM of {name}"

    def _kill_worker(self) -> str:
        pids = self._client.run(os.getpid)
        pid = pids[self._random.choice(sorted(pids))]
        os.kill(pid, signal.SIGKILL)
        return "kill -9 of a worker"


def train(client: Client, solver: Path, model: Path, consumers: list[Faults]) -> dict[str, list[np.ndarray]]:
    """The weights that a training ends with."""
    config = cosdask.Config(
        conf=str(solver),
        model=str(model),
        progress="none",
        checkpoint_seconds=3,
        rank_silence=10,
        worker_deadline=120,
    )
    found: dict[str, list[np.ndarray]] = cosdask.CaffeOnDask(client, config, consumers=consumers).train().params
    return found


def main() -> int:
    """Run the soak; the exit code is 0 where the weights are right and nothing is left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=30, metavar="N")
    parser.add_argument("--iterations", type=int, default=6000, metavar="N")
    parser.add_argument("--seed", type=int, default=None, metavar="N")
    options = parser.parse_args()
    seed = secrets.randbelow(1 << 31) if options.seed is None else options.seed
    say(f"seed {seed}")
    before = listening()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        solver = inputs.write_inputs("lenet", Path(folder), batch=16, iterations=options.iterations)
        # a rank's end is an error in its worker's log, traceback and all; the restarts say it in a line
        quiet = {"silence_logs": logging.CRITICAL}
        with cosdask.LocalCluster(WORKERS, threads_per_worker=1, **quiet) as cluster, Client(cluster) as client:
            whole = train(client, solver, Path(folder) / "whole.caffemodel", [])
            faults = Faults(options.faults, seed, client)
            found = train(client, solver, Path(folder) / "shaken.caffemodel", [faults])
        parts = [path.name for path in Path(folder).rglob("*.part")]
    same = all((mine == other).all() for name in whole for mine, other in zip(found[name], whole[name], strict=True))
    left = [*left_behind(before), *parts]
    enough = len(faults.made) == options.faults
    few = "" if enough else " (too few: give more iterations)"
    say(
        f"{len(faults.made)} faults{few}, {len(faults.restarts)} restarts in {time.monotonic() - began:.0f} s; weights "
        f"{'bit for bit the undisturbed run' if same else 'DIFFER'}; left behind: {left or 'nothing'}"
    )
    return 0 if same and enough and not left else 1


if __name__ == "__main__":
    sys.exit(main())
