"""A YARN application that carries the driver too: its files, its specification, and how its output is followed."""

from __future__ import annotations

import dataclasses
import getpass
import os
import re
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from cosdask.cluster import yarn_client
from cosdask.cluster.names import DRIVER, EXIT, OUTPUT, SCHEDULER, SEEN, output_key
from cosdask.cluster.yarn_compat import skein
from cosdask.cluster.yarn_logs import application_logs
from cosdask.cluster.yarn_spec import YarnOptions, mebibytes, python_of, specification
from cosdask.errors import ClusterError, ConfigError, CosdaskError, DeadlineError, StorageError
from cosdask.parallel.contained import self_contained
from cosdask.proto import read_solver, to_text
from cosdask.storage import atomic_write, exists, filesystem, join, local_path, missing, read_bytes

#: a tag that names the folder of an application's files
_TAG = "cosdask-files-"
_EXIT_CODE = re.compile(r"cosdask exit code (\d+)")
#: files that travel with a job must fit into memory
_LARGEST = 4 << 30
#: the fields of a net's layers that name single files, not data
_FILES = (("transform_param", "mean_file"), ("data_param", "mean_file"), ("image_data_param", "mean_file"))
_PAUSE = 0.3


def new_folder() -> str:
    """A folder in the user's home in HDFS for the files of one application."""
    user = os.environ.get("HADOOP_USER_NAME") or getpass.getuser()
    return f"hdfs:///user/{user}/.cosdask/{uuid.uuid4().hex[:16]}"


def carry(conf: str, weights: str, folder: str, initial: bool = True) -> tuple[str, str]:
    """Puts a solver, its nets, mean files and weights into HDFS, where every container sees them.

    Args:
        conf: the solver's prototxt.
        weights: paths of weights separated by commas, or "".
        folder: see :func:`new_folder`.
        initial: whether the weights that the solver names are needed: not for a test, nor to go on from a snapshot.

    Returns:
        The names to use instead: of the solver, and of the weights.

    Raises:
        ConfigError: a net reads its rows from this machine's disk.
        StorageError, ProtoError: what is missing or cannot be read.
    """
    param = self_contained(read_solver(conf), conf, "")
    for net in _nets(param):
        for layer in net.layer:
            _refuse_local_rows(layer)
            for group, field in _FILES:
                message = getattr(layer, group)
                if getattr(message, field):
                    setattr(message, field, _carried(getattr(message, field), folder))
    # weights that are given come before those that the solver names
    named = list(param.weights) if initial and not weights else []
    del param.weights[:]
    param.weights.extend(_carried(path, folder) for path in named)
    solver = join(folder, "solver.prototxt")
    atomic_write(solver, to_text(param))
    return solver, ",".join(_carried(path.strip(), folder) for path in weights.split(",") if path.strip())


def _nets(param: Any) -> list[Any]:
    single = [getattr(param, name) for name in ("net_param", "train_net_param") if param.HasField(name)]
    return [*single, *param.test_net_param]


def _refuse_local_rows(layer: Any) -> None:
    for group in ("data_param", "memory_data_param", "cos_data_param", "hdf5_data_param", "image_data_param"):
        if layer.HasField(group) and getattr(layer, group).source:
            source = getattr(layer, group).source
            if local_path(source) is not None and not source.startswith("file:"):
                raise ConfigError(
                    f'layer "{layer.name}" reads {source}, which lies on this machine. Put it into HDFS '
                    f"(hdfs dfs -put {source} DIR) and name it by URL; or write file:// if it lies on every node",
                    layer=layer.name,
                )


def _carried(path: str, folder: str) -> str:
    """The name in HDFS of a file that lies here; URLs stay."""
    here = local_path(path)
    if here is None:
        return path
    if not here.is_file():
        raise missing(path)
    name = join(folder, f"{uuid.uuid4().hex[:8]}-{here.name}")
    atomic_write(name, read_bytes(path, _LARGEST))
    return name


def submission(options: YarnOptions, words: Sequence[str], folder: str, driver_memory: str | int = "1 GiB") -> Any:
    """The specification of an application that runs ``cosdask WORDS`` on workers of its own.

    Args:
        options: of scheduler and workers; the scheduler is always in a container.
        words: the command, as carried; ``--cluster`` comes from the application itself.
        folder: of the files carried, which the driver removes at its end.
        driver_memory: of the driver's container.
    """
    spec = specification(dataclasses.replace(options, scheduler="container", tags=[*options.tags, _tag(folder)]))
    scheduler = spec.services[SCHEDULER]
    spec.services[DRIVER] = skein().Service(
        instances=1,
        max_restarts=0,
        depends=[SCHEDULER],
        resources=skein().Resources(vcores=1, memory=mebibytes(driver_memory, "driver_memory")),
        files=dict(scheduler.files),
        env={
            **scheduler.env,
            "COSDASK_FILES": folder,
            "COSDASK_WORKERS": str(options.n_workers),
        },
        script=python_of(options.environment).script(*words, module="cosdask.cli.submitted"),
    )
    return spec


