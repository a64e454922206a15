"""Where names lead, and errors that say what is near a missing file."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pytest

from cosdask.errors import StorageError
from cosdask.storage import exists, local_path, read_bytes, read_text, resolve, stamp


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a/b", "a/b"), ("/a/b", "/a/b"), ("file:a/b", "a/b"), ("file:/a/b", "/a/b"), ("file:///a/b", "/a/b")],
)
def test_local_spellings(name: str, expected: str) -> None:
    """Paths without a scheme and all spellings of file: are local (CaffeOnSpark writes file:/a/b)."""
    assert local_path(name) == Path(expected)


def test_other_schemes_are_not_local() -> None:
    """A URL of another filesystem is never mistaken for a local path; a colon alone makes no URL."""
    assert local_path("hdfs://nn:9000/a") is None
    assert local_path("memory://a") is None
    assert local_path("odd:name") == Path("odd:name")


def test_a_file_url_with_a_host_is_refused() -> None:
    """file://data/x is a common slip for file:data/x: it is answered, not read as /x."""
    with pytest.raises(StorageError, match="names the host 'data'"):
        local_path("file://data/x")


def test_read_through_a_url_and_locally(tmp_path: Path) -> None:
    """The same functions read local names and URLs."""
    (tmp_path / "a.txt").write_text("hello")
    with fsspec.open("memory://paths/a.txt", "wb") as file:
        file.write(b"hello")
    for name in (tmp_path / "a.txt", f"file:{tmp_path}/a.txt", "memory://paths/a.txt"):
        assert read_text(name) == "hello"
        assert exists(name)
        assert stamp(name).size == 5


def test_a_missing_file_names_what_is_near(tmp_path: Path) -> None:
    """A typing slip is answered with the nearest names of the folder."""
    (tmp_path / "lenet_solver.prototxt").write_text("")
    with pytest.raises(StorageError, match=r"no such file.*lenet_solver\.prototxt"):
        read_bytes(tmp_path / "lenet_solvr.prototxt")
    with pytest.raises(StorageError, match="not there either"):
        read_bytes(tmp_path / "no" / "file")
    with pytest.raises(StorageError, match="no such file"):
        stamp(tmp_path / "nothing")


def test_a_file_larger_than_the_limit_is_refused(tmp_path: Path) -> None:
    """Sizes read from outside are bounded; a file of just the limit passes."""
    (tmp_path / "x").write_bytes(b"12345")
    assert read_bytes(tmp_path / "x", limit=5) == b"12345"
    with pytest.raises(StorageError, match="larger than the 4 bytes"):
        read_bytes(tmp_path / "x", limit=4)


def test_binary_where_text_is_needed(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 are an error with the place, not garbage."""
    (tmp_path / "x").write_bytes(b"ok\xff")
    with pytest.raises(StorageError, match="byte 2"):
        read_text(tmp_path / "x")


def test_unknown_scheme_names_the_nearest() -> None:
    """A scheme nobody knows is answered with known ones."""
    with pytest.raises(StorageError, match="memory"):
        read_bytes("memry://a/b")


def test_folder_where_a_file_is_needed(tmp_path: Path) -> None:
    """Reading a folder says so."""
    with pytest.raises(StorageError, match="folder"):
        read_bytes(tmp_path)


def test_resolve_looks_in_the_working_directory_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name inside a file counts from the working directory as in Caffe, then from beside the file."""
    work, beside = tmp_path / "work", tmp_path / "beside"
    work.mkdir()
    beside.mkdir()
    (beside / "net.prototxt").write_text("")
    monkeypatch.chdir(work)
    assert resolve("net.prototxt", beside) == os.path.join(beside, "net.prototxt")
    (work / "net.prototxt").write_text("")
    assert resolve("net.prototxt", beside) == "net.prototxt"
    assert resolve("gone", beside) == "gone"
    assert resolve("/a/b", beside) == "/a/b"
    assert resolve("hdfs://nn/x", beside) == "hdfs://nn/x"
    assert resolve("file:net.prototxt", None) == "net.prototxt"
