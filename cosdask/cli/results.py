"""Result files: the text of a test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cosdask.storage import atomic_write


def result_text(outputs: Mapping[str, Any]) -> str:
    """The results of a test as CaffeOnSpark writes them: a line an output, in the net's order.

    Example:
        >>> print(result_text({"accuracy": 0.974, "per_class": [0.5, 1.0]}), end="")
        accuracy: 0.974
        per_class: 0.5,1.0
    """
    return "".join(f"{name}: {','.join(map(repr, _numbers(value)))}\n" for name, value in outputs.items())


def _numbers(value: Any) -> list[float]:
    plain = value.tolist() if hasattr(value, "tolist") else value
    return [float(item) for item in plain] if isinstance(plain, list | tuple) else [float(plain)]


def write_test_result(outputs: Mapping[str, Any], url: str) -> None:
    """Writes :func:`result_text` to a file, whole or not at all."""
    atomic_write(url, result_text(outputs))
