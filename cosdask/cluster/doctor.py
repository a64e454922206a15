"""Whether a run can work here: this machine, its Hadoop, and the workers, each finding with its remedy."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any

from cosdask.errors import ConfigError, CosdaskError

GOOD, NOTE, BAD = "ok", "note", "bad"
#: packages whose versions must agree between client and workers
_PACKAGES = ("cosdask", "dask", "distributed", "cloudpickle", "jax", "jaxlib", "numpy", "pandas", "pyarrow", "msgpack")
_GIB = 1 << 30
#: the oldest driver that a version of CUDA runs with
_LEAST_DRIVER = {12: 525, 13: 580}
_DRIVER = re.compile(r"\s(\d+\.[\d.]+)\s")
#: seconds that clocks may differ, and to try a connection
_SKEW, _CONNECT = 2.0, 3.0


@dataclasses.dataclass(frozen=True)
class Finding:
    """What was looked at.

    Attributes:
        state: ``ok``, ``note`` (worth knowing), or ``bad`` (a run cannot work).
        where: ``client``, or the worker's name and host.
        what: what was found.
        remedy: what to do about it.
    """

    state: str
    where: str
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        told = f"{self.state:4}  {self.where}: {self.what}"
        return f"{told}\n      -> {self.remedy}" if self.remedy else told


def facts() -> dict[str, Any]:
    """What a process can say about itself and its machine; runs on the client and on workers."""
    address = _own_name()
    return {
        "time": time.time(),
        "python": ".".join(map(str, sys.version_info[:3])),
        "versions": {name: _version(name) for name in _PACKAGES},
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "free": shutil.disk_usage(os.getcwd()).free,
        "name": socket.gethostname(),
        "address": address,
        "gpus": len(_gpus()),
        "driver": _driver(),
        "cuda": _cuda(),
        "files": _open_files(),
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "from source" if name == "cosdask" else ""


def _own_name() -> str:
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return ""


def _gpus() -> list[str]:
    try:
        return [name for name in os.listdir("/proc/driver/nvidia/gpus")]
    except FileNotFoundError:
        return []


def _driver() -> str:
    """The version of NVIDIA's driver; "" without one."""
    try:
        with open("/proc/driver/nvidia/version") as file:
            found = _DRIVER.search(file.readline())
    except FileNotFoundError:
        return ""
    return found[1] if found else "unknown"


def _cuda() -> int:
    """The version of CUDA that JAX has a plugin for here; 0 without one."""
    found = (re.fullmatch(r"jax-cuda(\d+)-plugin", dist.metadata["Name"] or "") for dist in metadata.distributions())
    return max((int(match[1]) for match in found if match), default=0)


def _open_files() -> int:
    import resource

    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def check_machine(where: str, found: Mapping[str, Any]) -> Iterator[Finding]:
    """Memory, disk, name, files: of the client or of one worker."""
    yield Finding(
        GOOD, where, f"Python {found['python']}, {found['memory'] / _GIB:.1f} GiB memory, {found['gpus']} GPU(s)"
    )
    yield from _check_gpus(where, found)
    if found["free"] < _GIB:
        yield Finding(
            BAD, where, f"{found['free'] / _GIB:.2f} GiB free in the working folder", "make room: rows are staged there"
        )
    if found["files"] < 1024:
        yield Finding(NOTE, where, f"only {found['files']} open files allowed", "raise it: ulimit -n 4096")
    if not found["address"]:
        yield Finding(
            NOTE, where, f"the name {found['name']} leads nowhere", "enter it in /etc/hosts or in the name server"
        )
    elif found["address"].startswith("127.0.1."):
        yield Finding(
            NOTE,
            where,
            f"the name {found['name']} leads to {found['address']}",
            "enter the machine's own address in /etc/hosts: others that are told this name reach themselves",
        )


def _check_gpus(where: str, found: Mapping[str, Any]) -> Iterator[Finding]:
    """GPUs need a driver, JAX a plugin for CUDA, and that a driver that is new enough."""
    if not found["gpus"]:
        return
    cuda, driver = found["cuda"], found["driver"]
    if not cuda:
        yield Finding(
            NOTE, where, f"{found['gpus']} GPU(s), but JAX computes on the CPU here", "pip install 'jax[cuda12]'"
        )
        return
    least = _LEAST_DRIVER.get(cuda, 0)
    number = int(driver.partition(".")[0]) if driver[:1].isdigit() else 0
    if number < least:
        remedy = f"CUDA {cuda} needs {least} or newer: update the driver, or install JAX for an older CUDA"
        yield Finding(BAD, where, f"NVIDIA's driver is {driver or 'missing'}", remedy)
    else:
        yield Finding(GOOD, where, f"NVIDIA's driver {driver}, JAX with CUDA {cuda}")


