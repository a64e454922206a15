"""The child process of a Dask worker that is one rank of a group.

It reads its rank and its job as the first line of standard input and commands after that, writes events and its result
to standard output as JSON lines, and ends when its parent does. Whatever else prints goes to standard error.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import json
import os
import signal
import sys
import threading
import time
import traceback
from typing import IO, TYPE_CHECKING, Any

from cosdask.errors import CosdaskError, may_pass
from cosdask.parallel.job import Job

if TYPE_CHECKING:
    from cosdask.parallel.trainer import Trainer

_PARENT_DIED = 1  # PR_SET_PDEATHSIG
_SET_NAME = 15  # PR_SET_NAME
#: seconds between two signs of life
_SIGN = 1.0


class Outlet:
    """Where a rank's messages go: one JSON line each, from any thread."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream, self._lock = stream, threading.Lock()

    def send(self, **message: Any) -> None:
        """Send a message."""
        line = json.dumps(message)
        with self._lock:
            self._stream.write(line + "\n")
            self._stream.flush()


def main() -> None:
    """Run one rank; the exit code is 0 where it ended as it should."""
    outlet = Outlet(_take_standard_output())
    _end_with_parent()
    # Ctrl-C in a terminal reaches every process; the driver decides what it means
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    _call_it("cosdask-spare")
    signs = Signs(outlet)
    # before the job is there: a spare waits with all imports done. What they load stays: looking for garbage in it,
    # again and again, takes a tenth of the time
    gc.disable()
    from cosdask.parallel import trainer  # noqa: F401

    gc.freeze()
    gc.enable()
    imported = time.time()
    signs.quiet = True
    line = sys.stdin.readline()
    if not line:
        return  # nobody needs this spare any more
    number, sent, text = line.split(" ", 2)
    rank = int(number)
    _call_it(f"cosdask-rank-{rank}")
    signs.quiet = False
    job = Job.from_json(text)
    # a process that was started ahead has them behind it
    starting = {"imports": max(0.0, imported - float(sent))}
    try:
        result = _train(job, rank, outlet, signs, starting)
    except BaseException as error:
        outlet.send(kind="error", **_described(error))
        # the others may be gone: leaving the group in step with them could wait for ever
        os._exit(1)
    outlet.send(kind="result", result=result)
    os._exit(0)


def _take_standard_output() -> IO[str]:
    """Keep standard output for messages; prints of libraries go to standard error instead."""
    messages = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return messages


def _end_with_parent() -> None:
    """Die with the thread that started this process (Linux); elsewhere the closed pipe does it."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PARENT_DIED, signal.SIGKILL)


def _call_it(name: str) -> None:
    """The process's name in lists of processes (Linux: 15 characters)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_SET_NAME, name.encode()[:15], 0, 0, 0)


def _described(error: BaseException) -> dict[str, Any]:
    where = {"may_pass": True} if may_pass(error) else {}
    if isinstance(error, CosdaskError):
        own = {key: value for key, value in error.where.items() if isinstance(value, str | int | float)}
        return {"error": type(error).__name__, "message": error.message, "where": {**own, **where}}
    return {
        "error": type(error).__name__,
        "message": str(error) or type(error).__name__,
        "traceback": "".join(traceback.format_exception(error)),
        "where": where,
    }


class Signs:
    """Tells the parent, each second, that this process lives and how much work it has done."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet
        #: nobody reads what a spare says, and a pipe holds only so much
        self.quiet = False
        self._trainer: Trainer | None = None
        threading.Thread(target=self._send, name="signs", daemon=True).start()

    def of(self, trainer: Trainer) -> None:
        """From now on, count this trainer's work."""
        self._trainer = trainer

    def _send(self) -> None:
        pause = threading.Event()
        while not pause.wait(_SIGN):
            if self.quiet:
                continue
            self._outlet.send(kind="sign", steps=self._trainer.engine.work if self._trainer else -1)


def _train(job: Job, rank: int, outlet: Outlet, signs: Signs, starting: dict[str, float]) -> dict[str, Any]:
    # JAX comes in here, after the environment (threads, visible devices) is what the parent made it
    import jax

    from cosdask.parallel import compat
    from cosdask.parallel.trainer import Trainer

    host = job.members[rank]["host"]
    if job.interface:
        from cosdask.parallel.network import interface_of

        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={interface_of(host)}")
    # on CPUs devices are a number that is chosen; GPUs are as many as there are
    jax.config.update("jax_num_cpu_devices", job.devices)
    began = time.time()
    if job.world > 1:
        late = threading.Timer(job.deadline, _end_alone, (outlet, job, rank))
        late.daemon = True
        late.start()
        compat.join_group(job.coordinator, rank, job.hosts, 2 * job.deadline, 2 * job.rank_silence)
        late.cancel()
    starting["group"] = time.time() - began
    trainer = Trainer(job, rank, lambda record: outlet.send(kind="event", event=record), starting)
    signs.of(trainer)
    _listen(trainer)
    result = trainer.run()
    # rank 0 may still be writing the model
    trainer.engine.meet()
    trainer.close()
    if job.world > 1:
        compat.leave_group()
    result["devices"] = [str(device) for device in jax.local_devices()]
    return result


def _end_alone(outlet: Outlet, job: Job, rank: int) -> None:
    """The others did not come in time: say so and end. JAX would abort this process without a word that helps."""
    outlet.send(
        kind="error",
        error="DeadlineError",
        message=f"not all {job.world} ranks came together at {job.coordinator} within {job.deadline:.0f} s.",
        where={"rendezvous": True, "died": True},
    )
    os._exit(1)


def _listen(trainer: Trainer) -> None:
    """Obey the parent's commands; a closed pipe means that the parent is gone, SIGTERM that the place is needed."""
    from cosdask.parallel.engine import Stop

    signal.signal(signal.SIGTERM, lambda number, frame: trainer.engine.ask_to_stop(Stop.PREEMPT))

    wishes = {"stop": Stop.SNAPSHOT, "finish": Stop.FINISH, "preempt": Stop.PREEMPT, "leave": Stop.LEAVE}

    def read() -> None:
        for line in sys.stdin:
            wish = wishes.get(line.strip())
            if wish is not None:
                trainer.engine.ask_to_stop(wish)
        os._exit(3)

    threading.Thread(target=read, name="commands", daemon=True).start()


if __name__ == "__main__":
    main()