def _tag(folder: str) -> str:
    return _TAG + folder.rstrip("/").rpartition("/")[2]


def submit(client: Any, spec: Any) -> str:
    """Submits and returns the application's id.

    Raises:
        ClusterError, ConfigError: YARN refuses it; its words are in the message.
    """
    with yarn_client.talking(f"submitting to the queue {spec.queue}"):
        try:
            return str(client.submit(spec))
        except ValueError as error:
            raise ConfigError(f"YARN refuses the application: {str(error).splitlines()[0]}") from error


def remove_files(report: Any) -> None:
    """Removes what an application that has ended carried, where its driver or its master could not."""
    yarn_client.remove_staging(report)
    for tag in report.tags:
        if tag.startswith(_TAG):
            folder = f"hdfs:///user/{report.user}/.cosdask/{tag.removeprefix(_TAG)}"
            if exists(folder):
                fs, path = filesystem(folder)
                fs.rm(path, recursive=True)


def follow(
    client: Any, application: str, show: Callable[[str], None], deadline: float, note: Callable[[str], None]
) -> int:
    """Shows what the driver prints until it ends, from its beginning; of one that ended, what Hadoop kept.

    Args:
        client: see :func:`cosdask.cluster.yarn_client.yarn_client`.
        application: its id.
        show: called with some lines at a time.
        deadline: seconds that YARN may take to start it.
        note: called with what is waited for, in words.

    Returns:
        The driver's exit code.

    Raises:
        ClusterError: the application ended without one.
        DeadlineError: no room in time.
    """
    report = yarn_client.report_of(client, application)
    if str(report.state) in ("FINISHED", "FAILED", "KILLED"):
        show(_kept_output(application))
    else:
        if str(report.state) != "RUNNING":
            note(f"{application} waits for YARN to start it in the queue {report.queue}")
        yarn_client.wait_until_running(client, application, deadline)
        note(f"{application} runs; what the command prints follows")
        with yarn_client.talking(f"connecting to {application}"):
            connected = client.connect(application)
        with connected:
            code = _follow_store(connected, show)
        if code is not None:
            yarn_client.wait_until_ended(client, application)
            return code
    try:
        return exit_code(client, application)
    except DeadlineError as error:
        raise ClusterError(
            f"the connection to {application} was lost. It may run on: cosdask watch {application}"
        ) from error


def runs(client: Any, application: str) -> bool:
    """Whether an application runs, as far as can be known: one that cannot be asked for may do so."""
    try:
        return str(yarn_client.report_of(client, application).state) == "RUNNING"
    except CosdaskError:
        return True


def _kept_output(application: str) -> str:
    """What the driver of an application that ended had printed; "" where Hadoop kept no logs."""
    try:
        logs = application_logs(application)
    except StorageError:
        return ""  # its exit code is known all the same
    return "".join(f"{text}\n" for name, text in logs.items() if name.endswith(f"{DRIVER}.log"))


def _follow_store(application: Any, show: Callable[[str], None]) -> int | None:
    """Reads the store until the exit code is there; None where the application went before."""
    shown = 0
    try:
        while True:
            # the exit code is asked for first: what was printed before it is then all there
            code = application.kv.get(EXIT)
            for key, value in application.kv.get_range(start=output_key(shown), end=OUTPUT + "~").items():
                show(value.decode(errors="replace"))
                shown = int(key.removeprefix(OUTPUT)) + 1
            if code is not None:
                application.kv[SEEN] = b"1"
                return int(code)
            time.sleep(_PAUSE)
    except skein().exceptions.SkeinError:
        return None


def exit_code(client: Any, application: str) -> int:
    """The driver's exit code of an application that ended.

    Raises:
        ClusterError: it ended without one; the containers' last words are in the message.
    """
    report = yarn_client.wait_until_ended(client, application)
    found = _EXIT_CODE.search(report.diagnostics or "")
    try:
        if found:
            return int(found[1])
        raise yarn_client.ended_error(client, application)
    finally:
        remove_files(report)


def applications(client: Any, everything: bool = False) -> list[Any]:
    """YARN's reports of cosdask's applications, the newest first.

    Args:
        client: see :func:`cosdask.cluster.yarn_client.yarn_client`.
        everything: also those that ended.
    """
    states = ["ACCEPTED", "RUNNING", "SUBMITTED", *(["FINISHED", "FAILED", "KILLED"] if everything else [])]
    with yarn_client.talking("asking YARN for its applications"):
        found = client.get_applications(states=states)
    return sorted((report for report in found if "cosdask" in report.tags), key=lambda report: report.id, reverse=True)


def kill(client: Any, application: str) -> str:
    """Ends an application and removes its files; returns the state it was in.

    Raises:
        ConfigError: YARN knows none of this id.
    """
    report = yarn_client.report_of(client, application)
    state = str(report.state)
    with yarn_client.talking(f"ending {application}"):
        client.kill_application(application)
    remove_files(yarn_client.wait_until_ended(client, application))
    return state
