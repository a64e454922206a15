"""CaffeOnSpark's four verbs on any Dask cluster."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib import metadata
from typing import Any, TypeVar, cast

import pandas as pd
from distributed import Client, get_client

from cosdask.config import Config
from cosdask.errors import ConfigError, GroupError
from cosdask.nn import allow_python_layers
from cosdask.parallel import evaluate, features, prepare
from cosdask.parallel.contained import self_contained
from cosdask.parallel.frame_input import (
    FrameInput,
    Reads,
    RunInputs,
    all_reads,
    as_dask,
    evaluation_reads,
    given_spec,
    train_reads,
)
from cosdask.parallel.group import Member, check_free, on_interface, scheduler_address, spares_ahead, wait_for_members
from cosdask.parallel.job import JOB_OPTIONS, Job, regrouped
from cosdask.parallel.locality import Arrangement, Locality, arranged
from cosdask.parallel.outputs import check_shared
from cosdask.parallel.plugins import dump_plugins
from cosdask.parallel.recovery import Recovery
from cosdask.parallel.results import TrainResult
from cosdask.parallel.run import Run
from cosdask.parallel.scaling import scale
from cosdask.parallel.snapshots import newest_whole
from cosdask.parallel.sources import data_layer, dataframe_of, source_options, source_spec
from cosdask.parallel.visible import check_data
from cosdask.parallel.waiting import results_of
from cosdask.proto import caffe_pb2, read_solver, to_text
from cosdask.solver import solver_seed
from cosdask.storage import RunFolder, Snapshot, absolute, join, run_folder_for
from cosdask.view import Consumer, TensorBoard, default_consumers

Result = TypeVar("Result")


class CaffeOnDask:
    """Trains, tests and extracts features on a Dask cluster.

    Args:
        client: any ``distributed.Client``, synchronous or not; None: the current one. With an asynchronous client the
            verbs return awaitables.
        config: what to do; see :class:`cosdask.Config`.
        consumers: what is told of the training (:mod:`cosdask.view`); default: a progress bar where a person looks
            on, Caffe's log lines elsewhere.
        callbacks: told besides, such as :class:`cosdask.Callbacks`, :class:`cosdask.EarlyStop` and
            :class:`cosdask.TensorBoard`.

    Raises:
        ConfigError: no config, or no client where none is current.
    """

    def __init__(
        self,
        client: Client | None = None,
        config: Config | None = None,
        consumers: Sequence[Consumer] | None = None,
        callbacks: Sequence[Consumer] = (),
    ) -> None:
        if config is None:
            raise ConfigError("CaffeOnDask needs a config: CaffeOnDask(client, cosdask.Config(conf=..., model=...))")
        self.config = config
        allow_python_layers(config.allow_modules)
        self._consumers, self._callbacks = consumers, callbacks
        try:
            self.client: Client = client if client is not None else get_client()
        except ValueError as error:
            raise ConfigError(
                "no Dask client: pass one, or make one first, as in Client(cosdask.LocalCluster())."
            ) from error

    def train(self, source: Any = None) -> TrainResult:
        """Train to the solver's ``max_iter``; the model goes to ``config.model``, its run folder beside it.

        Args:
            source: rows to train on instead of those the net names: a path, a ``Source``, or a dask dataframe.

        Raises:
            ConfigError, ProtoError, NetError, DataError, StorageError: before anything is started.
            RankError, GroupError, DeadlineError: where the group failed; the message names rank and host.
        """
        return self._call(lambda client: self._train(client, source, None, validate=False))

    def train_with_validation(self, train_source: Any = None, validation_source: Any = None) -> pd.DataFrame:
        """Train, testing every ``test_interval`` iterations and at the end.

        Returns:
            A row a validation: ``iteration``, then a float column an output of the TEST net.
        """
        run = self._call(lambda client: self._train(client, train_source, validation_source, validate=True))
        return _then(run, lambda result: result.validation)

    def test(self, source: Any = None) -> dict[str, Any]:
        """The TEST net's outputs, averaged over every row of its source once, whatever ``test_iter`` says."""
        return self._call(lambda client: self._test(client, source))

    def features(self, source: Any = None, blobs: Sequence[str] | None = None) -> Any:
        """Blobs of the TEST net for every row, as a lazy dask dataframe.

        Args:
            source: rows instead of those the net names: a path, a ``Source``, or a dask dataframe.
            blobs: names of blobs; default: ``config.features``.

        Returns:
            ``SampleID``, a column a blob in the order given, and ``config.label`` last where it is set; cells are
            1-D float32.
        """
        return self._call(lambda client: self._features(client, source, blobs))

    def check_output(self) -> Any:
        """Refuse, before work starts, an ``output`` on this machine's disk where a worker would not write to it.

        Raises:
            StorageError: names the worker's host, with the remedy.
        """
        return self._call(self._check_output)

    # -- the work ----------------------------------------------------------------------------------------------------

    def _call(self, function: Callable[[Client], Result]) -> Any:
        """Run with a synchronous client: at once, or for an asynchronous one in a thread, as an awaitable."""
        if not self.client.asynchronous:
            return function(self.client)

        def apart() -> Result:
            address, security = scheduler_address(self.client), self.client.security
            with Client(address, security=security, set_as_default=False) as client:
                return function(client)

        return asyncio.to_thread(apart)

    def _solver(self) -> caffe_pb2.SolverParameter:
        return read_solver(self.config.conf)

    def _train(self, client: Client, source: Any, validation: Any, validate: bool) -> TrainResult:
        config = self.config
        config.check("train")
        param = self_contained(self._solver(), config.conf, config.model)
        param.random_seed = solver_seed(param, config.seed)
        if not validate:
            param.test_interval = 0
        folder = RunFolder(run_folder_for(absolute(config.model)))
        members = on_interface(client, self._members(client), config.interface)
        # a run that its client left may still be going on, and writes one more snapshot when told to end
        check_free(client, members, take_over=absolute(config.model) if config.resume else "")
        check_shared(client, members, [config.model, param.snapshot_prefix])
        before = None
        if config.resume:
            # first, for it says in plain words where there is nothing to go on from
            newest = _newest(folder)
            before = folder.read_run()
            config, param.random_seed = _resumed(config, newest["state"], before), before["seed"]
            param.ClearField("weights")  # the snapshot has its own
        factor = scale(param, config, len(members) * config.devices)
        with RunInputs() as inputs:
            with spares_ahead(client, members, config.threads or 0):
                job, members, begins = self._job(
                    client, config, param, members, source, validation, validate, inputs, before
                )
                if before is None:
                    folder.reset(begins)
            job = replace(job, lr_scale=factor)
            if before is not None and job.groups:
                ((_, size, rows),) = job.groups
                job = replace(job, groups=regrouped(before.get("groups", []), newest["iteration"], size, rows))
            folder.write_run(_run_description(config, job, members))
            run = Run(client, job.topic, folder, self._listeners(folder))
            with run:
                arrange = partial(_arranged, client, config, inputs.locality)
                try:
                    Recovery(client, config, job, members, run, inputs.ready, arrange).to_the_end()
                    run.wait_for_end()
                except BaseException as error:
                    run.conclude(error)
                    raise
                run.conclude()
        result = run.record.result(job.solver, job.model, folder.url)
        result.stopped_early = run.early
        if result.status != "done":
            raise GroupError(f"the training was asked to stop. {run.where_it_stopped()}")
        return result

    def _listeners(self, folder: RunFolder) -> list[Consumer]:
        """Who is told of a training, besides its record."""
        views = default_consumers(self.config.progress) if self._consumers is None else list(self._consumers)
        if self.config.tensorboard:
            views.append(TensorBoard(join(folder.url, "tensorboard")))
        return [*views, *self._callbacks]

    def _job(
        self,
        client: Client,
        config: Config,
        param: caffe_pb2.SolverParameter,
        members: list[Member],
        source: Any,
        validation: Any,
        validate: bool,
        inputs: RunInputs,
        before: dict[str, Any] | None,
    ) -> tuple[Job, list[Member], list[str]]:
        """Everything the ranks need, the members in rank order, and the files that a new run begins from.

        What is wrong with nets or data is raised here, before ranks start. ``before`` is the ``run.json`` of a run that
        is taken up again, whose snapshot was looked at already.
        """
        solver, order = to_text(param), before and before["source"].get("table", {}).get("pieces")
        options = source_options(config)

        def given_rows(rows: Any, phase: str, reads: Reads, order: Any = None) -> dict[str, Any] | None:
            frame = dataframe_of(rows)
            if frame is None:
                return source_spec(client, rows, solver, phase, options)
            layer, whole = data_layer(solver, phase), as_dask(frame, len(members))
            inputs.given[phase] = FrameInput(
                client, whole, layer, phase, options, members, reads, order, config.worker_silence
            )
            return inputs.given[phase].spec(members)

        given = given_rows(source, "TRAIN", train_reads(config.devices), order)
        weights = ",".join(absolute(path.strip()) for path in config.weights.split(",") if path.strip())
        inspection = client.submit(
            prepare.inspect_training,
            solver,
            given,
            validate and validation is None,
            weights,
            "" if before else absolute(config.snapshot),
            options,
            dump_plugins(),
            pure=False,
        )
        (found,) = results_of([inspection])
        inputs.locality = Locality.from_json(found["places"])
        placed = _arranged(client, config, inputs.locality, members)
        members = placed.members
        tests, rows_each = found["tests"], found["batch"] * param.iter_size
        if validate and validation is not None:
            tests = [given_rows(validation, "TEST", all_reads)]
        check_data(client, members, [found["source"], *tests])
        job = Job(
            run_id=uuid.uuid4().hex[:12],
            solver=solver,
            source=found["source"],
            test_sources=tests,
            model=absolute(config.model),
            seed=param.random_seed,
            world=len(members),
            members=[member.as_dict() for member in members],
            threads=[config.threads or member.threads for member in members],
            weights=weights,
            snapshot=absolute(config.snapshot),
            validate=validate and bool(tests),
            deadline=config.worker_deadline,
            plugins=dump_plugins(),
            locality=placed.as_dict(),
            # the rows of a dataframe were brought to the ranks that read them, epoch by epoch
            groups=[] if found["source"].get("table") else [[0, len(members) * config.devices, rows_each]],
            **{name: getattr(config, name) for name in JOB_OPTIONS},
        )
        return job, members, found["begins"]

    def _test(self, client: Client, source: Any) -> dict[str, Any]:
        self.config.check("test")
        members = self._members(client)
        frame, silence = dataframe_of(source), self.config.worker_silence
        if frame is None:
            return evaluate.test(client, self._evaluation(client, source), members, silence)
        options, layer = source_options(self.config), data_layer(self._solver_text(), "TEST")
        with RunInputs() as inputs:
            whole = as_dask(frame, len(members))
            rows = FrameInput(client, whole, layer, "TEST", options, members, evaluation_reads, silence=silence)
            inputs.given["TEST"] = rows
            return evaluate.test(client, self._evaluation(client, rows.spec(members)), members, silence)

    def _check_output(self, client: Client) -> None:
        """Features come from whichever workers are there, however many are to be used."""
        self._members(client)
        check_shared(client, wait_for_members(client, None, None, 0.0), [self.config.output])

    def _features(self, client: Client, source: Any, blobs: Sequence[str] | None) -> Any:
        self.config.check("features")
        names = list(blobs or self.config.features)
        if not names:
            raise ConfigError("no blobs to extract: give their names with -features, or blobs=[...]", option="features")
        if self.config.label and self.config.label not in names:
            names.append(self.config.label)
        workers = len(self._members(client))
        frame = dataframe_of(source)
        if frame is not None:
            frame = as_dask(frame, workers)
            layer = data_layer(self._solver_text(), "TEST")
            source = given_spec(client, frame, layer, source_options(self.config), self.config.worker_silence)
        checked = client.submit(features.check_blobs, self._evaluation(client, source), names, pure=False)
        (evaluation,) = results_of([checked])
        if frame is not None:
            return features.features_of_frame(evaluation, frame, names)
        return features.features(evaluation, names, workers)

    def _solver_text(self) -> str:
        return to_text(self_contained(self._solver(), self.config.conf, ""))

    def _evaluation(self, client: Client, source: Any) -> evaluate.Evaluation:
        """The TEST net with its weights and rows; ``source`` may be a specification already."""
        solver, model = self._solver_text(), absolute(self.config.model)
        options, precision = source_options(self.config), self.config.precision
        spec = source if isinstance(source, dict) else source_spec(client, source, solver, "TEST", options)
        inspection = client.submit(
            evaluate.inspect_test, solver, model, spec, options, dump_plugins(), precision, pure=False
        )
        (found,) = results_of([inspection])
        return cast(evaluate.Evaluation, found)

    def _members(self, client: Client) -> list[Member]:
        config = self.config
        return wait_for_members(client, config.clusterSize, config.min_workers, config.worker_deadline)


