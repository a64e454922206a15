"""Hadoop's jars: fetched once, whole or absent, and a clear word where that cannot be."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest

from cosdask.cluster.jars import hadoop_classpath, hadoop_jars, java_home
from cosdask.errors import ConfigError, DeadlineError, StorageError
from tests.cluster.needs import needs_hadoop


def _maven(folder: Path, script: str) -> None:
    """A program named ``mvn`` that does what ``script`` says; ``$out`` is the folder asked for."""
    folder.mkdir(exist_ok=True)
    program = folder / "mvn"
    program.write_text(
        f"#!/bin/sh\nfor word; do case $word in -DoutputDirectory=*) out=${{word#*=}};; esac; done\n{script}\n"
    )
    program.chmod(0o755)
    (folder / "java").symlink_to("/bin/true")


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of jars, and first on PATH a folder for a ``mvn`` of the test's own."""
    monkeypatch.setenv("COSDASK_JARS_DIR", str(tmp_path / "kept"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin")
    return tmp_path / "kept"


_BRINGS = (
    "echo x >> {calls}; mkdir -p $out; sed -n 's:.*<artifactId>\\(hadoop-[a-z-]*\\)</artifactId><version>.*"
    '</dependency>.*:\\1:p\' pom.xml | while read name; do touch "$out/$name-9.jar"; done'
)


def test_asked_by_several_at_once_it_fetches_once(tmp_path: Path, kept: Path) -> None:
    """One fetch serves everybody, and the next call needs no Maven."""
    calls = tmp_path / "calls"
    _maven(tmp_path / "bin", "sleep 0.3; " + _BRINGS.format(calls=calls))
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(hadoop_jars("9"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 3 and len(set(found)) == 1
    assert calls.read_text().count("x") == 1
    (tmp_path / "bin" / "mvn").unlink()
    assert (hadoop_jars("9") / "hadoop-hdfs-9.jar").exists()
    assert not list(kept.glob("fetch-*"))


def test_what_fails_leaves_nothing_and_says_mavens_words(tmp_path: Path, kept: Path) -> None:
    """A failing, lying or hanging Maven is one error with the reason, and no half folder stays."""
    _maven(tmp_path / "bin", "echo '[ERROR] no route to the repository'; exit 1")
    with pytest.raises(StorageError, match="no route to the repository"):
        hadoop_jars("9")
    (tmp_path / "bin" / "java").unlink()
    _maven(tmp_path / "bin", "mkdir -p $out; touch $out/hadoop-common-9.jar")
    with pytest.raises(StorageError, match=r"did not bring .*hadoop-hdfs"):
        hadoop_jars("9")
    (tmp_path / "bin" / "java").unlink()
    _maven(tmp_path / "bin", "sleep 60")
    with pytest.raises(DeadlineError, match="within"):
        hadoop_jars("9", deadline=1)
    assert [path.name for path in kept.iterdir() if path.is_dir()] == []


def test_without_java_or_maven_it_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says which program is missing."""
    monkeypatch.setenv("COSDASK_JARS_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(ConfigError, match="java and mvn not here"):
        hadoop_jars()
    with pytest.raises(ConfigError, match="Java 17"):
        java_home()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="holds no bin/java"):
        java_home()


@needs_hadoop
@pytest.mark.slow
def test_the_jars_run(tmp_path: Path) -> None:
    """Hadoop's own main class answers from the classpath given."""
    command = [str(java_home() / "bin" / "java"), "-cp", hadoop_classpath(), "org.apache.hadoop.util.VersionInfo"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert said.startswith("Hadoop 3.4.2")
