"""How long a death costs: from kill -9 of a rank, or of a whole worker, to the next training step.

``python -m benchmarks.restart`` trains LeNet on a local cluster of two workers and prints a line a kill.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import threading
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
#: seconds between two looks at what the client has heard, and how long they go on
LOOK, LOOKING = 0.005, 60.0


class Stopwatch:
    """Kills when the training has run a while, and takes the times of what follows."""

    def __init__(self, client: Client, victim: Callable[[], int]) -> None:
        self._client, self._victim, self._began = client, victim, 0.0
        #: when the client heard that a rank's task has failed, and when it told of the new group
        self.heard = self.told = 0.0
        self.killed = self.stepped = 0.0

    def handle(self, event: Event) -> None:
        """Look at the clock."""
        now = time.time()
        if isinstance(event, Progress) and event.rank == 0:
            self._began = self._began or now
            if not self.killed and now - self._began > BEFORE:
                pid = self._victim()  # looking for it costs as much as hearing of its death
                self.killed = time.time()
                os.kill(pid, signal.SIGKILL)
                threading.Thread(target=self._listen, name="listen", daemon=True).start()
            elif self.told and not self.stepped:
                self.stepped = now
                raise cosdask.StopTraining
        if isinstance(event, Restarted):
            self.told = now

    def _listen(self) -> None:
        while not self.heard and time.time() - self.killed < LOOKING:
            time.sleep(LOOK)
            if any(state.status == "error" for state in list(self._client.futures.values())):
                self.heard = time.time()

    def close(self) -> None:
        """Nothing to end."""


def rank_1() -> int:
    """The pid of a rank that is not the first."""
    (found,) = (p.pid for p in psutil.Process().children(recursive=True) if p.name() == "cosdask-rank-1")
    return found


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
            watch = Stopwatch(client, rank_1 if name == "rank" else partial(pids.__getitem__, sorted(pids)[1]))
            model = f"{folder}/lenet.caffemodel"
            config = cosdask.Config(conf=str(solver), model=model, overwrite=True, progress="none")
            cosdask.CaffeOnDask(client, config, consumers=[watch]).train()
            print(
                f"kill -9 of a {name}: the client heard after {watch.heard - watch.killed:.2f} s, "
                f"told of a new group after {watch.told - watch.killed:.2f} s, "
                f"next step shown after {watch.stepped - watch.killed:.2f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
