"""A small real Hadoop on this machine: HDFS and YARN with a process a daemon, every listener on loopback.

For trying everything without a cluster, and what cosdask's own tests run against. Each NodeManager has a loopback
address of its own (127.0.0.2 and on), so that YARN places containers, and HDFS blocks, on what looks like several
hosts; such addresses exist on Linux only.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cosdask.cluster.jars import hadoop_classpath, java_home
from cosdask.cluster.sandbox_conf import HOST, free_ports, write_configuration
from cosdask.errors import ConfigError, DeadlineError, StorageError

_HDFS = "org.apache.hadoop.hdfs.server"
_YARN = "org.apache.hadoop.yarn.server"
#: seconds that daemons have to end by themselves
_GRACE = 10.0
_STATE = "sandbox.json"
#: daemons end in this order, so that none waits for another that is gone
_ORDER = ("nm", "rm", "dn", "nn")


class Sandbox:
    """A running (or stopped) Hadoop in a folder of its own.

    Made by :meth:`start`, or by :meth:`attach` where one was started before.

    Attributes:
        folder: where configuration, logs and blocks lie.
        state: addresses and processes, as in its ``sandbox.json``.
    """

    def __init__(self, folder: Path, state: dict[str, Any]) -> None:
        self.folder, self.state = folder, state
        # those started by this process: it has to collect what they leave
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @classmethod
    def start(
        cls,
        folder: str | os.PathLike[str] | None = None,
        datanodes: int = 2,
        nodemanagers: int = 2,
        memory: int = 4096,
        cores: int = 4,
        deadline: float = 120,
    ) -> Sandbox:
        """Starts an empty HDFS and a YARN; about 15 s and 1.3 GB with two nodes each.

        Args:
            folder: a new or empty one, or an earlier sandbox's, which is emptied; default: in the user's cache folder.
            datanodes: how many DataNodes; blocks have at most two copies.
            nodemanagers: how many NodeManagers.
            memory: MiB that each NodeManager has for containers.
            cores: virtual cores of each NodeManager.
            deadline: seconds until all must answer.

        Raises:
            ConfigError: no Java or Maven, a number that cannot work, or one is running in the folder.
            StorageError: the folder holds other things, or a daemon ended; its log is named.
            DeadlineError: not all came up in time.
        """
        if min(datanodes, nodemanagers, cores) < 1 or memory < 64:
            raise ConfigError("a sandbox has at least one DataNode, one NodeManager, one core and 64 MiB")
        base = default_folder() if folder is None else Path(folder).absolute()
        classpath, java = hadoop_classpath(), java_home()
        _emptied(base)
        ports = free_ports()
        write_configuration(base, classpath, java, ports, datanodes, memory, cores)
        state = {
            "namenode": f"hdfs://{HOST}:{ports.namenode}",
            "namenode_http": f"http://{HOST}:{ports.namenode_http}",
            "manager_http": f"http://{HOST}:{ports.manager_http}",
            "java": str(java),
            "classpath": f"{base}/conf:{classpath}",
            "datanodes": datanodes,
            "nodemanagers": nodemanagers,
            "processes": {},
        }
        sandbox = cls(base, state)
        try:
            sandbox._run_once(f"{_HDFS}.namenode.NameNode", ["-format", "-nonInteractive"], deadline)
            for name in sandbox.names():
                sandbox.launch(name)
            sandbox.wait(deadline)
        except BaseException:
            sandbox.stop()
            raise
        return sandbox

    @classmethod
    def attach(cls, folder: str | os.PathLike[str] | None = None) -> Sandbox:
        """The sandbox that was started in a folder.

        Raises:
            ConfigError: there is none.
        """
        base = default_folder() if folder is None else Path(folder).absolute()
        try:
            state = json.loads((base / _STATE).read_text())
        except FileNotFoundError as error:
            raise ConfigError(f"no sandbox in {base}; start one with: cosdask sandbox start") from error
        except ValueError as error:
            raise StorageError(f"{base / _STATE}: damaged: {error}", path=str(base / _STATE)) from error
        return cls(base, state)

    # -- what clients need -------------------------------------------------------------------------------------------

    @property
    def namenode(self) -> str:
        """The URL of its HDFS, such as ``hdfs://127.0.0.1:40123``."""
        return str(self.state["namenode"])

    def environment(self) -> dict[str, str]:
        """The variables that point clients (hdfs-native, skein) at this Hadoop."""
        path = os.environ.get("PATH", os.defpath)
        return {
            "HADOOP_CONF_DIR": str(self.folder / "conf"),
            "HADOOP_USER_NAME": getpass.getuser(),
            "JAVA_HOME": str(self.state["java"]),
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{path}",
        }

    def names(self) -> list[str]:
        """Its daemons: ``nn``, ``rm``, ``dn0``, ``nm0`` and on."""
        nodes = [f"dn{i}" for i in range(self.state["datanodes"])] + [
            f"nm{i}" for i in range(self.state["nodemanagers"])
        ]
        return ["nn", "rm", *nodes]

    def status(self) -> dict[str, str]:
        """For each daemon ``"pid N"``, or ``"not running"``."""
        found = {name: self.pid(name) for name in self.names()}
        return {name: f"pid {pid}" if pid else "not running" for name, pid in found.items()}

    def pid(self, name: str) -> int | None:
        """A daemon's process id, or None where it does not run."""
        entry = self.state["processes"].get(name)
        return entry["pid"] if entry and _started_at(entry["pid"]) == entry["started"] else None

    # -- daemons -----------------------------------------------------------------------------------------------------

    def launch(self, name: str) -> int:
        """Starts one daemon (again) and returns its pid; see :meth:`wait`."""
        main, arguments = self._daemon(name)
        process = self._java(main, arguments, name)
        pid = process.pid
        self._children[pid] = process
        self.state["processes"][name] = {"pid": pid, "started": _started_at(pid)}
        self._keep()
        return pid

    def kill(self, name: str) -> None:
        """Ends one daemon without warning (SIGKILL).

        Raises:
            ConfigError: it does not run.
        """
        pid = self.pid(name)
        if pid is None:
            raise ConfigError(f"the daemon {name} does not run; there are {', '.join(self.names())}")
        os.kill(pid, signal.SIGKILL)
        self._gone(pid, _GRACE)

    def wait(self, deadline: float) -> None:
        """Waits until HDFS takes files and every node has reported.

        Raises:
            StorageError: a daemon ended; its log is named.
            DeadlineError: not ready in time.
        """
        ends = time.monotonic() + deadline
        while True:
            lacking = self._lacking()
            if not lacking:
                return
            for name in self.names():
                if self.pid(name) is None:
                    raise StorageError(f"the daemon {name} ended: {self._last_words(name)}")
            if time.monotonic() > ends:
                raise DeadlineError(f"the sandbox was not ready within {deadline:.0f} s: {lacking}")
            time.sleep(0.2)

    def stop(self) -> None:
        """Ends every daemon and with them their containers; the folder with its logs stays."""
        running = [(name, pid) for name in self.names() if (pid := self.pid(name))]
        for _, pid in sorted(running, key=lambda entry: _ORDER.index(entry[0][:2])):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        ends = time.monotonic() + _GRACE
        for _, pid in running:
            if not self._gone(pid, max(0.0, ends - time.monotonic())):
                # a NodeManager told to end before it has registered never does
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                self._gone(pid, _GRACE)
        for process in self._children.values():
            process.poll()
        self.state["processes"] = {}
        if self.folder.is_dir():
            self._keep()

    def remove(self) -> None:
        """Stops and deletes the folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _daemon(self, name: str) -> tuple[str, list[str]]:
        """Main class and arguments."""
        kind, number = name[:2], name[2:]
        if kind == "nn":
            return f"{_HDFS}.namenode.NameNode", []
        if kind == "rm":
            return f"{_YARN}.resourcemanager.ResourceManager", []
        here = f"127.0.0.{int(number) + 2}"
        if kind == "dn":
            settings = {
                "dfs.datanode.data.dir": f"file://{self.folder}/{name}",
                "dfs.datanode.address": f"{HOST}:0",
                # readers over HTTP are sent to the name below
                "dfs.datanode.http.address": f"{here}:0",
                "dfs.datanode.ipc.address": f"{HOST}:0",
                # the name that block locations give: that of the NodeManager beside it
                "dfs.datanode.hostname": here,
            }
            return f"{_HDFS}.datanode.DataNode", _settings(settings)
        settings = {
            "yarn.nodemanager.local-dirs": f"{self.folder}/{name}/local",
            "yarn.nodemanager.log-dirs": f"{self.folder}/{name}/log",
            "yarn.nodemanager.hostname": here,
            "yarn.nodemanager.address": f"{here}:0",
            "yarn.nodemanager.localizer.address": f"{here}:0",
            "yarn.nodemanager.webapp.address": f"{here}:0",
        }
        return f"{_YARN}.nodemanager.NodeManager", _settings(settings)

    def _java(self, main: str, arguments: Sequence[str], log: str) -> subprocess.Popen[bytes]:
        options = [
            "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.net.preferIPv4Stack=true",
            # the web applications of YARN's daemons need it on Java 17
            "--add-opens=java.base/java.lang=ALL-UNNAMED",
        ]  # fmt: skip
        (self.folder / "logs").mkdir(exist_ok=True)
        with (self.folder / "logs" / f"{log}.log").open("ab") as output:
            return subprocess.Popen(
                [f"{self.state['java']}/bin/java", *options, "-cp", self.state["classpath"], main, *arguments],
                env={**os.environ, **self.environment()},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _run_once(self, main: str, arguments: Sequence[str], deadline: float) -> None:
        process = self._java(main, arguments, "format")
        try:
            code = process.wait(timeout=deadline)
        except subprocess.TimeoutExpired as error:
            raise DeadlineError(f"{main} did not end within {deadline:.0f} s") from error
        finally:
            process.kill()
            process.wait(timeout=_GRACE)
        if code:
            raise StorageError(f"{main} ended with exit code {code}: {self._last_words('format')}")

    def _gone(self, pid: int, seconds: float) -> bool:
        """Waits for the end of a process; whether it came in time."""
        ends = time.monotonic() + seconds
        while _started_at(pid) is not None:
            if time.monotonic() > ends:
                return False
            time.sleep(0.05)
        if pid in self._children:
            self._children.pop(pid).wait(timeout=_GRACE)
        return True

    def _lacking(self) -> str:
        """What is not ready yet, in words; "" where all is."""
        try:
            names = _bean(self.state["namenode_http"], "NameNode", "FSNamesystemState")
            nodes = _bean(self.state["manager_http"], "ResourceManager", "ClusterMetrics")
        except (OSError, ValueError, LookupError) as error:
            return f"no answer yet ({error})"
        live, active, mode = names["NumLiveDataNodes"], nodes["NumActiveNMs"], names["FSState"]
        if live >= self.state["datanodes"] and mode == "Operational" and active >= self.state["nodemanagers"]:
            return ""
        return f"HDFS is {mode} with {live} DataNode(s), YARN has {active} NodeManager(s)"

    def _last_words(self, name: str) -> str:
        log = self.folder / "logs" / f"{name}.log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        telling = [line for line in lines if "ERROR" in line or "Exception" in line or "Error:" in line]
        return f"{(telling or lines or ['it said nothing'])[-1].strip()} (see {log})"

    def _keep(self) -> None:
        (self.folder / _STATE).write_text(json.dumps(self.state, indent=1) + "\n")


def default_folder() -> Path:
    """Where a sandbox lies that was given no folder: ``cosdask/sandbox`` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cosdask" / "sandbox"


