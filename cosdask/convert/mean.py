"""The mean image of a data set, as Caffe's compute_image_mean makes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from cosdask.convert.job import Progress
from cosdask.convert.pictures import Pictures, Shape
from cosdask.convert.rows import Input, counted_by
from cosdask.convert.tasks import runner_for
from cosdask.errors import DataError
from cosdask.proto import array_to_blob
from cosdask.storage import atomic_write


@dataclass(frozen=True)
class _Sum:
    """The sum of some images: uint64, or float64 of floats, (height, width, channels); None where there are none."""

    total: np.ndarray | None
    rows: int


def mean_image(rows: Input, client: Any = None, progress: Progress | None = None) -> np.ndarray:
    """The mean over all images, pixel for pixel.

    Sums are exact; Caffe's float32 sums are too, up to some 65,000 images, and drift beyond.

    Args:
        rows: images of one size.
        client: a ``distributed.Client`` whose workers add up; None: this process does.
        progress: called with the rows done and all rows.

    Returns:
        float32 (channels, height, width).

    Raises:
        DataError: no rows, images that cannot be read, or of different sizes.
    """
    rows = counted_by(rows, client)
    if not rows.rows:
        raise DataError(f"{rows.place}: no rows, so there is no mean", path=rows.place)
    runner = runner_for(client)
    ranges = rows.ranges(max(1, min(rows.target, -(-rows.rows // (2 * runner.workers)))))
    runner.check_visible([rows.place])
    total, done = _Sum(None, 0), 0
    for (start, stop), part in runner.each(_sum_rows, rows, ranges):
        total = _added(total, part, f"{rows.place}: rows {start} to {stop}")
        done += stop - start
        if progress is not None:
            progress(done, rows.rows)
    assert total.total is not None
    mean: np.ndarray = total.total.transpose(2, 0, 1).astype(np.float32) / np.float32(total.rows)
    return mean


def write_mean(url: str, mean: np.ndarray) -> None:
    """Write a mean image as a binaryproto file, which ``transform_param { mean_file: ... }`` names.

    Args:
        url: local path or URL.
        mean: float32 (channels, height, width).
    """
    atomic_write(url, array_to_blob(mean[None], like_legacy=True).SerializeToString())


def _sum_rows(rows: Input, part: tuple[int, int]) -> _Sum:
    """On a worker: the sum of a range of images."""
    total = _Sum(None, 0)
    position, stop = part
    for batch in rows.read(position, stop):
        for one in _sums(batch, position, rows.place):
            total = _added(total, one, f"{rows.place}: row {part[0] + total.rows}")
        position += batch.num_rows
    if position != stop:
        raise DataError(f"{rows.place}: {stop} rows were counted, {position} read; did the data change?")
    return total


def _sums(batch: pa.RecordBatch, first: int, place: str) -> list[_Sum]:
    """One sum where rows are raw and of one size; else a sum a row."""
    encoded = any(batch.column("encoded").to_pylist())
    shapes = {
        shape for shape in zip(*(batch.column(k).to_pylist() for k in ("height", "width", "channels")), strict=True)
    }
    data = batch.column("data").to_pylist()
    if len(shapes) == 1 and not encoded and all(data):
        shape = shapes.pop()
        size = int(np.prod(shape, dtype=np.int64))
        if {len(pixels) for pixels in data} == {size} and size:
            pixels = np.frombuffer(b"".join(data), np.uint8).reshape(len(data), size)
            return [_Sum(pixels.sum(axis=0, dtype=np.uint64).reshape(shape), len(data))]
    pictures = Pictures()
    found = []
    for i, row in enumerate(batch.to_pylist()):
        try:
            image = pictures.image(row)
        except DataError as error:
            text = f'{place}: row {first + i} (id "{row["id"]}"): {error}'
            raise DataError(text, path=place, row=first + i, id=row["id"]) from error
        kind = np.uint64 if image.dtype == np.uint8 else np.float64
        found.append(_Sum(image.astype(kind), 1))
    return found


def _added(one: _Sum, other: _Sum, where: str) -> _Sum:
    if one.total is None or other.total is None:
        return other if one.total is None else one
    if one.total.shape != other.total.shape:
        raise DataError(
            f"{where}: an image of {_words(other.total)}, others are {_words(one.total)}; bring them to one size with "
            "cosdask convert --resize-height H --resize-width W"
        )
    if one.total.dtype != other.total.dtype:
        raise DataError(f"{where}: some rows hold bytes and some floats")
    return _Sum(one.total + other.total, one.rows + other.rows)


def _words(total: np.ndarray) -> Shape:
    height, width, channels = total.shape
    return channels, height, width
