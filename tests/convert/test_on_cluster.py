"""Conversions on workers: the same rows, errors that reach the client, and a worker that dies in the midst."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pyarrow as pa
import pytest
from distributed import Client

import cosdask
from cosdask.convert import Input, convert, mean_image, open_input
from cosdask.convert.work import WorkFolder
from cosdask.data import write_lmdb
from cosdask.errors import ConfigError, DataError

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cluster")]


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Two workers, to which this module's classes go by value."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with cosdask.LocalCluster(n_workers=2, threads_per_worker=1) as cluster, Client(cluster) as connected:
        yield connected


@pytest.fixture(scope="module")
def lmdb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "lmdb"
    write_lmdb(path, np.random.default_rng(2).integers(0, 256, (50, 1, 6, 6), dtype=np.uint8), range(50))
    return path


class Deadly(Input):
    """The rows of another input; the first one who reads row 20 dies."""

    def __init__(self, rows: Input, mark: Path) -> None:
        self.inner, self.mark, self.place = rows, mark, rows.place

    @property
    def rows(self) -> int:
        return self.inner.rows

    def read(self, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        if start <= 20 < stop and not self.mark.exists():
            self.mark.touch()
            os._exit(1)
        yield from self.inner.read(start, stop)

    def state(self) -> Any:
        return None


def labels(path: Path, kind: str) -> list[str]:
    rows = open_input(str(path), kind)
    return [label for batch in rows.read(0, rows.rows) for label in batch.column("label").to_pylist()]


@pytest.mark.parametrize("kind", ["sequence", "lmdb"])
def test_a_death_changes_nothing(kind: str, client: Client, lmdb: Path, tmp_path: Path) -> None:
    """Parts are made side by side, a database by one writer; who dies is replaced, and all rows are there in order."""
    rows = Deadly(open_input(str(lmdb)), tmp_path / "died")
    done = convert(rows, str(tmp_path / "out"), kind, parts=6, client=client)
    assert (tmp_path / "died").exists()
    assert (done.rows, done.parts, done.kept) == (50, 6, 0)
    assert labels(tmp_path / "out", kind) == [str(k) for k in range(50)]


def test_workers_errors_reach_the_client(
    client: Client, lmdb: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad row ends the work at once, and says which it is; an output that workers do not see is refused."""
    write_lmdb(tmp_path / "junk", [b"junk"] * 3, range(3))
    with pytest.raises(DataError, match=r'junk: row 0 \(id "00000000"\): no image'):
        convert(open_input(str(tmp_path / "junk")), str(tmp_path / "out"), "hdf5", client=client)
    # a folder that is not there for workers, as if they were on other machines
    monkeypatch.setattr(WorkFolder, "begin", lambda self, plan, parts, overwrite: parts)
    with pytest.raises(ConfigError, match=r"other.unfinished: not seen by the worker on"):
        convert(open_input(str(lmdb)), str(tmp_path / "other"), "sequence", client=client)


def test_the_mean_is_the_same_on_workers(client: Client, lmdb: Path) -> None:
    """Sums of parts, added up by the client."""
    rows = open_input(str(lmdb))
    np.testing.assert_array_equal(mean_image(rows, client), mean_image(rows))
