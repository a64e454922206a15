"""A look at the first rows of a data set: ids, labels, sizes, and the pictures themselves."""

from __future__ import annotations

import base64
import html
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from cosdask.convert.inputs import absolute, detect, open_input
from cosdask.convert.pictures import Pictures, encoding_of
from cosdask.convert.rows import Input
from cosdask.data import Source, get_source
from cosdask.data.hadoop import BYTES, read_writable
from cosdask.data.images import ImageSource
from cosdask.data.parts import part_files
from cosdask.data.sequence import open_sequence
from cosdask.errors import DataError

_TEXT = 60
_TILE, _GAP, _WIDTH = 256, 4, 1024


@dataclass
class Peek:
    """The first rows of a data set; a notebook shows them with their pictures.

    Attributes:
        place: where they lie.
        rows: how many rows there are in all; None where that was not counted.
        names: the columns.
        cells: a list of texts for each row.
        pictures: each row's pixels, uint8 (height, width, channels), BGR; None where a row is no picture.
    """

    place: str
    rows: int | None
    names: list[str]
    cells: list[list[str]]
    pictures: list[np.ndarray | None] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [self.names, *self.cells]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.names))]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        counted = "" if self.rows is None else f" of {self.rows:,}"
        head = f"{self.place}: {len(self.cells)}{counted} rows"
        return "\n".join([head, *(line.rstrip() for line in table)])

    def _repr_html_(self) -> str:
        shown = any(picture is not None for picture in self.pictures)
        head = [*(["picture"] if shown else []), *self.names]
        rows = []
        for i, cells in enumerate(self.cells):
            picture = self.pictures[i] if i < len(self.pictures) else None
            first = [f"<td>{_img(picture)}</td>"] if shown else []
            rows.append("".join([*first, *(f"<td>{html.escape(cell)}</td>" for cell in cells)]))
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        titles = "".join(f"<th>{html.escape(name)}</th>" for name in head)
        counted = "" if self.rows is None else f" of {self.rows:,}"
        caption = f"<p>{html.escape(self.place)}: {len(self.cells)}{counted} rows</p>"
        return f"{caption}<table><tr>{titles}</tr>{body}</table>"

    def sheet(self) -> bytes:
        """All pictures on one, row after row, as PNG.

        Raises:
            DataError: none of the rows is a picture.
        """
        tiles = [_tile(picture) for picture in self.pictures if picture is not None]
        if not tiles:
            raise DataError(f"{self.place}: none of these rows is a picture")
        height, width = max(t.shape[0] for t in tiles), max(t.shape[1] for t in tiles)
        across = max(1, min(len(tiles), (_WIDTH + _GAP) // (width + _GAP)))
        down = -(-len(tiles) // across)
        sheet = np.full((down * (height + _GAP) - _GAP, across * (width + _GAP) - _GAP, 3), 255, np.uint8)
        for number, tile in enumerate(tiles):
            top, left = number // across * (height + _GAP), number % across * (width + _GAP)
            sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
        return _png(sheet)


def peek(
    what: Any, count: int = 10, kind: str = "", phase: str = "TRAIN", pictures: bool = True, **settings: Any
) -> Peek:
    """The first rows of any source.

    Args:
        what: path or URL of a data set in any format that ``convert`` reads, of a SequenceFile of any keys and values,
            or of a net's or solver's prototxt; or a ``Source``.
        count: how many rows.
        kind: the format; default: what the data look like.
        phase: of a prototxt: ``"TRAIN"`` or ``"TEST"``.
        pictures: decode the pictures too.
        **settings: see :func:`~cosdask.convert.open_input`.

    Raises:
        StorageError: nothing there.
        DataError: rows that cannot be read.
        ConfigError: an unknown format.

    Example:
        >>> print(peek("mnist_lmdb", count=2))  # doctest: +SKIP
        mnist_lmdb: 2 of 4,000 rows
        id        label  channels  height  width  encoded  data
        00000000  5      1         28      28     False    784 bytes
        00000001  0      1         28      28     False    784 bytes
    """
    if isinstance(what, str) and what.endswith(".prototxt"):
        what = get_source(what, phase)
    if isinstance(what, Source):
        return _of_source(what, count, pictures)
    kind = kind or detect(absolute(what))
    if kind == "sequence" and (found := _records(absolute(what), count)):
        return found
    return _of_input(open_input(what, kind, **settings), count, pictures)


def _of_source(source: Source, count: int, pictures: bool) -> Peek:
    if isinstance(source, ImageSource):
        batches = [source.frame_rows(rows) for rows in source.read(0, min(count, source.rows))]
        return _shown(source.place, source.rows, batches, pictures)
    batches = list(source.read(0, min(count, source.rows)))
    return _shown(source.where, source.rows, batches, False)


def _of_input(rows: Input, count: int, pictures: bool) -> Peek:
    return _shown(rows.place, rows.rows, list(rows.read(0, min(count, rows.rows))), pictures)


def _shown(place: str, rows: int, batches: list[pa.RecordBatch], pictures: bool) -> Peek:
    found = [row for batch in batches for row in batch.to_pylist()]
    names = list(batches[0].schema.names) if batches else []
    cells = [[_cell(row[name]) for name in names] for row in found]
    images = [_picture(row) for row in found] if pictures else []
    return Peek(place, rows, names, cells, images)


def _picture(row: dict[str, Any]) -> np.ndarray | None:
    """A row's pixels as bytes; None for what is no picture, so that the other rows are shown all the same."""
    try:
        image = Pictures().image(row)
    except DataError:
        return None
    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        image = ((image - low) * (255 / (high - low) if high > low else 0)).astype(np.uint8)
    return image if image.shape[2] in (1, 3, 4) else None


def _cell(value: Any) -> str:
    if isinstance(value, bytes):
        kind = encoding_of({"encoded": True, "data": value})
        return f"{len(value):,} bytes{' ' * bool(kind)}{kind}"
    if isinstance(value, list | np.ndarray):
        numbers = ", ".join(f"{number:g}" if isinstance(number, float) else str(number) for number in value[:4])
        return f"{len(value)} values: {numbers}{', ...' if len(value) > 4 else ''}"
    text = "" if value is None else str(value)
    return text if len(text) <= _TEXT else text[: _TEXT - 3] + "..."


def _records(path: str, count: int) -> Peek | None:
    """Keys and values of SequenceFiles that are not CaffeOnSpark's; None for those that are."""
    names: list[str] = []
    cells: list[list[str]] = []
    for name in part_files(path, "SequenceFile"):
        with open_sequence(name) as reader:
            header = reader.header
            if header.key_class == header.value_class == BYTES:
                return None
            names = [title.rpartition(".")[2] for title in (header.key_class, header.value_class)]
            for record in reader.records():
                if len(cells) == count:
                    break
                pair = ((header.key_class, record.key), (header.value_class, record.value))
                cells.append([_cell(read_writable(title, data)) for title, data in pair])
    return Peek(path, None, names, cells)


def _tile(image: np.ndarray) -> np.ndarray:
    """A picture of three channels, made smaller where it is large."""
    if image.shape[2] == 1:
        image = np.repeat(image, 3, axis=2)
    image = image[:, :, :3]
    scale = _TILE / max(image.shape[:2])
    if scale >= 1:
        return image
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    smaller: np.ndarray = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return smaller


def _png(image: np.ndarray) -> bytes:
    ok, data = cv2.imencode(".png", image)
    assert ok
    return bytes(data.tobytes())


def _img(picture: np.ndarray | None) -> str:
    if picture is None:
        return ""
    return f'<img src="data:image/png;base64,{base64.b64encode(_png(_tile(picture))).decode()}">'