def check_hadoop(folder: str | None = None, wanted: Mapping[str, Any] | None = None) -> Iterator[Finding]:
    """HDFS and YARN as this machine sees them.

    Args:
        folder: in HDFS, where this user may write; default: the user's home.
        wanted: of the options of ``YarnCluster``: ``queue``, ``worker_memory``, ``worker_vcores``, ``worker_gpus``.
    """
    from cosdask.cluster.yarn_client import talking, yarn_client
    from cosdask.cluster.yarn_spec import check_hadoop as configured

    try:
        configured()
    except ConfigError as error:
        yield Finding(BAD, "client", "no Hadoop client here", error.message)
        return
    yield _try("HDFS takes files", lambda: write_and_read(folder), "is the NameNode up, and may you write there?")
    try:
        with yarn_client() as client, talking("asking YARN"):
            yield from check_yarn(client, wanted or {})
    except CosdaskError as error:
        remedy = "is the ResourceManager up? See yarn-site.xml in HADOOP_CONF_DIR"
        yield Finding(BAD, "client", f"YARN does not answer: {error.message.splitlines()[0]}", remedy)


def _try(what: str, act: Callable[[], str], remedy: str, where: str = "client") -> Finding:
    try:
        said = act()
    except (CosdaskError, OSError) as error:
        return Finding(BAD, where, f"not so: {what}: {str(error).splitlines()[0]}", remedy)
    return Finding(GOOD, where, f"{what} ({said})")


def write_and_read(folder: str | None = None) -> str:
    """Writes, reads and removes a small file in HDFS; says how long it took. Runs on workers, too."""
    import getpass

    from cosdask.storage import atomic_write, filesystem, join, read_bytes

    user = os.environ.get("HADOOP_USER_NAME") or getpass.getuser()
    name = join(folder or f"hdfs:///user/{user}", f".cosdask-doctor-{uuid.uuid4().hex[:8]}")
    began = time.monotonic()
    atomic_write(name, b"well")
    data = read_bytes(name)
    fs, path = filesystem(name)
    fs.rm(path)
    if data != b"well":
        raise OSError(f"{name} came back otherwise than it was written")
    return f"{1000 * (time.monotonic() - began):.0f} ms"


