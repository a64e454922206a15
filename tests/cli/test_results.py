"""The text of a test's results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cosdask.cli.results import result_text, write_test_result


def test_test_results_are_a_line_an_output_in_the_nets_order(tmp_path: Path) -> None:
    target = tmp_path / "new" / "result"
    write_test_result({"loss": np.float32(0.25), "accuracy": 0.974, "per_class": np.array([0.5, 1.0])}, str(target))
    assert target.read_text() == "loss: 0.25\naccuracy: 0.974\nper_class: 0.5,1.0\n"


@given(st.floats(allow_nan=False))
def test_test_results_lose_no_digit(value: float) -> None:
    assert float(result_text({"x": value}).split(": ")[1]) == value
