"""Invariants 3 and 8 across workers: skipped rows are counted, listed and told, wherever they lie."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest
from conftest_parallel import config
from distributed import Client
from problems import Problem

import cosdask
from cosdask.errors import CosdaskError
from cosdask.storage import RunFolder

BAD = {3: b"\xff\xff", 50: b"", 99: b"\x28\x01"}


def spoil(path: Path) -> None:
    """Write rows that are no images over good ones."""
    with lmdb.open(str(path), map_size=1 << 26) as environment, environment.begin(write=True) as transaction:
        for row, value in BAD.items():
            transaction.put(b"%08d" % row, value)


@pytest.mark.slow
def test_bad_rows_are_skipped_and_listed_by_all_verbs(
    client: Client, problem: Callable[..., Problem], caplog: pytest.LogCaptureFixture
) -> None:
    """Training goes on as one process would; test and features leave them out; without the option the row is named."""
    made = problem(rows=101, test_rows=101, settings="max_iter: 10 test_iter: 3 test_interval: 100")
    spoil(made.folder / "train_lmdb")
    spoil(made.folder / "test_lmdb")
    with pytest.raises(CosdaskError, match=r'train_lmdb.*row 3 \(id "00000003"\).*partition 0'):
        cosdask.CaffeOnDask(client, config(made, clusterSize=2)).train()

    options = config(made, clusterSize=2, on_bad_rows="skip")
    result = cosdask.CaffeOnDask(client, options).train()
    assert {row["row"] for row in result.skipped} == set(BAD)
    told = [event for event in RunFolder(result.run_folder).read_events() if event["kind"] == "rows_skipped"]
    assert {event["rank"] for event in told} == {0, 1}
    assert {row["row"] for event in told for row in event["rows"]} == set(BAD)
    assert json.dumps(told)  # plain values
    with cosdask.Solver(made.solver, ranks=2, on_bad_rows="skip") as solver:
        solver.step(10)
        ours, theirs = solver.net.to_blobs(solver.net.params), result.params
    for name, blobs in ours.items():
        for mine, other in zip(blobs, theirs[name], strict=True):
            assert abs(mine - other).max() <= 1e-5 * abs(mine).max()

    cos = cosdask.CaffeOnDask(client, options)
    assert 0 <= cos.test()["accuracy"] <= 1
    assert "3 time(s) a row that cannot be read was left out" in caplog.text
    frame = cos.features(blobs=["ip1"]).compute()
    assert frame["SampleID"].tolist() == [f"{row:08d}" for row in range(101) if row not in BAD]