def _arranged(client: Client, config: Config, locality: Locality, members: list[Member]) -> Arrangement:
    """The workers in the order of the ranks that they take."""
    return arranged(client, members, locality, config.devices, config.threads)


def _resumed(config: Config, state: str, run: dict[str, Any]) -> Config:
    """The options to go on with: what decides the rows' order is the run's own, whatever is asked now.

    So are the weights: the command that began the run may be given again as it was, with the weights it began from.
    """
    options = config.to_dict()
    if config.shuffle and not run.get("shuffle"):
        raise ConfigError("--resume: the run was begun without --shuffle; leave it out to go on.", option="shuffle")
    options.update(snapshot=state, weights="", resume=False, shuffle=bool(run.get("shuffle")))
    return Config.from_dict(options)


def _newest(folder: RunFolder) -> Snapshot:
    """The newest whole snapshot of a run, as its folder lists it."""
    found, problems = newest_whole(folder)
    if found is None:
        why = " ".join(problems) or "It was never started, or ended before its first snapshot."
        raise ConfigError(f"--resume: {folder.url} holds no whole snapshot. {why}", option="resume")
    return found


def _then(value: Any, function: Callable[[Any], Any]) -> Any:
    """Apply a function to a value, or to what an awaitable will give."""
    if not asyncio.iscoroutine(value):
        return function(value)

    async def later() -> Any:
        return function(await value)

    return later()


def _run_description(config: Config, job: Job, members: list[Member]) -> dict[str, Any]:
    """What ``run.json`` holds: all that resuming and reporting need."""
    return {
        "run_id": job.run_id,
        "config": config.to_dict(),
        "seed": job.seed,
        "ranks": job.members,
        "threads": job.threads,
        "shuffle": config.shuffle,
        "groups": job.groups,
        "rows": sum(block[0] for block in job.source["index"]["blocks"]) if "index" in job.source else None,
        "source": job.source,
        "solver": job.solver,
        "versions": _versions("cosdask", "jax", "jaxlib", "numpy", "dask", "distributed"),
    }


def _versions(*names: str) -> dict[str, str]:
    """Versions of installed packages; cosdask itself may run from a checkout that is not installed."""
    return {name: metadata.version(name) for name in names if any(metadata.distributions(name=name))}
