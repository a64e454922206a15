"""What a table's cell with an image holds."""

from __future__ import annotations

from typing import Any

import numpy as np

from cosdask.errors import DataError

__all__ = ["image_bytes"]


def image_bytes(cell: Any) -> Any:
    """The image file in a cell: bytes, a list of numbers as some writers keep bytes, or ``image`` of a struct.

    Raises:
        DataError: a cell of another kind.
    """
    if hasattr(cell, "as_py"):
        cell = cell.as_py()
    if isinstance(cell, dict):
        if "image" not in cell:
            raise DataError(f'a cell with the fields {", ".join(cell)} has no "image"')
        cell = cell["image"]
    if isinstance(cell, list | tuple) or (isinstance(cell, np.ndarray) and cell.ndim == 1):
        # Spark's bytes have signs
        return bytes(int(value) & 0xFF for value in cell)
    if not isinstance(cell, bytes | bytearray | memoryview):
        raise DataError(f"a cell with an image holds bytes, or a struct with image, not {type(cell).__name__}")
    return bytes(cell)
