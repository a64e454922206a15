"""Hadoop's own jars, for the sandbox and the tests: named by Maven coordinates, fetched by ``mvn``, kept once a user.

A cosdask that trains needs none of this: its workers speak to HDFS without Java, and a real cluster brings its own
jars. Maven's settings (mirrors, proxies, local repository) are used as the user has them, and every file's checksum
is held against the one its repository states.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cosdask.errors import ConfigError, DeadlineError, StorageError

#: The release the sandbox runs, and the tests run against.
HADOOP_VERSION = "3.4.2"

# timelineservice: the ResourceManager loads it even when switched off.
# mapreduce-client-core: skein's bytecode names it.
_ARTIFACTS = (
    "hadoop-common",
    "hadoop-hdfs",
    "hadoop-hdfs-client",
    "hadoop-mapreduce-client-core",
    "hadoop-yarn-client",
    "hadoop-yarn-server-nodemanager",
    "hadoop-yarn-server-resourcemanager",
    "hadoop-yarn-server-timelineservice",
)
_FETCHED = ".complete"


def missing_tools() -> str | None:
    """Why Hadoop cannot be had here: the sentence to show, or None when Java and Maven are both there.

    Example:
        >>> missing_tools() is None or "not here" in missing_tools()
        True
    """
    absent = [tool for tool in ("java", "mvn") if shutil.which(tool) is None]
    if not absent:
        return None
    return f"Hadoop's own programs need Java 17 and Maven: {' and '.join(absent)} not here (PATH)"


def java_home() -> Path:
    """The folder that holds ``bin/java``: ``JAVA_HOME``, else where the ``java`` on ``PATH`` really lies.

    Raises:
        ConfigError: no Java, or a ``JAVA_HOME`` without one.
    """
    named = os.environ.get("JAVA_HOME")
    found = Path(named) / "bin" / "java" if named else shutil.which("java")
    if found is None or not Path(found).exists():
        place = f"JAVA_HOME={named} holds no bin/java" if named else "there is no java on PATH"
        raise ConfigError(f"{place}; install a Java 17 runtime, or set JAVA_HOME to one")
    return Path(found).resolve().parent.parent


def hadoop_classpath(version: str = HADOOP_VERSION, deadline: float = 600) -> str:
    """What ``java -cp`` takes to run Hadoop's classes: every jar of :func:`hadoop_jars`.

    Args:
        version: Hadoop's version.
        deadline: seconds, see :func:`hadoop_jars`.
    """
    return f"{hadoop_jars(version, deadline)}/*"


def hadoop_jars(version: str = HADOOP_VERSION, deadline: float = 600) -> Path:
    """The folder of Hadoop's jars (HDFS, YARN, their clients and all they need), fetched on the first call.

    They are kept in ``COSDASK_JARS_DIR``, else ``cosdask/jars`` in the user's cache folder, under a name made of the
    versions asked for; processes that ask at the same time wait for one fetch. About 91 MB.

    Args:
        version: Hadoop's version.
        deadline: seconds to wait for Maven, or for another process that is fetching.

    Raises:
        ConfigError: Java or Maven is not there.
        StorageError: Maven could not fetch; its own words are in the message.
        DeadlineError: not there in time.
    """
    return maven_jars(f"hadoop-{version}", [f"org.apache.hadoop:{name}:{version}" for name in _ARTIFACTS], deadline)


def maven_jars(name: str, artifacts: Sequence[str], deadline: float = 600) -> Path:
    """The folder of some jars and all that they need to run, kept and fetched as :func:`hadoop_jars` says.

    Args:
        name: of the folder, to which a part made of what is asked for is added.
        artifacts: ``group:artifact:version``.
        deadline: seconds.

    Raises:
        errors: as of :func:`hadoop_jars`.
    """
    pom = _pom(artifacts)
    key = hashlib.sha256(pom.encode()).hexdigest()[:12]
    folder = _jars_folder() / f"{name}-{key}"
    if (folder / _FETCHED).exists():
        return folder
    why = missing_tools()
    if why is not None:
        raise ConfigError(why)
    folder.parent.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + deadline
    with _only_one(folder.with_suffix(".lock"), ends):
        if not (folder / _FETCHED).exists():
            _fetch(pom, [artifact.split(":")[1] for artifact in artifacts], folder, ends)
    return folder


def _jars_folder() -> Path:
    named = os.environ.get("COSDASK_JARS_DIR")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cosdask" / "jars"


def _pom(artifacts: Sequence[str]) -> str:
    dependencies = "\n".join(
        f"<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId>"
        f"<version>{version}</version></dependency>"
        for group, name, version in (artifact.split(":") for artifact in artifacts)
    )
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>\n'
        "<groupId>cosdask</groupId><artifactId>hadoop-jars</artifactId><version>1</version>"
        f"<packaging>pom</packaging>\n<dependencies>\n{dependencies}\n</dependencies></project>\n"
    )


def _fetch(pom: str, wanted: Sequence[str], folder: Path, ends: float) -> None:
    """Runs Maven beside ``folder`` and gives the result its name when it is whole."""
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=folder.parent) as work:
        (Path(work) / "pom.xml").write_text(pom)
        jars = Path(work) / "jars"
        goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={jars}"]
        _run(["mvn", "--batch-mode", "--quiet", "--strict-checksums", *goal], work, ends)
        names = [jar.name for jar in jars.glob("*.jar")]
        lacking = [name for name in wanted if not any(jar.startswith(name + "-") for jar in names)]
        if lacking:
            raise StorageError(f"Maven ended well but did not bring {', '.join(lacking)}", path=str(folder))
        (jars / _FETCHED).touch()
        # left by something that was killed here
        shutil.rmtree(folder, ignore_errors=True)
        jars.rename(folder)


def _run(command: Sequence[str], folder: str, ends: float, environment: Mapping[str, str] | None = None) -> None:
    left = max(1.0, ends - time.monotonic())
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=left)
    except subprocess.TimeoutExpired as error:
        raise DeadlineError(f"Maven did not bring the jars within {left:.0f} s; is the network slow?") from error
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode:
        lines = [line for line in said.splitlines() if "ERROR" in line] or said.splitlines()
        told = "\n  ".join(lines[:6])
        raise StorageError(
            f"Maven could not fetch the jars (exit code {process.returncode}); a mirror or proxy is set in "
            f"~/.m2/settings.xml. It says:\n  {told}"
        )


@contextlib.contextmanager
def _only_one(lock: Path, ends: float) -> Iterator[None]:
    """Holds a file lock; the system frees it even when its holder is killed."""
    with lock.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > ends:
                    raise DeadlineError(
                        f"another process has been fetching Hadoop's jars ({lock}) for too long"
                    ) from error
                time.sleep(0.2)
        yield
