"""A user's own dask dataframe: rows stay where they are, each counts once, and a death changes nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pytest
from conftest_parallel import Listener, config, soon
from distributed import Client, futures_of, wait
from hypothesis import given
from hypothesis import strategies as st
from problems import Problem, digits, make_problem

import cosdask
from cosdask.data import write_parquet
from cosdask.errors import DataError, GroupError
from cosdask.events import Progress, Restarted
from cosdask.parallel import staging
from cosdask.parallel.frame_input import evaluation_reads, train_reads
from cosdask.parallel.frames import StagedFrame, order_pieces
from cosdask.parallel.group import wait_for_members, workers_of

ROWS = 103


@given(st.data())
def test_pieces_hold_each_row_once_and_only_the_surplus_moves(data: st.DataObject) -> None:
    """Invariant 3, and item 4 of the data issue: what a worker holds and may read, it reads."""
    rows = dict(enumerate(data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=12))))
    workers = data.draw(st.integers(1, 4))
    place = {part: data.draw(st.integers(-1, workers - 1)) for part in rows}
    held = [[part for part in rows if place[part] == worker] for worker in range(workers)]
    loose = [part for part in rows if place[part] < 0]
    total = sum(rows.values())
    shares = [total // workers + (worker < total % workers) for worker in range(workers)]
    pieces = order_pieces(held, loose, rows, shares)
    assert sorted((part, row) for part, start, stop in pieces for row in range(start, stop)) == [
        (part, row) for part, count in rows.items() for row in range(count)
    ]
    readers = np.repeat(np.arange(workers), shares).tolist()
    read = [(part, readers.pop(0)) for part, start, stop in pieces for _ in range(start, stop)]
    for worker in range(workers):
        own = sum(1 for part, reader in read if reader == worker and place[part] == worker)
        assert own == min(shares[worker], sum(rows[part] for part in held[worker]))


@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 2))
def test_members_have_what_they_read(rows: int, members: int, devices: int) -> None:
    """Every epoch's range of every rank is within the ranges that its member is brought, which are hardly more."""
    from cosdask.data import RowPlan

    reads = train_reads(devices)(rows, members)
    plan = RowPlan(rows, members * devices)
    for epoch in range(2 * members * devices):
        for rank in range(members * devices):
            mine = {row for low, high in reads[rank // devices] for row in range(low, high)}
            segment = plan.range(rank, epoch)
            assert set(range(segment.start, segment.stop)) <= mine
            assert len(mine) <= devices * -(-rows // (members * devices)) + members * devices
    tested = sorted(row for own in evaluation_reads(rows, members) for low, high in own for row in range(low, high))
    assert tested == list(range(rows))


def rows_of(first: int, stop: int) -> pd.DataFrame:
    """Rows ``first`` to ``stop`` of the test's data set, with the Arrow types that Dask keeps."""
    images, labels = digits(ROWS)
    columns = {
        "id": [f"{row:08d}" for row in range(ROWS)],
        "label": [str(label) for label in labels],
        "data": [image.tobytes() for image in images],
    }
    return pa.table(columns).slice(first, stop - first).to_pandas(types_mapper=pd.ArrowDtype)


@pytest.fixture
def memory_problem(tmp_path: Path) -> Problem:
    """A problem whose TRAIN and TEST layers take dataframes; ``rows.parquet`` holds all rows."""
    made = make_problem(tmp_path / "problem", rows=10, test_rows=10, settings="max_iter: 12 snapshot: 5 test_iter: 2")
    text = (made.folder / "net.prototxt").read_text()
    layer = """layer { name: "data" type: "MemoryData" top: "data" top: "label" source_class: "ImageDataFrame"
      transform_param { scale: 0.00390625 }
      memory_data_param { source: "rows.parquet" batch_size: 8 channels: 1 height: 12 width: 12 } }
    """
    (made.folder / "net.prototxt").write_text(layer + text[text.index('layer { name: "conv1"') :])
    write_parquet(made.folder / "rows.parquet", *digits(ROWS), rows_per_group=20)
    return made


def assert_same(found: dict[str, Any], wanted: dict[str, Any], tolerance: float = 0.0) -> None:
    """Weights by layer."""
    for name, blobs in wanted.items():
        for mine, other in zip(found[name], blobs, strict=True):
            np.testing.assert_allclose(mine, other, rtol=tolerance, atol=tolerance)


def uneven(client: Client, sizes: list[list[int]]) -> dd.DataFrame:
    """A frame that lies on the workers: for each worker, in rank order, the rows of its partitions."""
    members = wait_for_members(client, 3, None, 30)
    order = sorted((k, worker) for worker, own in enumerate(sizes) for k in range(len(own)))  # interleaved
    futures, start = [], 0
    for k, worker in order:
        stop = start + sizes[worker][k]
        where = {"workers": [members[worker].address], "allow_other_workers": True}
        futures.append(client.submit(rows_of, start, stop, pure=False, **where))
        start = stop
    assert start == ROWS
    frame = dd.from_delayed(futures, meta=rows_of(0, 0), verify_meta=False).persist()
    wait(frame)
    return frame


def test_partitions_are_used_where_they_are(client: Client) -> None:
    """Of a frame that lies unevenly on three workers, hardly more than the surplus moves."""
    frame = uneven(client, [[30, 20], [10, 15, 5], [23]])
    members = wait_for_members(client, 3, None, 30)
    shares = [35, 34, 34]
    # a busy worker's task may have been done by another: what counts is where the partitions lie now
    parts = futures_of(frame)
    lying = client.who_has(parts)
    sizes = client.gather(client.map(len, parts, pure=False))
    held = {member.address: 0 for member in members}
    for part, size in zip(parts, sizes, strict=True):
        held[lying[part.key][0]] += size
    surplus = sum(max(0, held[member.address] - share) for member, share in zip(members, shares, strict=True))
    staged = StagedFrame(client, frame, members, lambda rows: shares)
    try:
        staged.place(members, train_reads(1)(ROWS, 3))
        assert surplus <= staged.moved <= surplus + 6  # ranges shift by a row or two from epoch to epoch
        files = {file.path for file in staged.table.files}
        assert len(files) >= 6
        before = staged.moved
        staged.place(members, train_reads(1)(ROWS, 3))
        assert staged.moved == before
    finally:
        staged.close()
    assert not any(Path(path).exists() for path in files)


def files_of(staged: StagedFrame) -> list[Path]:
    """The files of rows that are on the disk."""
    return [Path(file.path) for file in staged.table.files if Path(file.path).exists()]


def test_rows_of_a_client_that_died_are_removed(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody says that they are wanted, so no file is left; a client that only stood still has them written again."""

    def forget_after(seconds: float) -> None:  # in here, so that it travels as it is: workers do not have this module
        staging.FORGOTTEN = seconds

    def staged() -> contextlib.closing[StagedFrame]:
        made = StagedFrame(client, frame, members, lambda rows: [35, 34, 34])
        made.place(members, evaluation_reads(ROWS, 3))
        return contextlib.closing(made)

    frame, members = dd.from_pandas(rows_of(0, ROWS), npartitions=4), wait_for_members(client, 3, None, 30)
    monkeypatch.setattr("cosdask.parallel.frames._KEEPING", 0.2)
    client.run(forget_after, 3.0)
    try:
        with staged() as wanted, staged() as forgotten:
            forgotten._closed.set()  # as if its client had died
            assert soon(lambda: not files_of(forgotten))
            time.sleep(3.0)  # as long again: those that are wanted stay
            assert len(files_of(wanted)) == len(wanted.table.files)
            forgotten.place(members, evaluation_reads(ROWS, 3))
            assert files_of(forgotten)
    finally:
        client.run(forget_after, 900.0)


def test_a_lazy_frame_trains_as_its_rows_in_order_would(client: Client, memory_problem: Problem) -> None:
    """Invariant 2: three workers on a dask frame make the weights of Solver(ranks=3) on the same rows.

    Both begin from the weights that the solver names, which lie beside it.
    """
    net = cosdask.Net(memory_problem.folder / "net.prototxt", phase="TRAIN", seed=9)
    net.save(str(memory_problem.folder / "first.caffemodel"))
    memory_problem.solver.write_text(memory_problem.solver.read_text() + 'weights: "first.caffemodel"\n')
    frame = dd.from_pandas(rows_of(0, ROWS), npartitions=7)
    found = cosdask.CaffeOnDask(client, config(memory_problem, clusterSize=None)).train(frame).params
    with cosdask.Solver(memory_problem.solver, ranks=3) as solver:
        solver.step(12)
        assert_same(found, solver.net.to_blobs(solver.net.params), 1e-5)


@pytest.mark.long
@pytest.mark.slow
def test_a_death_changes_nothing_but_time(client: Client, memory_problem: Problem, tmp_path: Path) -> None:
    """Invariant 5: the lost worker's rows are computed again in the same order; a resumed run keeps the order too."""
    frame = uneven(client, [[30, 20], [10, 15, 5], [23]])
    whole = cosdask.CaffeOnDask(client, config(memory_problem, clusterSize=None)).train(frame).params
    address = wait_for_members(client, 3, None, 30)[1].address
    pid = client.run(os.getpid, workers=[address])[address]
    # what is written to run.json is the order in which the rows were read
    settings = config(memory_problem, model=str(tmp_path / "again.caffemodel"), clusterSize=None)
    listener = Listener(Progress, lambda: os.kill(pid, signal.SIGKILL))
    result = cosdask.CaffeOnDask(client, settings, consumers=[listener]).train(frame)
    assert len(listener.of(Restarted)) == 1
    assert_same(result.params, whole)
    client.wait_for_workers(3, timeout=60)


def test_validation_test_and_features_of_frames(
    client: Client, memory_problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 3: every row once, in the frame's order, whatever the partitions; the same as from the file.

    What must move goes in slices of a few rows, as large partitions do.
    """
    monkeypatch.setattr("cosdask.parallel.frames._SLICE_BYTES", 1000)
    parts = [rows_of(0, 40), rows_of(40, 40), rows_of(40, 41), rows_of(41, ROWS)]
    frame = dd.from_delayed([client.submit(lambda part: part, part) for part in parts], meta=parts[1])
    cos = cosdask.CaffeOnDask(client, config(memory_problem, features="ip2", label="label"))
    validation = cos.train_with_validation(frame, rows_of(0, 50))
    assert len(validation) and np.isfinite(validation["loss"]).all()
    assert cos.test(frame) == pytest.approx(cos.test(), rel=1e-5)
    lazy = cos.features(frame)
    assert isinstance(lazy, dd.DataFrame) and lazy.npartitions == 4
    found, wanted = lazy.compute(), cos.features().compute()
    assert found["SampleID"].tolist() == wanted["SampleID"].tolist() == [f"{row:08d}" for row in range(ROWS)]
    np.testing.assert_allclose(
        np.stack(found["ip2"].to_numpy()), np.stack(wanted["ip2"].to_numpy()), rtol=1e-5, atol=1e-6
    )
    assert found["label"].tolist() == wanted["label"].tolist()


def slow_rows(first: int, stop: int, seconds: float) -> pd.DataFrame:
    """Rows that take their time."""
    time.sleep(seconds)
    return rows_of(first, stop)


def hanging_rows(first: int, stop: int) -> pd.DataFrame:
    """Rows whose worker hangs before they are there."""
    os.kill(os.getpid(), signal.SIGSTOP)
    return rows_of(first, stop)


def test_a_frame_may_take_any_time_while_its_workers_live(
    client: Client, memory_problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 6: what counting may take is no limit for the user's own work; a worker that hangs at it is named."""
    monkeypatch.setattr("cosdask.parallel.waiting.PREPARING", 0.5)
    meta, members = rows_of(0, 0), wait_for_members(client, 3, None, 30)
    parts = [dask.delayed(slow_rows)(row, row + 40, seconds) for row, seconds in ((0, 2.0), (40, 0.0))]
    slow = dd.from_delayed(parts, meta=meta, verify_meta=False)
    for frame in (slow, slow.persist()):
        with contextlib.closing(StagedFrame(client, frame, members, lambda rows: [27, 27, 26])) as staged:
            assert staged.table.count().rows == 80
    frame = dd.from_delayed([dask.delayed(hanging_rows)(0, 40)], meta=meta, verify_meta=False)
    before = workers_of(client)
    pids = client.run(os.getpid)
    Path(memory_problem.model).parent.mkdir()
    cosdask.Net(memory_problem.folder / "net.prototxt", seed=7).save(memory_problem.model)
    try:
        with pytest.raises(GroupError, match=r"worker \d at 127.0.0.1 has tasks and has sent no heartbeat for \d+ s"):
            cosdask.CaffeOnDask(client, config(memory_problem, worker_silence=4)).test(frame)
    finally:
        del frame
        for pid in pids.values():
            if psutil.Process(pid).status() == psutil.STATUS_STOPPED:
                os.kill(pid, signal.SIGKILL)
    assert soon(lambda: len(workers_of(client)) >= 3 and set(workers_of(client)) != set(before))


def test_columns_that_dask_made_text_are_refused(client: Client, memory_problem: Problem) -> None:
    """The error says what happened and what to do, before any rank starts."""
    rows = rows_of(0, 20).astype(object)
    text = dd.from_pandas(rows.assign(data=[str(cell) for cell in rows["data"]]), npartitions=2)
    for verb in ("train", "test"):
        with pytest.raises(
            DataError, match=r"partition \d of the dataframe.*Dask turned the column into text.*ArrowDtype"
        ):
            getattr(cosdask.CaffeOnDask(client, config(memory_problem)), verb)(text)
    with pytest.raises(DataError, match="no rows"):
        cosdask.CaffeOnDask(client, config(memory_problem)).train(dd.from_pandas(rows_of(0, 0), npartitions=1))
