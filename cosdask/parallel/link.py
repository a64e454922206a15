"""On a Dask worker: starting its rank as a child process, passing its events on, and ending it when told.

These functions run on workers: :func:`run_rank` as the one long task of a training, the others through
``client.run``, which answers also while the long task keeps the worker's threads busy.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from contextlib import closing
from typing import IO, Any

from distributed import get_worker

from cosdask import errors
from cosdask.errors import CosdaskError, DeadlineError, GroupError, RankError
from cosdask.parallel import spares
from cosdask.parallel.job import Job
from cosdask.parallel.post import Post
from cosdask.parallel.preemption import leave_in_time
from cosdask.parallel.unhurried import unhurried

#: characters of an error that come to the driver
_MOST_TEXT = 8000
#: seconds without a sign of the driver after which ranks snapshot and end
CLIENT_GONE = 30.0
#: seconds a rank has to end by itself before it is killed
GRACE = 30.0
_LOG_TAIL = 4000
#: seconds after which a run is worth a spare process
SPARE_AFTER = 10.0
#: seconds between two looks at a rank and at when the driver was last heard of
_LOOK = 1.0
#: seconds to wait for an earlier rank on this worker to be gone
_ENDING = 10.0


class LiveRank:
    """A rank's process on this worker.

    Attributes:
        heard: when the driver was last heard of; times are of the monotonic clock.
        sign: when the rank last gave a sign of life.
        moved: when the rank last did a step or another piece of work.
        verdict: why the rank was ended from here, in words; "" where it was not.
        unwanted: whether the driver ended the rank, since another one was lost.
    """

    def __init__(self, job: Job, rank: int, process: subprocess.Popen[str], log: IO[bytes]) -> None:
        self.job, self.rank, self.process, self.log = job, rank, process, log
        self.heard = self.sign = self.moved = time.monotonic()
        self.steps = -1
        #: why the rank was ended from here, in words
        self.verdict = ""
        self.unwanted = False
        self._lock = threading.Lock()
        self._has_job, self._waiting = False, list[str]()

    def begin(self) -> None:
        """Send the rank its job, which must be its first line; commands that came before follow it."""
        # without the lock: a long job waits until the process reads, and commands come on the worker's event loop
        self._write(f"{self.rank} {time.time()} {self.job.to_json()}")
        with self._lock:
            self._has_job = True
            for word in self._waiting:
                self._write(word)

    def command(self, word: str) -> None:
        """Send the rank a command, once it has its job; a rank that has ended needs none."""
        with self._lock:
            if self._has_job:
                self._write(word)
            else:
                self._waiting.append(word)

    def _write(self, line: str) -> None:
        stdin = self.process.stdin
        if self.process.poll() is None and stdin is not None and not stdin.closed:
            try:
                stdin.write(line + "\n")
                stdin.flush()
            except BrokenPipeError:
                return  # it ended in between; run_rank sees that

    def note(self, steps: int) -> None:
        """A sign of life: the rank has done so many pieces of work."""
        self.sign = time.monotonic()
        if steps != self.steps:
            self.steps, self.moved = steps, self.sign

    def end_if_hung(self) -> None:
        """Kill a rank that gives no sign of life, or that does nothing for longer than a step may take."""
        now, job = time.monotonic(), self.job
        if now - self.sign > job.rank_silence:
            self.verdict = f"gave no sign of life for {now - self.sign:.0f} s, so it was ended as hung (--rank-silence)"
        elif now - self.moved > job.step_deadline:
            self.verdict = f"did nothing for {now - self.moved:.0f} s, so it was ended (--step-deadline)"
        if self.verdict:
            self.process.kill()

    def ended(self) -> bool:
        """Whether the rank's process is gone."""
        return self.process.poll() is not None

    def log_tail(self) -> str:
        """The last of what the rank printed."""
        size = self.log.seek(0, os.SEEK_END)
        self.log.seek(max(0, size - _LOG_TAIL))
        return self.log.read().decode(errors="replace").strip()


_live: LiveRank | None = None
_claim = threading.Lock()
_spares = spares.Spares()


