"""A rank's training, from its job to its result."""

from __future__ import annotations

import dataclasses
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cosdask.data import Source
from cosdask.errors import ConfigError, StorageError
from cosdask.events import Event, Progress, RunEnded, RunStarted, Snapshot, Validation, Warned
from cosdask.parallel.checkpoints import Checkpoints
from cosdask.parallel.engine import GroupEngine, LoneEngine, Stop
from cosdask.parallel.exchange import AXIS
from cosdask.parallel.job import Job
from cosdask.parallel.plugins import load_plugins
from cosdask.parallel.snapshots import enter_snapshot
from cosdask.proto import parse_solver
from cosdask.solver import Loop, LossWatch, Pace, Settings
from cosdask.storage import RunFolder, run_folder_for


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
    """Builds a rank's engine from its job, runs it, and tells what happens.

    Args:
        job: what to train.
        rank: which of its ranks this is.
        send: called with the record of each event.
        starting: seconds that the parts of the start took so far, for :class:`~cosdask.events.RunStarted`.
    """

    def __init__(
        self, job: Job, rank: int, send: Callable[[dict[str, Any]], None], starting: Mapping[str, float] | None = None
    ) -> None:
        load_plugins(job.plugins)
        self.job, self.rank, self._send = job, rank, send
        self._began, self._starting, self._done = time.time(), dict(starting or {}), False
        param = parse_solver(job.solver)
        devices = devices_by_rank(jax.devices(), job.world, job.devices)
        per_process = job.devices
        settings = Settings(
            weights=job.weights or None,
            snapshot=job.snapshot or None,
            world=len(devices),
            ranks=tuple(range(rank * per_process, (rank + 1) * per_process)),
            seed=job.seed,
            threads=job.decoding_threads(rank),
            precision=job.precision,
            global_batch_norm=job.global_batch_norm,
            global_loss=job.global_loss,
            lr_scale=job.lr_scale,
            warmup=job.warmup,
            groups=tuple((first, devices, rows) for first, devices, rows in job.groups),
            # CaffeOnSpark never tests before the first iteration; a solver that asks for it in so many words gets it
            test_at_start=param.HasField("test_initialization") and param.test_initialization,
        )
        source = Source.from_spec(job.source)
        tests = [Source.from_spec(spec) for spec in job.test_sources]
        self.engine: LoneEngine | GroupEngine
        if len(devices) == 1:
            self.engine = LoneEngine(param, settings, source, tests)
        else:
            self.engine = GroupEngine(Mesh(np.array(devices), (AXIS,)), rank, job.wire, param, settings, source, tests)
        self._folder = RunFolder(run_folder_for(job.model)) if rank == 0 else None
        # Events lie in parts, one for each process that has any: the other ranks keep what they warn of.
        self._warnings = RunFolder(run_folder_for(job.model))
        self._validations = self._earlier_validations()
        self._checkpoints: Checkpoints | None = None
        if self._folder is not None:
            self._checkpoints = Checkpoints(self.engine, self._folder, job.checkpoint_seconds, self.emit)
        watch = LossWatch(job.on_nan, self.emit if rank == 0 else lambda event: None)
        # the other ranks report less often: their progress only shows that they live
        pace = Pace(job.pace if rank == 0 else 4 * job.pace)
        due = self._checkpoints.when_due if self._checkpoints else None
        self.loop = Loop(self.engine, self.emit, pace, rank, check_loss=watch, after_step=due)

    def run(self) -> dict[str, Any]:
        """Train to the end, or to where the group is asked to stop; the result goes to the driver."""
        engine, job = self.engine, self.job
        if self.rank == 0:
            self.emit(self._started())
        done = self.loop.run(engine.param.max_iter) or engine.stopped is Stop.FINISH
        self.loop.look_at_loss()
        if not done and engine.stopped is Stop.PREEMPT:
            return self._preempted()
        if done and job.validate and engine.tests:
            self.loop.validate()
        if not self.loop.snapshot_is_current and (engine.param.snapshot_after_train or not done):
            self.loop.snapshot()
        if done and self.rank == 0:
            engine.sync_net().save(job.model)
        self._done, unheard = done, not done and engine.stopped is Stop.LEAVE
        self._end("done" if done else "stopped", "the client was gone" if unheard else "")
        return self._result("unheard" if unheard else "done" if done else "stopped")

    def _end(self, status: str, why: str) -> None:
        """Tell the run's end; where nobody is there to hear it, only keep it: a client that lives after all goes on."""
        if self._folder is None:
            return
        seconds = time.time() - self._began
        ended = RunEnded(iteration=self.engine.iteration, status=status, seconds=seconds, message=why)
        if why:
            self._folder.append_event(ended.to_dict())
        else:
            self.emit(ended)

    def close(self) -> None:
        """All ranks have come to the end: what only a new group would need goes, and the reading ends."""
        if self._done and self._checkpoints:
            self._checkpoints.clear()
        self.engine.close()

    def _preempted(self) -> dict[str, Any]:
        """A rank's place is needed (SIGTERM): the group writes a checkpoint and ends, to form again elsewhere."""
        kept = self._checkpoints.write() if self._checkpoints else False
        return {**self._result("preempted"), "kept": kept}

    def _result(self, status: str) -> dict[str, Any]:
        self._warnings.close()
        if self._folder:
            self._folder.close()
        iteration = self.engine.iteration
        return {"iteration": iteration, "status": status, "host": socket.gethostname(), "pid": os.getpid()}

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
            lr_scale=job.lr_scale,
            warmup=job.warmup,
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
            local_share=job.locality.get("share"),
            locality_problem=job.locality.get("problem", ""),
            starting={**self._starting, "net": time.time() - self._began},
        )

    def emit(self, event: Event) -> None:
        """Tell an event: rank 0 everything, to the driver and the run folder; the others progress and warnings."""
        if self.rank != 0 and not isinstance(event, Progress | Warned):
            return
        if isinstance(event, Warned):
            event = dataclasses.replace(event, host=event.host or socket.gethostname())
        record = event.to_dict()
        if self.rank != 0 and isinstance(event, Warned):
            self._warnings.append_event(record)
        if self._folder is not None:
            # kept before it is told: whoever hears of a snapshot may count on it
            self._folder.append_event(record)
            if isinstance(event, Validation):
                self._keep_validation(event)
            if isinstance(event, Snapshot):
                self._keep_snapshot(event)
        self._send(record)

    def _earlier_validations(self) -> list[dict[str, Any]]:
        """What the run found before the snapshot that this group starts from."""
        if self._folder is None or not self.engine.iteration or not self.job.validate:
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
            import pandas as pd  # loaded where there is something to validate: ranks start the sooner

            self._folder.write_validation(pd.DataFrame(self._validations))

    def _keep_snapshot(self, event: Snapshot) -> None:
        assert self._folder is not None and self._checkpoints is not None
        enter_snapshot(self._folder, event.model, event.state, event.iteration)
        self._folder.flush()
        self._checkpoints.postpone()
