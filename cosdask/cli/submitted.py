"""The driver of a submitted command, in its container: ``python -m cosdask.cli.submitted COMMAND``.

It runs the command as a child, so that a crash of it is an exit code like any other, and passes on what it prints
through the application's key-value store, which needs no port of its own.
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import IO, Any

from cosdask.cluster.names import EXIT, SEEN, output_key
from cosdask.cluster.yarn_compat import skein

#: seconds of output in one part, and parts that are kept
_PACE, _KEPT = 0.5, 2000
#: seconds that somebody who follows has to read the end
_READ = 5.0


def main() -> int:
    """Runs the command, tells its exit code, and ends the application."""
    words = list(sys.argv[1:])
    # in front of the user's own flags, of which the last counts
    words[1:1] = ["--cluster-size", os.environ["COSDASK_WORKERS"]]
    try:
        with started(words) as process:
            application = skein().ApplicationClient.from_current()
            code, last = run(process, _scheduler(application), Relay(application))
    finally:
        _remove_files()
    application.kv[EXIT] = str(code).encode()
    _wait_until_seen(application)
    said = f"cosdask exit code {code}" + (f": {last}" if code else "")
    application.shutdown(status="FAILED" if code else "SUCCEEDED", diagnostics=said)
    return code


def _scheduler(application: Any) -> str:
    ends = time.monotonic() + 60
    while (found := application.kv.get("dask.scheduler")) is None:
        if time.monotonic() > ends:
            raise SystemExit("no Dask scheduler told its address within 60 s")
        time.sleep(0.1)
    return str(found.decode())


#: what the child does: it loads what its command will need while the scheduler starts, whose address it reads then
_PROGRAM = """
import sys
import cosdask.cli.jobs, cosdask.cli.nets, cosdask.parallel.driver
from cosdask.cli.main import main
address = sys.stdin.readline().strip()
sys.exit(main([*sys.argv[1:], "--cluster", address]) if address else 1)
"""


@contextlib.contextmanager
def started(words: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """The child that runs the command; it ends with the block."""
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        try:
            yield process
        finally:
            # it has ended, unless something failed here
            process.kill()


def run(process: subprocess.Popen[str], address: str, relay: Relay) -> tuple[int, str]:
    """The command's exit code and the last line it printed."""
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
        stdin.write(address + "\n")
    with relay:
        last = relay.read(process.stdout)
    code = process.wait()
    # a signal's number is no exit code; shells add 128
    return (code if code >= 0 else 128 - code), last


class Relay:
    """Sends lines to the application's store, a few parts a second at most; old parts are dropped."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._sender = threading.Thread(target=self._send, name="relay", daemon=True)

    def __enter__(self) -> Relay:
        self._sender.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.put(None)
        self._sender.join(30)

    def read(self, stream: IO[str]) -> str:
        """Passes on all lines; returns the last that is not empty. The container's own log has them, too."""
        last = ""
        for line in stream:
            sys.stdout.write(line)
            sys.stdout.flush()
            self._lines.put(line)
            last = line.strip() or last
        return last

    def _send(self) -> None:
        number, ended = 0, False
        while not ended:
            first = self._lines.get()
            time.sleep(_PACE if first is not None else 0.0)
            part = [first]
            with contextlib.suppress(queue.Empty):
                while True:
                    part.append(self._lines.get_nowait())
            ended = None in part
            text = "".join(line for line in part if line is not None)
            if text:
                self._application.kv[output_key(number)] = text.encode()
                if number >= _KEPT:
                    self._application.kv.discard(output_key(number - _KEPT))
                number += 1


def _remove_files() -> None:
    # loaded once the command is done: before, it would only make it wait
    from cosdask.storage import exists, filesystem

    folder = os.environ["COSDASK_FILES"]
    if exists(folder):
        fs, path = filesystem(folder)
        fs.rm(path, recursive=True)


def _wait_until_seen(application: Any) -> None:
    """Gives whoever follows a moment to read the end."""
    ends = time.monotonic() + _READ
    with contextlib.suppress(skein().exceptions.SkeinError):
        while time.monotonic() < ends and application.kv.get(SEEN) is None:
            time.sleep(0.1)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except skein().exceptions.SkeinError as error:
        sys.exit(f"the application's master: {error}")