def check_yarn(client: Any, wanted: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether YARN has nodes, a node has room for a worker, and the queue takes applications.

    Args:
        client: see :func:`cosdask.cluster.yarn_client.yarn_client`.
        wanted: see :func:`check_hadoop`.
    """
    nodes = [node.total_resources for node in client.get_nodes(states=["RUNNING"])]
    if not nodes:
        yield Finding(BAD, "client", "YARN has no node running", "are the NodeManagers up, and healthy?")
        return
    memory, cores, gpus = (sum(getattr(node, name) for node in nodes) for name in ("memory", "vcores", "gpus"))
    yield Finding(GOOD, "client", f"YARN answers ({len(nodes)} nodes, {memory} MiB, {cores} cores, {gpus} GPUs)")
    yield from _check_room(nodes, wanted)
    name = str(wanted.get("queue") or "default")
    try:
        state = str(client.get_queue(name).state)
    except ValueError:
        there = ", ".join(sorted(queue.name for queue in client.get_all_queues()))
        yield Finding(BAD, "client", f"YARN has no queue {name}", f"--queue: there are {there}")
        return
    if state != "RUNNING":
        yield Finding(BAD, "client", f"the queue {name} is {state.lower()}", "use another one, or have it started")
    else:
        yield Finding(GOOD, "client", f"the queue {name} takes applications")


def _check_room(nodes: Sequence[Any], wanted: Mapping[str, Any]) -> Iterator[Finding]:
    """A container that is larger than every node would wait for ever."""
    from cosdask.cluster.yarn_spec import YarnOptions, mebibytes

    usual = YarnOptions(n_workers=1)
    memory = mebibytes(wanted.get("worker_memory", usual.worker_memory), "worker_memory")
    cores, gpus = wanted.get("worker_vcores", usual.worker_vcores), wanted.get("worker_gpus", usual.worker_gpus)
    if not any(node.memory >= memory and node.vcores >= cores and node.gpus >= gpus for node in nodes):
        largest = max(nodes, key=lambda node: (node.gpus >= gpus, node.memory))
        yield Finding(
            BAD,
            "client",
            f"no node has room for a worker of {memory} MiB, {cores} core(s) and {gpus} GPU(s)",
            f"ask for less: the largest node has {largest.memory} MiB, {largest.vcores} cores, {largest.gpus} GPU(s)",
        )


def check_workers(client: Any, hdfs: bool) -> Iterator[Finding]:
    """What the workers of a Dask client say of themselves, of each other, and of HDFS."""
    here, asked = facts(), time.time()
    found: dict[str, dict[str, Any]] = client.run(facts)
    took = time.time() - asked
    names = {
        address: f"{record['name']} at {record['host']}"
        for address, record in client.scheduler_info(n_workers=-1)["workers"].items()
    }
    for address, theirs in found.items():
        where = names.get(address, address)
        yield from check_machine(where, theirs)
        yield from differences(where, here, theirs)
        skew = abs(theirs["time"] - asked - took / 2)
        if skew > _SKEW + took:
            yield Finding(NOTE, where, f"its clock differs by {skew:.0f} s", "let the machines keep time (NTP)")
    drivers = {theirs["driver"] for theirs in found.values() if theirs["gpus"]}
    if len(drivers) > 1:
        remedy = "ranks compute with different kernels: install one version, or take nodes of one label (--node-label)"
        yield Finding(NOTE, "workers", f"NVIDIA's drivers differ: {', '.join(sorted(drivers))}", remedy)
    yield from _reach(client, names)
    if hdfs:
        for address, said in client.run(_hdfs_from_worker).items():
            good = not said.startswith("!")
            remedy = "" if good else "does HADOOP_CONF_DIR reach the containers, and may they write?"
            yield Finding(GOOD if good else BAD, names.get(address, address), f"HDFS: {said.lstrip('!')}", remedy)


def differences(where: str, here: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[Finding]:
    """Versions that differ: Python's minor version and Dask's break tasks, others may change numbers."""
    if here["python"].rsplit(".", 1)[0] != theirs["python"].rsplit(".", 1)[0]:
        text = f"Python {theirs['python']}, the client has {here['python']}"
        yield Finding(BAD, where, text, "use the same environment: cosdask package makes one of the client's")
    for name in _PACKAGES:
        mine, other = here["versions"].get(name), theirs["versions"].get(name)
        if mine != other:
            breaks = name in ("cosdask", "dask", "distributed", "cloudpickle", "msgpack")
            text = f"{name} {other or 'is missing'}, the client has {mine or 'none'}"
            yield Finding(BAD if breaks else NOTE, where, text, "use the same environment: cosdask package")


def _reach(client: Any, names: Mapping[str, str]) -> Iterator[Finding]:
    """Whether each worker reaches a fresh port of every other one, as ranks will."""
    ports = client.run(_listen_once)
    answers = client.run(_connect_to, dict(ports))
    for source, results in answers.items():
        for target, said in results.items():
            if said:
                yield Finding(
                    BAD,
                    names.get(source, source),
                    f"cannot reach a port of {names.get(target, target)}: {said}",
                    "ranks meet on ports that the system chooses: open them between the nodes (firewall)",
                )
    if answers and not any(said for results in answers.values() for said in results.values()):
        yield Finding(GOOD, "workers", f"all {len(answers)} reach each other's ports")


def _listen_once(dask_worker: Any = None) -> tuple[str, int]:
    """A port of this worker's that takes connections for a while."""
    import threading

    host = dask_worker.address.rpartition(":")[0].rpartition("/")[2].strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    server = socket.create_server((host, 0), family=family)
    server.settimeout(20.0)

    def serve() -> None:
        with server:
            try:
                while True:
                    server.accept()[0].close()
            except TimeoutError:
                return  # everybody has called

    threading.Thread(target=serve, name="doctor", daemon=True).start()
    return host, server.getsockname()[1]


def _connect_to(ports: Mapping[str, tuple[str, int]]) -> dict[str, str]:
    """What went wrong with a connection to each worker; "" where it came about."""
    found = {}
    for worker, place in ports.items():
        try:
            host, port = place
            socket.create_connection((host, port), timeout=_CONNECT).close()
            found[worker] = ""
        except OSError as error:
            found[worker] = str(error)
    return found


def _hdfs_from_worker() -> str:
    try:
        return f"takes files ({write_and_read()})"
    except (CosdaskError, OSError) as error:
        return f"!{str(error).splitlines()[0]}"
