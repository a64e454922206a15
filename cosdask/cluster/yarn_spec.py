"""What is asked of YARN: the options of a cluster, and the application specification made from them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import yaml

from cosdask.cluster.names import SCHEDULER, TICK, TLS_FILES, WORKER
from cosdask.cluster.yarn_compat import skein
from cosdask.errors import ConfigError, did_you_mean
from cosdask.storage import exists, local_path, missing

_PLACES = ("container", "client")
#: Dask moves its own data to disk early, for the rank needs memory, too. It neither pauses nor ends a worker for what
#: the process has grown to: compiled nets are memory that it knows nothing of, and YARN watches the whole container.
_DASK = {
    "DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL": TICK,
    "DASK_DISTRIBUTED__WORKER__MEMORY__TARGET": "0.4",
    "DASK_DISTRIBUTED__WORKER__MEMORY__SPILL": "false",
    "DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE": "false",
    "DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE": "false",
}
#: how many times the workers of a cluster may be started again, for each worker
_RESTARTS = 3
#: for skein's two Java programs, which live on little: the quick compiler alone halves what their start takes
JAVA_OPTIONS = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
_ENVIRONMENTS = (
    "an archive made by `cosdask package` (hdfs://..., cached by the nodes, or a local file), venv:///path, "
    "conda:///path or conda://name, python:///path/bin/python; paths must be there on every node"
)


@dataclass(frozen=True)
class YarnOptions:
    """What a YARN application of cosdask asks for.

    Attributes:
        n_workers: worker containers.
        environment: the Python environment of the containers: an archive (local, or in HDFS, where the nodes keep it
            between applications), ``venv:///path``, ``conda:///path``, ``conda://name`` or ``python:///path/bin/python``.
        worker_vcores: cores of a worker; also the threads of its rank.
        worker_memory: of a worker's container, as in ``"4 GiB"``: the Dask worker and its rank together.
        worker_gpus: 0 or 1.
        worker_restarts: container restarts allowed in all; default: 3 a worker.
        worker_env: environment variables of every container.
        files: the user's files in each container's working directory, by their names there.
        scheduler: where Dask's scheduler runs: in a ``"container"`` of its own, or in the ``"client"``.
        scheduler_vcores: cores of its container.
        scheduler_memory: of its container.
        queue: YARN's queue.
        name: of the application.
        tags: of the application.
        node_label: of the nodes to run on.
        user: to run as, where Hadoop allows this user to do so.
        file_systems: further Hadoop filesystems to get delegation tokens for (Kerberos).
        idle_timeout: seconds without any client after which the application ends; None: never.
        tls: PEM files by the names of ``distributed.Security``: ``tls_ca_file``, ``tls_cert``, ``tls_key``.

    Raises:
        ConfigError: for what cannot work.
    """

    n_workers: int
    environment: str | None = None
    worker_vcores: int = 1
    worker_memory: str | int = "2 GiB"
    worker_gpus: int = 0
    worker_restarts: int | None = None
    worker_env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    scheduler: str = "container"
    scheduler_vcores: int = 1
    scheduler_memory: str | int = "1 GiB"
    queue: str = "default"
    name: str = "cosdask"
    tags: Sequence[str] = ()
    node_label: str = ""
    user: str = ""
    file_systems: Sequence[str] = ()
    idle_timeout: float | None = 300.0
    tls: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.n_workers < 0 or min(self.worker_vcores, self.scheduler_vcores) < 1:
            raise ConfigError("a YARN cluster has zero or more workers, and containers at least one core")
        if self.worker_gpus not in (0, 1):
            raise ConfigError(
                f"worker_gpus={self.worker_gpus}: a worker has one GPU or none; ask for more workers instead",
                option="worker_gpus",
            )
        if self.scheduler not in _PLACES:
            hint = did_you_mean(self.scheduler, _PLACES)
            raise ConfigError(f'scheduler="{self.scheduler}" is not one of {", ".join(_PLACES)}.{hint}')
        if self.tls and set(self.tls) != set(TLS_FILES):
            raise ConfigError(f"tls needs the files {', '.join(TLS_FILES)}; given are {', '.join(self.tls) or 'none'}")
        for name in self.files:
            if PurePosixPath(name).name != name:
                raise ConfigError(f'files: "{name}" is a path; names in the containers are plain', option="files")
        mebibytes(self.worker_memory, "worker_memory")
        mebibytes(self.scheduler_memory, "scheduler_memory")


def yarn_options(**options: Any) -> YarnOptions:
    """:class:`YarnOptions` from keywords.

    Raises:
        ConfigError: an unknown one, with the nearest names.
    """
    known = [option.name for option in fields(YarnOptions)]
    for name in options:
        if name not in known:
            hint = did_you_mean(name, known) or f" There are {', '.join(known)}."
            raise ConfigError(f'a YarnCluster has no option "{name}".{hint}', option=name)
    return YarnOptions(**options)


def mebibytes(value: str | int, option: str) -> int:
    """A size in MiB, from a text with a unit or a number of bytes; rounded up.

    Raises:
        ConfigError: not a size, or under 1 MiB.

    Example:
        >>> mebibytes("2 GiB", "worker_memory"), mebibytes(1 << 20, "worker_memory")
        (2048, 1)
    """
    from dask.utils import parse_bytes

    try:
        size = int(parse_bytes(value))
    except (TypeError, ValueError) as error:
        raise ConfigError(f'{option}={value!r} is not a size such as "4 GiB"', option=option) from error
    if size < 1 << 20:
        raise ConfigError(f'{option}={value!r} is less than 1 MiB; write the unit, as in "4 GiB"', option=option)
    return -(-size // (1 << 20))


@dataclass(frozen=True)
class Python:
    """How a container gets its Python: files to bring, lines of bash to run first, and the interpreter."""

    files: Mapping[str, Any]
    setup: Sequence[str]
    interpreter: str

    def script(self, *words: str, module: str = "cosdask.cluster.yarn_container") -> str:
        """A bash script that becomes ``python -m MODULE WORDS``."""
        command = shlex.join(["exec", self.interpreter, "-m", module, *words])
        return "\n".join(["set -e", *self.setup, command])


def python_of(environment: str | None) -> Python:
    """How containers get the environment that a user named.

    Raises:
        ConfigError: none named, or a name that is neither.
        StorageError: an archive that is not there.
    """
    if not environment:
        raise ConfigError(f"no environment for the containers: name one with environment=. It is {_ENVIRONMENTS}")
    parts = urlsplit(environment)
    place = environment.partition("://")[2]
    if parts.scheme == "python":
        return Python({}, (), place)
    if parts.scheme == "conda" and not place.startswith("/"):
        base = 'source "$(conda info --base)/etc/profile.d/conda.sh"'
        return Python({}, (base, shlex.join(["conda", "activate", place])), "python")
    if parts.scheme in ("venv", "conda"):
        binaries = f"{place.rstrip('/')}/bin"
        return Python({}, (f'export PATH={shlex.quote(binaries)}:"$PATH"',), f"{binaries}/python")
    if parts.scheme and parts.scheme not in ("hdfs", "viewfs", "webhdfs", "file"):
        hint = did_you_mean(parts.scheme, ("venv", "conda", "python", "hdfs", "viewfs"))
        raise ConfigError(f'environment="{environment}" is of no known kind.{hint} It is {_ENVIRONMENTS}')
    return Python({"environment": _archive(environment)}, _UNPACKED, "environment/bin/python")


#: an archive from conda-pack has paths to put right, which its own script does
_UNPACKED = (
    "if [ -x environment/bin/conda-unpack ]; then source environment/bin/activate; environment/bin/conda-unpack; fi",
    'export PATH="$PWD/environment/bin:$PATH"',
)


def _archive(environment: str) -> Any:
    """The file to bring; from HDFS it is the user's own, so that nodes keep it unpacked for the next application."""
    here = local_path(environment)
    if here is not None and not here.exists():
        raise missing(environment, "environment archive")
    if not environment.endswith((".tar.gz", ".tgz", ".zip")):
        raise ConfigError(f"environment={environment}: an archive ends in .tar.gz, .tgz or .zip")
    if here is not None:
        return skein().File(str(here.absolute()), type="archive")
    return skein().File(environment, type="archive", visibility="private")


