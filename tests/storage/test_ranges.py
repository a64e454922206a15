"""Files read by ranges: what was asked for, side by side, and little else."""

from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import hypothesis
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import strategies as st

from cosdask.errors import StorageError
from cosdask.storage import RangeFile, merged_ranges

DATA = bytes(range(256)) * 8


class Meeting:
    """A file whose reads wait until several are under way."""

    opened: ClassVar[list[Any]] = []
    barrier = threading.Barrier(2, timeout=30)

    def __init__(self, file: Any) -> None:
        self.file, self.closed, self.at = file, False, 0
        Meeting.opened.append(self)

    def seek(self, at: int) -> None:
        self.at = at

    def read(self, size: int) -> bytes:
        if self.at >= 1500:
            raise OSError("the wire is cut")
        Meeting.barrier.wait()
        # Less than was asked for, as filesystems may give.
        self.file.seek(self.at)
        return bytes(self.file.read(min(size, 10)))

    def close(self) -> None:
        self.closed = True
        self.file.close()


class MeetingFileSystem(MemoryFileSystem):
    """Memory under a scheme of its own."""

    protocol = "meeting"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(MemoryFileSystem._strip_protocol(path.replace("meeting://", "memory://")))

    def _open(self, path: str, mode: str = "rb", **keywords: Any) -> Any:
        file = super()._open(path, mode, **keywords)
        return Meeting(file) if mode == "rb" else file


def test_many_ranges_are_read_side_by_side_and_all_handles_closed() -> None:
    """Two requests meet, so neither waits for the other's end; short reads go on; errors name file and bytes."""
    fsspec.register_implementation("meeting", MeetingFileSystem, clobber=True)
    fsspec.filesystem("meeting").pipe("/rows", DATA)
    Meeting.opened.clear()
    with RangeFile("meeting://rows") as file:
        assert bytes(file.gather([(0, 20), (100, 120)])) == DATA[:20] + DATA[100:120]
        with pytest.raises(StorageError, match=r"meeting://rows: bytes 1600 to 1700 cannot be read: the wire is cut"):
            file.gather([(1600, 1700), (1800, 1900)])
    assert len(Meeting.opened) >= 2 and all(handle.closed for handle in Meeting.opened)


def test_local_files_are_mapped_once_and_their_views_outlive_them(tmp_path: Path) -> None:
    """Readers share the mapping; a file that was replaced is mapped anew."""
    path = tmp_path / "rows"
    path.write_bytes(DATA)
    with RangeFile(path) as one, RangeFile(path) as two:
        first = one.mapped()
        assert first is two.mapped()
        assert bytes(one.gather([(1, 3), (2040, 3000)])) == DATA[1:3] + DATA[2040:]
    (tmp_path / "new").write_bytes(b"other")
    (tmp_path / "new").replace(path)
    with RangeFile(path) as file:
        found = file.mapped()
        assert found is not None and found.tobytes() == b"other" and file.read(3, 99) == b"er"
    assert first is not None and first.tobytes() == DATA
    with pytest.raises(StorageError, match="no such file"):
        RangeFile(tmp_path / "none")


@hypothesis.given(st.lists(st.tuples(st.integers(0, 1 << 17), st.integers(1, 1 << 12)), min_size=1, max_size=60))
def test_merged_ranges_hold_all_and_little_else(spans: list[tuple[int, int]]) -> None:
    """Each range lies in one of those found, which do not overlap; what is fetched in vain is a few hundredths."""
    start = np.array([first for first, _ in spans])
    stop = start + np.array([length for _, length in spans])
    found = merged_ranges(start, stop)
    assert all(any(low <= a and b <= high for low, high in found) for a, b in zip(start, stop, strict=True))
    assert all(before[1] < after[0] for before, after in pairwise(found))
    wanted = np.zeros(1 << 18, np.bool_)
    for a, b in zip(start, stop, strict=True):
        wanted[a:b] = True
    assert sum(high - low for low, high in found) <= 1.05 * wanted.sum()
