"""The child process of a Dask worker that is one rank of a group.

It reads its job as the first line of standard input and commands after that, writes events and its result to standard
output as JSON lines, and ends when its parent does. Whatever else prints goes to standard error.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import IO, TYPE_CHECKING, Any

import pandas as pd

from cosdask.errors import ConfigError, CosdaskError, StorageError
from cosdask.events import Event, RunEnded, RunStarted, Snapshot, Validation
from cosdask.parallel.job import Job

if TYPE_CHECKING:
    from cosdask.parallel.engine import GroupEngine, LoneEngine

_PARENT_DIED = 1  # PR_SET_PDEATHSIG


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
    job = Job.from_json(sys.stdin.readline())
    rank = int(sys.argv[1])
    try:
        result = _train(job, rank, outlet)
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


def _described(error: BaseException) -> dict[str, Any]:
    if isinstance(error, CosdaskError):
        where = {key: value for key, value in error.where.items() if isinstance(value, str | int | float)}
        return {"error": type(error).__name__, "message": error.message, "where": where}
    text = "".join(traceback.format_exception(error))
    return {"error": type(error).__name__, "message": str(error) or type(error).__name__, "traceback": text}


def _train(job: Job, rank: int, outlet: Outlet) -> dict[str, Any]:
    # JAX comes in here, after the environment (threads, visible devices) is what the parent made it
    import jax

    from cosdask.parallel import compat

    host = job.members[rank]["host"]
    # on CPUs devices are a number that is chosen; GPUs are as many as there are
    jax.config.update("jax_num_cpu_devices", job.devices)
    if job.world > 1:
        compat.join_group(job.coordinator, job.world, rank, host, job.deadline)
    trainer = Trainer(job, rank, outlet)
    _listen(trainer.engine.ask_to_stop)
    result = trainer.run()
    trainer.engine.close()
    if job.world > 1:
        compat.leave_group()
    result["devices"] = [str(device) for device in jax.local_devices()]
    return result


def _listen(stop: Callable[[], None]) -> None:
    """Obey the parent's commands; a closed pipe means that the parent is gone."""
    signal.signal(signal.SIGTERM, lambda number, frame: stop())

    def read() -> None:
        for line in sys.stdin:
            if line.strip() == "stop":
                stop()
        os._exit(3)

    threading.Thread(target=read, name="commands", daemon=True).start()


def devices_by_rank(found: Sequence[Any], world: int, each: int) -> list[Any]:
    """The devices that take part, in rank order, ``each`` of every rank.

    Raises:
        ConfigError: a rank has fewer.
    """
    chosen: list[Any] = []
    for rank in range(world):
        mine = sorted((device for device in found if device.process_index == rank), key=lambda device: device.id)
        if len(mine) < each:
            raise ConfigError(f"-devices {each}: rank {rank} has {len(mine)} device(s) ({mine}).", rank=rank)
        chosen.extend(mine[:each])
    return chosen