def _emptied(base: Path) -> None:
    """Makes the folder ready for a new sandbox; what is not a sandbox's is never deleted."""
    if base.is_dir() and any(base.iterdir()):
        if not (base / _STATE).exists():
            raise StorageError(f"{base} holds other things; give the sandbox a new folder", path=str(base))
        running = [name for name, said in Sandbox.attach(base).status().items() if said != "not running"]
        if running:
            raise ConfigError(f"a sandbox runs in {base} ({', '.join(running)}); end it with: cosdask sandbox stop")
        shutil.rmtree(base)
    base.mkdir(parents=True, exist_ok=True)
    # from here on it is a sandbox's
    (base / _STATE).write_text(json.dumps({"processes": {}, "datanodes": 0, "nodemanagers": 0}))


def _settings(settings: Mapping[str, str]) -> list[str]:
    return [word for name, value in settings.items() for word in ("-D", f"{name}={value}")]


def _bean(address: str, service: str, name: str) -> dict[str, Any]:
    """One bean of a daemon's own report (JMX over HTTP), asked for directly and never through a proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{address}/jmx?qry=Hadoop:service={service},name={name}", timeout=5) as answer:
        found: dict[str, Any] = json.load(answer)["beans"][0]
    return found


def _started_at(pid: int) -> str | None:
    """When a living process started, in the kernel's ticks: with the pid it names one process for ever."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else fields[19]