def free_address(host: str) -> str:
    """``host:port`` with a port that is free now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        probe.bind((host, 0))
        port = probe.getsockname()[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def live_run() -> tuple[str, str] | None:
    """The run that this worker is training, by its name and in words; None where it is free."""
    live = _live
    if live is None:
        return None
    return live.job.run_id, f"run {live.job.run_id} of {live.job.model}, rank {live.rank}"


def _live_of(run_id: str, generation: int) -> LiveRank | None:
    """This worker's rank in a run's group, where there is one; that of the group before may still be ending here."""
    live = _live
    found = live is not None and (live.job.run_id, live.job.generation) == (run_id, generation)
    return live if found else None


def touch(run_id: str, generation: int) -> bool:
    """The driver is there; returns whether a rank of the run's group lives on this worker."""
    live = _live_of(run_id, generation)
    if live is None:
        return False
    live.heard = time.monotonic()
    return True


def stop_rank(run_id: str, generation: int) -> bool:
    """Ask the group's rank on this worker to snapshot and end, together with the others; False where there is none."""
    return _command(run_id, generation, "stop")


def finish_rank(run_id: str, generation: int) -> bool:
    """Ask the group's rank on this worker to end the training early, as if it were done, together with the others.

    Returns:
        Whether there is such a rank.
    """
    return _command(run_id, generation, "finish")


def _command(run_id: str, generation: int, word: str) -> bool:
    live = _live_of(run_id, generation)
    if live is None:
        return False
    live.command(word)
    return True


def stop_model(model: str) -> bool:
    """Ask this worker's rank of any run of a model to snapshot and end; returns whether there is one."""
    live = _live
    if live is None or live.job.model != model:
        return False
    live.command("stop")
    return True


def kill_rank(run_id: str, generation: int) -> bool:
    """End the group's rank on this worker at once; False where there is none."""
    live = _live_of(run_id, generation)
    if live is None:
        return False
    live.unwanted = True
    live.process.kill()
    return True


def run_rank(job_text: str, rank: int) -> dict[str, Any]:
    """The long task: run one rank to its end and return its result.

    Raises:
        RankError: the rank ended with an error of its own; the message is the rank's.
        GroupError: the rank's process died, or the task came to another worker than it was sent to.
    """
    global _live
    job = Job.from_json(job_text)
    worker = get_worker()
    member = job.members[rank]
    if worker.address != member["address"] or member["folder"] not in ("", worker.local_directory):
        raise GroupError(
            f"rank {rank} was sent to worker {member['worker']} at {member['address']}, which is gone or has no thread "
            f"free; it came to {worker.address}.",
            rank=rank,
            host=member["host"],
        )
    # the rank of the group before may still be ending here
    if not _claim.acquire(timeout=_ENDING):
        live = _live
        other = f"run {live.job.run_id}, pid {live.process.pid}" if live else "another run"
        raise GroupError(
            f"the worker at {worker.address} is training already ({other}); wait for it to end.", rank=rank
        )
    keep_spare = False
    try:
        leave_in_time(worker, lambda: _live)
        live = _live = _begin(job, rank, worker.local_directory)
        with live.log, unhurried(worker):
            result = _follow(live, worker)
        # another group may follow, for which the spare waits
        keep_spare = result["status"] in ("preempted", "unheard")
        return result
    except CosdaskError as error:
        keep_spare = bool(error.where.get("died") or error.where.get("lost_peer"))
        raise
    finally:
        try:
            if keep_spare:
                _spares.wait_for_group()
            else:
                _spares.end()
        finally:
            _live = None
            _claim.release()


def _begin(job: Job, rank: int, folder: str) -> LiveRank:
    """A rank's process, with its job: the spare where there is one.

    Raises:
        GroupError: there is no room for a process or its log now; there may be later.
    """
    try:
        found = _spares.take(job.threads[rank]) or spares.start_logged(job.threads[rank], folder)
    except OSError as error:
        member = job.members[rank]
        raise GroupError(
            f"rank {rank} at {member['host']} (worker {member['worker']}): its process cannot be started: {error}.",
            rank=rank,
            host=member["host"],
            may_pass=errors.may_pass(error),
        ) from error
    return LiveRank(job, rank, *found)


def spare_ahead(threads: dict[str, int], dask_worker: Any = None) -> None:
    """A run is about to begin: a process for this worker's rank loads what it needs meanwhile.

    Args:
        threads: of each worker's rank, by the worker's address.
        dask_worker: this worker; Dask gives it.
    """
    if _live is None:
        _spares.prepare(threads[dask_worker.address], dask_worker.local_directory)
        _spares.wait_for_group()


def end_spare(run_id: str) -> None:
    """The run has ended for good, so no group follows."""
    if _live is None or _live.job.run_id == run_id:
        _spares.end()


