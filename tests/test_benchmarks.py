"""The benchmark runner's arithmetic: its figures are what people quote."""

from __future__ import annotations

import pytest

from benchmarks.cases import CASES, Case
from benchmarks.measure import time_steps
from benchmarks.run import options, run_side, summarize, table_row
from benchmarks.side_dask import seconds_a_step
from benchmarks.speed_table import GOALS, speed_table


def test_relative_rate_is_above_one_where_ours_is_faster() -> None:
    """Medians and least times are taken apart; the ratio is the other's time by ours."""
    summary = summarize(ours=[0.001, 0.002, 0.009], other=[0.004, 0.008, 0.003])
    assert (summary.ours_median, summary.other_median) == pytest.approx((2.0, 4.0))
    assert summary.rate_median == pytest.approx(2.0)
    assert summary.rate_least == pytest.approx(3.0)


def test_row_shows_times_rates_and_goal() -> None:
    """A table's row has its five cells in the order of the heading."""
    row = table_row(CASES[0], summarize([0.010], [0.015]))
    assert row == f"| {CASES[0].title} | 10.00 (10.00) | 15.00 (15.00) | 1.50 (1.50) | {CASES[0].goal:.2f} |"


def test_warmup_is_not_timed() -> None:
    """One figure a chunk, the warm-up apart."""
    made: list[int] = []
    assert len(time_steps(made.append, steps=40, chunk=20, warmup=5)) == 2
    assert made == [5, 20, 20]


def test_uneven_chunks_are_refused() -> None:
    """Steps that no whole number of chunks holds would be left out without a word."""
    with pytest.raises(ValueError, match="multiple of chunk"):
        time_steps(lambda count: None, steps=30, chunk=20, warmup=0)


def test_too_few_progress_records_are_refused() -> None:
    """A run too short to be timed is an error, not an empty measurement."""
    with pytest.raises(ValueError, match="more steps"):
        seconds_a_step([(0, 0.0), (100, 1.0)], warmup=50)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cases_have_whole_chunks(case: Case) -> None:
    """Every row of the table can be measured as it is written."""
    assert case.steps % case.chunk == 0


def test_unknown_row_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A mistyped row names those that there are."""
    with pytest.raises(SystemExit):
        options(["lenett"])
    assert "lenet, caffenet, googlenet" in capsys.readouterr().err


def test_failed_side_is_an_error_with_its_words() -> None:
    """A side that ends with an error is never taken for a measurement."""
    with pytest.raises(RuntimeError, match="the following arguments are required"):
        run_side("benchmarks.side_solver", [], deadline=120)


def test_the_speed_tables_ratio_is_below_one_where_ours_is_faster() -> None:
    """The last measurement of a row counts, one with the tuned allocator apart; rows not measured say so."""
    names = {case.name for case in CASES}
    assert {goal.case for goal in GOALS} <= names
    records = [
        {
            "environment": settings,
            "rows": [{"case": {"name": "lenet"}, "summary": dict(zip(_SUMMARY, times, strict=True))}],
        }
        for settings, times in (({}, (9, 9, 9, 9)), ({}, (8, 6, 10, 10)), ({"MALLOC_TOP_PAD_": "1"}, (9, 9, 10, 10)))
    ]
    table = speed_table([*records, {"compile": {"first_s": 12.34, "later_s": 2.0}}])
    row = "| LeNet batch 64, training step | 0.8 | 1 | 0.80 (0.60) | 8.0 (6.0) | 10.0 (10.0) | 0.90 (0.90) |"
    assert row in table.splitlines()
    assert "| 15 s / 3 s | 30 s / 5 s | 12.3 s / 2.0 s |" in table
    assert table.count("not measured") == len(GOALS) - 1


_SUMMARY = ("ours_median", "ours_least", "other_median", "other_least")
