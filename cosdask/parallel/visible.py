"""Whether a worker sees the data."""

from __future__ import annotations

from typing import Any

from cosdask.data import Source
from cosdask.errors import StorageError


def check_visible(specs: list[dict[str, Any]]) -> list[str]:
    """On a worker: what this worker cannot see of the sources, or sees otherwise than they were counted."""
    problems = []
    for spec in specs:
        source = Source.from_spec(spec)
        try:
            next(iter(source.read(0, min(1, source.rows))), None)
        except StorageError as error:
            problems.append(error.message)
    return problems
