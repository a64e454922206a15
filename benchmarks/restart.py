"""How long a death costs: from kill -9 of a rank, or of a whole worker, to the next training step.

``python -m benchmarks.restart`` trains LeNet on a local cluster of two workers and prints a line a kill.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
from distributed import Client

import cosdask
from benchmarks import inputs
from cosdask.events import Event, Progress, Restarted

#: seconds of undisturbed training before each kill: long enough for the spare processes to be there
BEFORE = 16.0


class Stopwatch:
    """Kills when the training has run a while, and takes the times of what follows."""

    def __init__(self, kill: Callable[[], None]) -> None:
        self._kill, self._began = kill, 0.0
        self.killed = self.noticed = self.stepped = 0.0

    def handle(self, event: Event) -> None:
        """Look at the clock."""
        now = time.time()
        if isinstance(event, Progress) and event.rank == 0:
            self._began = self._began or now
            if not self.killed and now - self._began > BEFORE:
                self.killed = time.time()
                self._kill()
            elif self.noticed and not self.stepped:
                self.stepped = now
                raise cosdask.StopTraining
        if isinstance(event, Restarted):
            self.noticed = now

    def close(self) -> None:
        """Nothing to end."""


def kill_a_rank() -> None:
    """End rank 1 without warning."""
    for process in psutil.Process().children(recursive=True):
        if process.name() == "cosdask-rank-1":
            process.kill()


def main() -> None:
    """Measure, and print a line a kill."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=3, metavar="N")
    repetitions = parser.parse_args().repetitions
    with (
        tempfile.TemporaryDirectory() as folder,
        cosdask.LocalCluster(n_workers=2, threads_per_worker=1) as cluster,
        Client(cluster) as client,
    ):
        solver = inputs.write_inputs("lenet", Path(folder), batch=64, iterations=10_000_000)
        pids = client.run(os.getpid)
        for name in ["rank"] * repetitions + ["worker"]:
            worker = pids[sorted(pids)[1]]
            watch = Stopwatch(kill_a_rank if name == "rank" else partial(os.kill, worker, signal.SIGKILL))
            model = f"{folder}/lenet.caffemodel"
            config = cosdask.Config(conf=str(solver), model=model, overwrite=True, progress="none")
            cosdask.CaffeOnDask(client, config, consumers=[watch]).train()
            print(
                f"kill -9 of a {name}: new group told after {watch.noticed - watch.killed:.2f} s, "
                f"next step shown after {watch.stepped - watch.killed:.2f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