def check_remote_files(spec: Any) -> None:
    """Refuses files that are not where the specification says; local ones were looked at when it was made.

    Raises:
        StorageError: names the first that is missing.
    """
    for service in spec.services.values():
        for file in service.files.values():
            if local_path(file.source) is None and not exists(file.source):
                raise missing(file.source)


def specification(options: YarnOptions) -> Any:
    """The ``skein.ApplicationSpec`` of a cluster.

    Raises:
        ConfigError, StorageError: see :func:`python_of`; also where a file of the user's is missing.
    """
    sk, python = skein(), python_of(options.environment)
    files = {**python.files, **_user_files(options)}
    tls = ["--tls"] if options.tls else []
    remote = options.scheduler == "container"
    services = {}
    if remote:
        idle = [] if options.idle_timeout is None else ["--idle-timeout", f"{options.idle_timeout:g}"]
        services[SCHEDULER] = sk.Service(
            resources=sk.Resources(
                vcores=options.scheduler_vcores, memory=mebibytes(options.scheduler_memory, "scheduler_memory")
            ),
            files=dict(files),
            env=_environment(options, gpus=0, threads=options.scheduler_vcores),
            script=python.script("scheduler", *idle, *tls),
        )
    restarts = _RESTARTS * max(1, options.n_workers) if options.worker_restarts is None else options.worker_restarts
    services[WORKER] = sk.Service(
        instances=options.n_workers,
        max_restarts=restarts,
        depends=[SCHEDULER] if remote else None,
        resources=sk.Resources(
            vcores=options.worker_vcores,
            memory=mebibytes(options.worker_memory, "worker_memory"),
            gpus=options.worker_gpus,
        ),
        files=dict(files),
        env=_environment(options, gpus=options.worker_gpus, threads=options.worker_vcores),
        script=python.script("worker", *tls, *(["--gpu"] if options.worker_gpus else [])),
    )
    return sk.ApplicationSpec(
        master=sk.Master(env={"JAVA_TOOL_OPTIONS": JAVA_OPTIONS}),
        name=options.name,
        queue=options.queue,
        user=options.user,
        tags=set(options.tags) | {"cosdask"},
        node_label=options.node_label,
        file_systems=list(options.file_systems),
        services=services,
    )


