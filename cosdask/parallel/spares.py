"""A process for a rank, started ahead, its imports done, so that a group begins sooner.

Importing JAX and the rest takes a rank longer than all that follows. For the first group it happens while nets and rows
are looked at; for the next one, after a death, beside the rank that lives. There a spare is worth its memory (some
200 MB) only to a run that has lasted a while, so none is started before.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any

from cosdask.parallel.gpu_memory import without_own

#: glibc's setting for large pages; other C libraries do not look at it
_HUGE_PAGES = "glibc.malloc.hugetlb"
#: seconds that a process has to be gone after it was killed
GRACE = 30.0
#: seconds that a spare waits for a group; counting rows may take longer, and then ranks start anew
UNWANTED = 180.0
#: what keeps a spare from starting, or from ending
_NO_SPARE = (OSError, subprocess.SubprocessError)
Environment = dict[str, str]
Process = subprocess.Popen[str]


def environment(threads: int) -> Environment:
    """The environment of a rank's process."""
    number = str(threads)
    found = {**without_own(dict(os.environ)), "NPROC": number, "OMP_NUM_THREADS": number, "PYTHONUNBUFFERED": "1"}
    # Dask's nannies make malloc give memory back at once; a step would fetch its buffers anew every time
    found.pop("MALLOC_TRIM_THRESHOLD_", None)
    # a step's buffers come fresh from the system each time; in pages of 2 MB they cost a fraction of what 4 KB ones do
    tunables = [setting for setting in found.get("GLIBC_TUNABLES", "").split(":") if setting]
    if not any(setting.startswith(_HUGE_PAGES) for setting in tunables):
        found["GLIBC_TUNABLES"] = ":".join([*tunables, f"{_HUGE_PAGES}=1"])
    found["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    return found


def start(threads: int, log: IO[bytes]) -> Process:
    """Start a rank's process from this thread: it dies with the thread that started it."""
    return subprocess.Popen(
        [sys.executable, "-m", "cosdask.parallel.rank"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env=environment(threads),
        text=True,
    )


class Spares:
    """At most one spare on this worker; to be called from any thread.

    Attributes:
        unwanted: seconds after which a spare ends that waits for a group: its client may have died before it took it.
    """

    def __init__(self) -> None:
        self.unwanted = UNWANTED
        # one thread that lives as long as the worker: a rank dies with the thread that started it
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="spare-rank")
        self._spare: tuple[int, Future[tuple[Process, IO[bytes]]]] | None = None
        self._timer = threading.Timer(0, lambda: None)
        self._lock = threading.Lock()

    def prepare(self, threads: int, folder: str) -> None:
        """Start a spare for a rank of so many threads, where there is none; a rank lives beside it, which ends it."""
        with self._lock:
            if self._spare is None:
                self._spare = threads, self._starter.submit(start_logged, threads, folder)

    def wait_for_group(self) -> None:
        """No rank lives beside the spare: from now on it waits so long for one to take it, and then ends."""
        with self._lock:
            self._timer.cancel()
            if self._spare is not None:
                _, future = self._spare
                self._timer = threading.Timer(self.unwanted, self._end_unwanted, (future,))
                self._timer.daemon = True
                self._timer.start()

    def take(self, threads: int) -> tuple[Process, IO[bytes]] | None:
        """The spare, where it has so many threads and lives; the caller ends it and closes its log."""
        with self._lock:
            found = self._let_go()
            if found is None:
                return None
            has, future = found
            try:
                process, log = future.result()
            except _NO_SPARE:
                return None  # there was no room for one then; there may be now, for the rank itself
            if has == threads and process.poll() is None:
                return process, log
            with contextlib.suppress(*_NO_SPARE):
                _close(process, log)
            return None

    def end(self) -> None:
        """End the spare."""
        with self._lock:
            self._end()

    def _end_unwanted(self, future: Future[tuple[Process, IO[bytes]]]) -> None:
        with self._lock:
            # it may have been taken, or have given way to another, just now
            if self._spare is not None and self._spare[1] is future:
                self._end()

    def _end(self) -> None:
        found = self._let_go()
        if found is not None:
            with contextlib.suppress(*_NO_SPARE):
                _close(*found[1].result())

    def _let_go(self) -> tuple[int, Future[tuple[Process, IO[bytes]]]] | None:
        self._timer.cancel()
        found, self._spare = self._spare, None
        return found


def start_logged(threads: int, folder: str) -> tuple[Process, IO[bytes]]:
    """A rank's process, and the file in a folder that it prints to; the caller ends the one and closes the other."""
    log: Any = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # closed with the process
    try:
        return start(threads, log), log
    except BaseException:
        log.close()
        raise


def end(process: Process) -> None:
    """Kill a rank's process, wait until it is gone, and close its pipes."""
    process.kill()
    process.wait(timeout=GRACE)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _close(process: Process, log: IO[bytes]) -> None:
    end(process)
    log.close()