class Trainer:
    """Builds a rank's engine from its job, runs it, and tells what happens."""

    def __init__(self, job: Job, rank: int, outlet: Outlet) -> None:
        import jax
        import numpy as np
        from jax.sharding import Mesh

        from cosdask.data import Source
        from cosdask.parallel.engine import AXIS, GroupEngine, LoneEngine
        from cosdask.parallel.plugins import load_plugins
        from cosdask.proto import parse_solver
        from cosdask.solver import Loop, Pace, Settings
        from cosdask.storage import RunFolder, run_folder_for

        load_plugins(job.plugins)
        self.job, self.rank, self._outlet = job, rank, outlet
        self._began = time.time()
        param = parse_solver(job.solver)
        devices = devices_by_rank(jax.devices(), job.world, job.devices)
        per_process = job.devices
        settings = Settings(
            weights=job.weights or None,
            snapshot=job.snapshot or None,
            world=len(devices),
            ranks=tuple(range(rank * per_process, (rank + 1) * per_process)),
            seed=job.seed,
            threads=max(1, job.threads[rank]),
            # CaffeOnSpark never tests before the first iteration; a solver that asks for it in so many words gets it
            test_at_start=param.HasField("test_initialization") and param.test_initialization,
        )
        source = Source.from_spec(job.source)
        tests = [Source.from_spec(spec) for spec in job.test_sources]
        self.engine: LoneEngine | GroupEngine
        if len(devices) == 1:
            self.engine = LoneEngine(param, settings, source, tests)
        else:
            self.engine = GroupEngine(Mesh(np.array(devices), (AXIS,)), rank, param, settings, source, tests)
        self._folder = RunFolder(run_folder_for(job.model)) if rank == 0 else None
        self._validations = self._earlier_validations()
        # the other ranks report less often: their progress only shows that they live
        self.loop = Loop(self.engine, self.emit, Pace(job.pace if rank == 0 else 4 * job.pace), rank)

    def run(self) -> dict[str, Any]:
        """Train to the end, or to where the group is asked to stop; the result goes to the driver."""
        engine, job = self.engine, self.job
        if self.rank == 0:
            self.emit(self._started())
        done = self.loop.run(engine.param.max_iter)
        if done and job.validate and engine.tests:
            self.loop.validate()
        if not self.loop.snapshot_is_current and (engine.param.snapshot_after_train or not done):
            self.loop.snapshot()
        if done and self.rank == 0:
            engine.sync_net().save(job.model)
        status = "done" if done else "stopped"
        if self.rank == 0:
            self.emit(RunEnded(iteration=engine.iteration, status=status, seconds=time.time() - self._began))
        if self._folder:
            self._folder.close()
        return {"iteration": engine.iteration, "status": status, "host": socket.gethostname(), "pid": os.getpid()}

    def _started(self) -> RunStarted:
        engine, job = self.engine, self.job
        param, batch = engine.param, engine.source.batch_size
        effective = batch * param.iter_size * engine.settings.world
        left = max(0, param.max_iter - engine.iteration)
        return RunStarted(
            workers=job.world,
            devices_per_worker=job.devices,
            batch_per_device=batch,
            effective_batch=effective,
            max_iter=param.max_iter,
            rows=engine.source.rows,
            epochs=left * effective / engine.source.rows,
            base_lr=param.base_lr,
            seed=job.seed,
            ranks=[
                {"rank": i, "threads": job.threads[i], **{k: member[k] for k in ("host", "worker")}}
                for i, member in enumerate(job.members)
            ],
            start_iteration=engine.iteration,
            model=job.model,
            net=engine.net.name,
            lr_policy=param.lr_policy,
            display=param.display,
        )

    def emit(self, event: Event) -> None:
        """Tell an event: rank 0 everything, to the driver and the run folder; the others only their progress."""
        if self.rank != 0 and event.kind != "progress":
            return
        record = event.to_dict()
        if self._folder is not None:
            # kept before it is told: whoever hears of a snapshot may count on it
            self._folder.append_event(record)
            if isinstance(event, Validation):
                self._keep_validation(event)
            if isinstance(event, Snapshot):
                self._keep_snapshot(event)
        self._outlet.send(kind="event", event=record)

    def _earlier_validations(self) -> list[dict[str, Any]]:
        """What the run found before the snapshot that this group starts from."""
        if self._folder is None or not self.engine.iteration:
            return []
        try:
            found = self._folder.read_validation()
        except StorageError:
            return []  # none before the snapshot
        return [row for row in found.to_dict("records") if row["iteration"] < self.engine.iteration]

    def _keep_validation(self, event: Validation) -> None:
        assert self._folder is not None
        if event.net == 0:
            self._validations.append({"iteration": event.iteration, **event.outputs})
            self._folder.write_validation(pd.DataFrame(self._validations))

    def _keep_snapshot(self, event: Snapshot) -> None:
        from cosdask.parallel.snapshots import describe_file

        assert self._folder is not None
        files = {"model": describe_file(event.model), "state": describe_file(event.state)}
        self._folder.add_snapshot(
            event.model,
            event.state,
            event.iteration,
            sizes={name: size for name, (size, _) in files.items()},
            hashes={name: digest for name, (_, digest) in files.items()},
        )


if __name__ == "__main__":
    main()