def _user_files(options: YarnOptions) -> dict[str, Any]:
    found = {}
    for name, source in {**options.files, **{TLS_FILES[key]: path for key, path in options.tls.items()}}.items():
        here = local_path(source)
        if here is not None and not here.exists():
            raise missing(source)
        found[name] = skein().File(source if here is None else os.path.abspath(here), type="file")
    return found


def _environment(options: YarnOptions, gpus: int, threads: int) -> dict[str, str]:
    """Variables of a container; a user's own win."""
    return {
        # XLA takes its number of threads from NPROC
        "NPROC": str(threads),
        "OMP_NUM_THREADS": str(threads),
        # a worker that has no GPU takes none, one that should have one fails without it
        "JAX_PLATFORMS": "cuda,cpu" if gpus else "cpu",
        "PYTHONUNBUFFERED": "1",
        **_DASK,
        **options.worker_env,
    }


def check_hadoop() -> None:
    """Refuses to go on where this machine is no client of a Hadoop.

    Raises:
        ConfigError: names what is missing.
    """
    import shutil

    if not os.environ.get("HADOOP_CONF_DIR"):
        raise ConfigError(
            "HADOOP_CONF_DIR is not set: it names the folder of core-site.xml, hdfs-site.xml and yarn-site.xml. "
            "Without a cluster of your own, try: cosdask sandbox start"
        )
    if shutil.which("yarn") is None:
        raise ConfigError("there is no yarn command on PATH; it comes with Hadoop's client (bin/yarn)")
    skein()


def hadoop_setting(file: str, name: str) -> str:
    """A setting of the Hadoop that ``HADOOP_CONF_DIR`` names; "" where it is not set there.

    Args:
        file: ``core-site.xml`` and the like.
        name: the setting.
    """
    from xml.etree import ElementTree

    path = Path(os.environ.get("HADOOP_CONF_DIR", ".")) / file
    try:
        root = ElementTree.parse(path).getroot()
    except FileNotFoundError:
        return ""
    except ElementTree.ParseError as error:
        raise ConfigError(f"{path}: not a Hadoop configuration: {error}", path=str(path)) from error
    found = [entry.findtext("value") or "" for entry in root.iter("property") if entry.findtext("name") == name]
    return found[-1].strip() if found else ""


def spec_text(spec: Any) -> str:
    """A specification as YAML, the same text every time: skein keeps the tags as a set."""
    found = spec.to_dict()
    found["tags"] = sorted(found.get("tags", ()))
    text: str = yaml.safe_dump(found, default_flow_style=False)
    return text