def _follow(live: LiveRank, worker: Any) -> dict[str, Any]:
    """Pass the rank's events on until it ends."""
    live.begin()
    watching = threading.Event()
    stepping = 0.0
    watcher = threading.Thread(target=_watch, args=(live, watching), name="rank-watch", daemon=True)
    watcher.start()
    last: dict[str, Any] = {}
    post = Post(lambda message: worker.log_event(live.job.topic, message))
    try:
        assert live.process.stdout is not None
        for line in live.process.stdout:
            if not line.endswith("\n"):
                break  # it was killed while it wrote; what ended it says more than half a line
            message = json.loads(line)
            live.note(message.get("steps", live.steps))
            stepping = stepping or (live.sign if live.steps > 0 else 0.0)
            if stepping and live.sign - stepping > SPARE_AFTER:
                _spares.prepare(live.job.threads[live.rank], worker.local_directory)
            if message["kind"] == "event":
                post.add(message["event"])
            elif message["kind"] != "sign":
                last = message
            else:
                post.tick()
        code = _ended(live)
    finally:
        post.flush()
        watching.set()
        spares.end(live.process)
        watcher.join(timeout=GRACE)
    if last.get("kind") == "result":
        return {**last["result"], "rank": live.rank}
    raise _failure(live, last, code)


def _ended(live: LiveRank) -> int:
    try:
        return live.process.wait(timeout=GRACE)
    except subprocess.TimeoutExpired as error:
        raise DeadlineError(
            f"{_who(live)} closed its output but did not end within {GRACE:.0f} s.", rank=live.rank
        ) from error


def _watch(live: LiveRank, done: threading.Event) -> None:
    """End the rank where it hangs; and, with a snapshot, where the driver has not been heard of for too long."""
    looked = time.monotonic()
    while not done.wait(_LOOK):
        live.end_if_hung()
        # while this worker itself stood still, nobody could be heard
        now = time.monotonic()
        live.heard += max(0.0, now - looked - 2 * _LOOK)
        looked = now
        silent = time.monotonic() - live.heard
        if silent > CLIENT_GONE:
            live.command("leave")
        if silent > CLIENT_GONE + GRACE:
            live.process.kill()


def _who(live: LiveRank) -> str:
    member = live.job.members[live.rank]
    return f"rank {live.rank} at {member['host']} (worker {member['worker']}, pid {live.process.pid})"


def _failure(live: LiveRank, last: dict[str, Any], code: int) -> CosdaskError:
    """The error that ended a rank, with the place where it happened."""
    where = {"rank": live.rank, "host": live.job.members[live.rank]["host"]}
    if last.get("kind") == "error":
        kind = getattr(errors, last["error"], None)
        text = _shortened(f"{_who(live)}: {last['message']}")
        if isinstance(kind, type) and issubclass(kind, CosdaskError):
            return kind(text, **{**last.get("where", {}), **where})
        if _is_lost_peer(last["message"]):
            return GroupError(f"{_who(live)} lost a peer: {last['message'].splitlines()[0]}", lost_peer=True, **where)
        text = f"{_who(live)}: {last['error']}: {last['message']}\n{last.get('traceback', '')}"
        return RankError(_shortened(text), **{**last.get("where", {}), **where})
    cause = f"was ended by signal {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    if live.unwanted and code == -signal.SIGKILL:
        return GroupError(f"{_who(live)} was ended because another was lost.", lost_peer=True, died=True, **where)
    if code == -signal.SIGABRT and _is_lost_peer(live.log_tail()):
        # JAX's coordination service ends a process whose peer has gone
        return GroupError(f"{_who(live)} {cause}: it lost a peer.", lost_peer=True, died=True, **where)
    if live.verdict:
        return GroupError(f"{_who(live)} {live.verdict}, after {live.steps} step(s).", died=True, **where)
    return GroupError(f"{_who(live)} {cause}. Its last output:\n{live.log_tail() or '(none)'}", died=True, **where)


def _shortened(text: str) -> str:
    """Head and tail of a long text: Dask sends errors of more than 10,000 characters as a plain Exception.

    Example:
        >>> _shortened("short"), len(_shortened("long" * 5000))
        ('short', 8021)
    """
    half = _MOST_TEXT // 2
    return text if len(text) <= _MOST_TEXT else f"{text[:half]}\n[... shortened ...]\n{text[-half:]}"


def _is_lost_peer(message: str) -> bool:
    """Whether an error is how the collectives report that another rank has gone."""
    signs = ("gloo", "Gloo", "Connection reset", "Connection closed", "coordination service", "heartbeat",
             "another task died", "NCCL")  # fmt: skip
    return any(sign in message for sign in signs)
