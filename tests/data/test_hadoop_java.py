"""Hadoop's own reader reads our SequenceFiles and ours reads Hadoop's, each codec; a JDK reads our keys."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from cosdask.data.hadoop import (
    CODECS,
    RowKey,
    SequenceReader,
    SequenceWriter,
    pair_key,
    read_bytes,
    row_key,
    write_bytes,
)
from cosdask.errors import StorageError
from tests.data.sequence_rows import Row, digest, hadoop_rows

#: zstd's own library for Java: Hadoop's jars bring every codec but this one
_ZSTD = "com.github.luben:zstd-jni:1.5.7-28"
_JAVA = Path(__file__).with_name("java")
_FORMS = [("none", "default"), *((form, codec) for form in ("record", "block") for codec in CODECS)]
_KEYS = {
    "pair": (pair_key("caf\u00e9/cat1.jpg", "0"), "caf\u00e9/cat1.jpg|0"),
    "row": (row_key(RowKey("00000000", "7", 3, 256, 256, True)), "00000000|7|3|256|256|encoded|515"),
    "digit": (row_key(RowKey("1", "7", 1, 28, 28, False)), "1|7|1|28|28|raw|57"),
}

pytestmark = pytest.mark.slow


def _missing() -> str | None:
    if shutil.which("javac") is None:
        return "a Java compiler (JDK 17) is not here"
    from cosdask.cluster.jars import missing_tools

    return missing_tools()


def _zstd(hadoop: str, folder: Path) -> str:
    """A class path that gives Hadoop the codec it has no library for, or nothing where that is not to be had."""
    from cosdask.cluster.jars import java_home, maven_jars

    try:
        library = f"{maven_jars('zstd', [_ZSTD])}/*"
    except StorageError:
        return ""
    source = _JAVA / "org" / "apache" / "hadoop" / "io" / "compress" / "ZStandardCodec.java"
    words = [str(java_home() / "bin" / "javac"), "-cp", f"{hadoop}:{library}", "-d", str(folder), str(source)]
    subprocess.run(words, check=True, timeout=120)
    return f"{folder}:{library}:"


def _write(path: Path, rows: list[Row], compression: str, codec: str) -> None:
    with path.open("wb") as file, SequenceWriter(file, compression=compression, codec=codec) as writer:
        for key, value in rows:
            writer.append(write_bytes(key), write_bytes(value))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[str]]]:
    """Hadoop's and our files in one folder, and what Hadoop said of each."""
    why = _missing()
    if why and not os.environ.get("CI"):
        pytest.skip(why)
    from cosdask.cluster.jars import hadoop_classpath, java_home

    folder = tmp_path_factory.mktemp("sequence")
    for compression, codec in _FORMS:
        _write(folder / f"cosdask-{compression}-{codec}.seq", hadoop_rows(150), compression, codec)
    for name, (key, _) in _KEYS.items():
        _write(folder / f"cosdask-key-{name}.seq", [(key, b"value")], "none", "default")
    flags = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dfile.encoding=UTF-8", "-Drows=150"]
    program, hadoop = _JAVA / "SequenceFiles.java", hadoop_classpath()
    classes = _zstd(hadoop, tmp_path_factory.mktemp("classes")) + hadoop
    command = [str(java_home() / "bin" / "java"), *flags, "-cp", classes, str(program), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.split(" ", 2) for line in done.stdout.splitlines()]
    return folder, {name: [verb, *rest] for verb, name, *rest in lines}


@pytest.mark.parametrize(("compression", "codec"), _FORMS)
def test_each_codec_both_ways(told: tuple[Path, dict[str, list[str]]], compression: str, codec: str) -> None:
    """Rows written by one side are the rows that the other reads."""
    folder, said = told
    theirs, ours = (f"{side}-{compression}-{codec}.seq" for side in ("hadoop", "cosdask"))
    if codec == "zstd" and said[theirs][0] == "cannot" and "native" in said[theirs][1]:
        pytest.skip(f"{_ZSTD} could not be fetched, and Hadoop has no zstd of its own here: {said[theirs][1]}")
    assert said[theirs] == ["wrote"]
    data = (folder / theirs).open("rb")
    with data:
        reader = SequenceReader(data, theirs, (folder / theirs).stat().st_size)
        rows = [(read_bytes(record.key), read_bytes(record.value)) for record in reader.records()]
    assert rows == hadoop_rows(150)
    assert said[ours] == ["read", f"150 {digest(hadoop_rows(150))}"]


@pytest.mark.parametrize("name", _KEYS)
def test_a_jdk_reads_our_keys(told: tuple[Path, dict[str, list[str]]], name: str) -> None:
    """ObjectInputStream gives the tuple with its strings, boxed numbers and truth value."""
    key, text = _KEYS[name]
    assert told[1][f"cosdask-key-{name}.seq"] == ["read", f"1 {digest([(key, b'value')])} {text}"]
