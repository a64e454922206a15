"""Which worker takes which rank: the one on the host that has most of its rows; and nothing but that changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from problems import Problem

import cosdask
from cosdask.data import Extent, open_source, write_lmdb
from cosdask.parallel import locality
from cosdask.parallel.group import Member
from cosdask.parallel.locality import Locality, arranged, assign, pieces_of
from cosdask.proto import caffe_pb2
from cosdask.storage.places import BytePlace

HOSTS = st.sampled_from(["a", "b", "c"])


def place(start: int, stop: int, *hosts: str) -> BytePlace:
    """A block of a fake location table."""
    return BytePlace(start, stop, frozenset(hosts))


def test_ranks_go_where_their_blocks_are() -> None:
    """Each rank's range of the rows, cut by blocks; a host counts by its name or by its address."""
    blocks = [place(0, 100, "node3", "10.0.0.3"), place(100, 250, "node1"), place(250, 300, "node2")]
    found = Locality(pieces_of([Extent(0, 300, "f")], {"f": blocks}))
    near = found.nearness(ranks=3, members=3)
    assert near[0] == {"": 100, "node3": 100, "10.0.0.3": 100} and near[2] == {"": 100, "node1": 50, "node2": 50}
    assert assign(near, [["node1"], ["node2"], ["10.0.0.3"]]) == [2, 0, 1]
    # two devices a worker: each takes the ranges of two ranks
    assert found.nearness(ranks=2, members=1) == [{"": 300, "node1": 150, "node2": 50, "node3": 100, "10.0.0.3": 100}]


def test_equals_go_by_name() -> None:
    """Copies on every host, or on none of them: ranks stay in the workers' order."""
    assert assign([{"a": 5.0, "b": 5.0}] * 2, [["a"], ["b"]]) == [0, 1]
    assert assign([{"x": 5.0}] * 3, [["a"], ["b"], ["c"]]) == [0, 1, 2]


@given(st.lists(st.dictionaries(HOSTS, st.floats(0, 9)), min_size=1, max_size=5), st.data())
def test_every_worker_takes_one_rank(near: list[dict[str, float]], data: Any) -> None:
    """Whatever lies where, also with several workers a host (invariant 3: each rank's rows are read once)."""
    names = data.draw(st.lists(st.lists(HOSTS), min_size=len(near), max_size=len(near)))
    assert sorted(assign(near, names)) == list(range(len(near)))


def test_workers_of_different_threads_keep_their_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank's threads decide its rounding, so they must not change with what lies where (invariant 4)."""
    monkeypatch.setattr(locality, "ask_workers", lambda *_: {})
    found = Locality(pieces_of([Extent(0, 2, "f")], {"f": [place(0, 5, "b"), place(5, 10, "a")]}))
    alike = [Member("tcp://a", "0", "a", 2), Member("tcp://b", "1", "b", 2)]
    other = [Member("tcp://a", "0", "a", 1), Member("tcp://b", "1", "b", 2)]
    near = arranged(None, alike, found, 1, None)  # type: ignore[arg-type]
    assert [member.host for member in near.members] == ["b", "a"] and near.share == 1
    far = arranged(None, other, found, 1, None)  # type: ignore[arg-type]
    assert far.members == other and far.share == 0
    assert arranged(None, other, found, 1, threads=2).share == 1  # type: ignore[arg-type]


def test_sources_say_which_bytes_hold_their_rows(tmp_path: Path) -> None:
    """By file where rows of a file are alike, by block where the index knows bytes; shuffled rows lie nowhere."""
    write_lmdb(tmp_path / "rows", np.zeros((5, 1, 2, 2), np.uint8), range(5))
    layer = text_format.Parse(
        f'name: "d" type: "Data" top: "data" data_param {{ source: "{tmp_path}/rows" backend: LMDB batch_size: 5 }}',
        caffe_pb2.LayerParameter(),
    )
    assert open_source(layer).extents() == [Extent(0, 5, f"{tmp_path}/rows/data.mdb")]
    assert locality.places_of(open_source(layer)) == {"pieces": [], "problem": ""}
    assert locality.places_of(open_source(layer, options={"shuffle": True}))["pieces"] == []


@pytest.mark.slow
@pytest.mark.long
def test_who_takes_which_rank_changes_no_number(
    client: Client, problem: Callable[..., Problem], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks decide results, workers do not: the other way round gives the same weights, bit for bit."""
    made = problem(settings="max_iter: 4 display: 1")
    somewhere = Locality([(0, 9, 9.0, frozenset(["x"]))])
    monkeypatch.setattr("cosdask.parallel.driver.Locality.from_json", lambda _: somewhere)
    results, workers = [], []
    for step in (1, -1):
        monkeypatch.setattr(locality, "assign", lambda near, _, step=step: list(range(len(near)))[::step])
        config = cosdask.Config(conf=str(made.solver), model=made.model, progress="none", clusterSize=2)
        results.append(cosdask.CaffeOnDask(client, config).train())
        started = results[-1].started
        assert started is not None and started.local_share == 0
        workers.append([entry["worker"] for entry in started.ranks])
    assert workers[0] == workers[1][::-1] and len(workers[0]) == 2
    for name, blobs in results[0].params.items():
        for one, other in zip(blobs, results[1].params[name], strict=True):
            np.testing.assert_array_equal(one, other)
