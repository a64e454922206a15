"""The configuration of the sandbox's Hadoop: its site files, and the ``yarn`` command that clients call.

Every address is on loopback. Timeouts are far shorter than Hadoop's own, so that a daemon that was killed is noticed
within seconds on a cluster of one machine.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

HOST = "127.0.0.1"
#: a queue of 5 % of the memory, for trying what happens where there is no room
SMALL_QUEUE = "small"


@dataclass(frozen=True)
class Ports:
    """The ports that clients and the other daemons must know beforehand."""

    namenode: int
    namenode_http: int
    manager: int
    scheduler: int
    tracker: int
    admin: int
    manager_http: int


def free_ports() -> Ports:
    """Ports that are free now."""
    with ExitStack() as held:
        probes = [held.enter_context(closing(socket.socket())) for _ in range(7)]
        for probe in probes:
            probe.bind((HOST, 0))
        return Ports(*(probe.getsockname()[1] for probe in probes))


def write_configuration(
    base: Path, classpath: str, java: Path, ports: Ports, datanodes: int, memory: int, cores: int
) -> None:
    """Fills ``base/conf`` and ``base/bin``.

    Args:
        base: the sandbox's folder.
        classpath: what to give Java besides ``conf``.
        java: the folder of ``bin/java``.
        ports: see :class:`Ports`.
        datanodes: how many there will be; a block has at most two copies.
        memory: MiB that a NodeManager has for containers.
        cores: virtual cores of a NodeManager.
    """
    conf = base / "conf"
    whole = f"{conf}:{classpath}"
    conf.mkdir(parents=True)
    for name, settings in (
        ("core-site", _core(base, ports)),
        ("hdfs-site", _hdfs(base, ports, min(2, datanodes))),
        ("yarn-site", _yarn(base, whole, ports, memory, cores)),
        ("capacity-scheduler", _queues()),
    ):
        (conf / f"{name}.xml").write_text(_xml(settings))
    (conf / "log4j.properties").write_text(
        "log4j.rootLogger=INFO,A\n"
        "log4j.appender.A=org.apache.log4j.ConsoleAppender\n"
        "log4j.appender.A.target=System.err\n"
        "log4j.appender.A.layout=org.apache.log4j.PatternLayout\n"
        "log4j.appender.A.layout.ConversionPattern=%d{ISO8601} %p %c{1}: %m%n\n"
    )
    # Maven's hadoop-hdfs.jar holds no web pages; empty folders let the HTTP servers start, WebHDFS and JMX work
    for application in ("hdfs", "datanode"):
        (conf / "webapps" / application).mkdir(parents=True)
    command = base / "bin" / "yarn"
    command.parent.mkdir()
    command.write_text(_YARN.format(classpath=whole, java=java))
    command.chmod(0o755)


def _core(base: Path, ports: Ports) -> dict[str, object]:
    return {"fs.defaultFS": f"hdfs://{HOST}:{ports.namenode}", "hadoop.tmp.dir": base / "tmp"}


def _hdfs(base: Path, ports: Ports, copies: int) -> dict[str, object]:
    return {
        "dfs.namenode.name.dir": f"file://{base}/nn",
        "dfs.namenode.http-address": f"{HOST}:{ports.namenode_http}",
        "dfs.replication": copies,
        "dfs.namenode.fs-limits.min-block-size": 4096,
        "dfs.namenode.safemode.extension": 0,
        # a DataNode that falls silent gets no new blocks after 3 s and counts as dead after 12 s
        "dfs.heartbeat.interval": 1,
        "dfs.namenode.heartbeat.recheck-interval": 1000,
        "dfs.namenode.stale.datanode.interval": 3000,
        "dfs.namenode.avoid.write.stale.datanode": "true",
        "dfs.namenode.avoid.read.stale.datanode": "true",
        "dfs.namenode.datanode.registration.ip-hostname-check": "false",
        "dfs.client.use.datanode.hostname": "false",
        "dfs.client.block.write.replace-datanode-on-failure.policy": "NEVER",
    }


def _yarn(base: Path, classpath: str, ports: Ports, memory: int, cores: int) -> dict[str, object]:
    manager = "yarn.resourcemanager"
    return {
        f"{manager}.hostname": HOST,
        f"{manager}.address": f"{HOST}:{ports.manager}",
        f"{manager}.scheduler.address": f"{HOST}:{ports.scheduler}",
        f"{manager}.resource-tracker.address": f"{HOST}:{ports.tracker}",
        f"{manager}.admin.address": f"{HOST}:{ports.admin}",
        f"{manager}.webapp.address": f"{HOST}:{ports.manager_http}",
        f"{manager}.scheduler.class": f"org.apache.hadoop.{_SCHEDULER}",
        f"{manager}.connect.max-wait.ms": 20000,
        f"{manager}.connect.retry-interval.ms": 1000,
        f"{manager}.nodemanagers.heartbeat-interval-ms": 100,
        "yarn.nm.liveness-monitor.expiry-interval-ms": 20000,
        # a busy machine may take long to start an application's master
        "yarn.am.liveness-monitor.expiry-interval-ms": 180000,
        "yarn.scheduler.minimum-allocation-mb": 64,
        "yarn.scheduler.maximum-allocation-mb": memory,
        "yarn.scheduler.maximum-allocation-vcores": cores,
        "yarn.nodemanager.resource.memory-mb": memory,
        "yarn.nodemanager.resource.cpu-vcores": cores,
        "yarn.nodemanager.pmem-check-enabled": "false",
        "yarn.nodemanager.vmem-check-enabled": "false",
        "yarn.nodemanager.disk-health-checker.enable": "false",
        "yarn.nodemanager.env-whitelist": "JAVA_HOME,HADOOP_CONF_DIR,HADOOP_USER_NAME,PATH,LANG,TZ",
        # containers' HOME: what they keep there goes with the sandbox
        "yarn.nodemanager.user-home-dir": base / "home",
        "yarn.nodemanager.sleep-delay-before-sigkill.ms": 250,
        "yarn.nodemanager.remote-app-log-dir": "/tmp/logs",
        "yarn.log-aggregation-enable": "true",
        "yarn.log-aggregation.retain-seconds": 86400,
        "yarn.application.classpath": classpath,
    }


_SCHEDULER = "yarn.server.resourcemanager.scheduler.capacity.CapacityScheduler"


def _queues() -> dict[str, object]:
    root = "yarn.scheduler.capacity.root"
    return {
        f"{root}.queues": f"default,{SMALL_QUEUE}",
        f"{root}.default.capacity": 95,
        f"{root}.default.maximum-capacity": 100,
        f"{root}.{SMALL_QUEUE}.capacity": 5,
        f"{root}.{SMALL_QUEUE}.maximum-capacity": 5,
        # a queue's share of the share would keep a single user of a small cluster waiting
        f"{root}.default.user-limit-factor": 10,
        "yarn.scheduler.capacity.maximum-am-resource-percent": "1.0",
        "yarn.scheduler.capacity.resource-calculator": (
            "org.apache.hadoop.yarn.util.resource.DominantResourceCalculator"
        ),
    }


def _xml(settings: Mapping[str, object]) -> str:
    rows = "".join(
        f"  <property><name>{name}</name><value>{escape(str(value))}</value></property>\n"
        for name, value in settings.items()
    )
    return f"<configuration>\n{rows}</configuration>\n"


#: what a Hadoop client's ``yarn`` does, as far as skein and cosdask ask
_YARN = """#!/bin/sh
classpath='{classpath}'
command=$1
[ $# -eq 0 ] || shift
case $command in
  classpath) echo "$classpath"; exit 0 ;;
  logs) class=LogsCLI ;;
  application|app) class=ApplicationCLI; set -- app "$@" ;;
  node) class=NodeCLI ;;
  *) echo "usage: yarn classpath|logs|application|node ..." >&2; exit 1 ;;
esac
exec '{java}/bin/java' -Xmx256m -XX:TieredStopAtLevel=1 -cp "$classpath" \\
  "org.apache.hadoop.yarn.client.cli.$class" "$@"
"""
