"""Rows with pictures as HTML tables, for notebooks."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cosdask.data.cells import image_bytes
from cosdask.data.decode import UNCHANGED, decode_image, encode_image, resize_image
from cosdask.errors import DataError, did_you_mean

__all__ = ["Html", "get_image", "get_np_array", "image_tag", "show_captions", "show_df"]

#: Longest side of a picture, in pixels; larger ones are made smaller, so that a notebook's file stays small.
SIDE = 192
#: Smallest side that is shown; digits of 28 pixels are drawn larger by the browser, without blur.
_SMALL = 64
_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"BM", b"GIF8", b"II*\0", b"MM\0*", b"RIFF")
_STYLE = "border-collapse:collapse"


class Html:
    """A piece of HTML that a notebook draws where it is the last value of a cell."""

    def __init__(self, text: str) -> None:
        self.text = text

    def _repr_html_(self) -> str:
        return self.text

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"<Html of {len(self.text)} characters; a notebook draws it>"


def show_df(df: Any, nrows: int = 10) -> Html:
    """The first rows of a dataframe of images as a table: id, label, image.

    Args:
        df: a pandas or dask frame with ``data``: the bytes of image files, raw interleaved pixels (BGR where there are
            three channels) with ``height`` and ``width`` columns, or structs with ``image``, ``height`` and ``width``.
            ``id`` and ``label`` are shown where they are there.
        nrows: most rows shown.

    Raises:
        DataError: no column ``data``, or a row that is no image.
    """
    frame = _head(df, nrows, "data")
    ids = frame["id"] if "id" in frame.columns else frame.index
    labels = frame["label"] if "label" in frame.columns else [""] * len(frame)
    rows = zip(map(_text, ids), map(_text, labels), map(image_tag, _pictures(frame)), strict=True)
    return _table(("Index", "Label", "Image"), rows)


def show_captions(df: Any, nrows: int = 10, column: str = "prediction", across: int = 0) -> Html:
    """The first rows of a dataframe of images and captions as a table: id, image, caption.

    Args:
        df: a pandas or dask frame with ``id``, ``data`` (see :func:`show_df`) and ``column``.
        nrows: most rows shown.
        column: the column with the sentences.
        across: so many pictures side by side, each with its caption under it, in place of a table with a row each.

    Raises:
        DataError: a missing column, or a row that is no image.
    """
    frame = _head(df, nrows, "id", "data", column)
    if across > 0:
        return _grid(list(zip(map(image_tag, _pictures(frame)), map(_text, frame[column]), strict=True)), across)
    rows = zip(map(_text, frame["id"]), map(image_tag, _pictures(frame)), map(_text, frame[column]), strict=True)
    return _table(("Image Id", "Image", column.capitalize()), rows)


def get_image(data: bytes) -> np.ndarray:
    """The pixels of an image file: uint8 (H, W), or (H, W, 3) in RGB.

    Raises:
        DataError: no image.
    """
    return _as_rgb(decode_image(data, UNCHANGED))


def get_np_array(row: Mapping[str, Any]) -> np.ndarray:
    """The pixels of one row (see :func:`show_df`): uint8 (H, W), or (H, W, 3) in RGB.

    Raises:
        DataError: bytes that are no image, and no raw pixels of the row's size either.
    """
    cell = row["data"]
    cell = cell.as_py() if hasattr(cell, "as_py") else cell
    sizes = {**row, **cell} if isinstance(cell, dict) else row
    data = image_bytes(cell)
    encoded = sizes.get("encoded")
    if encoded if isinstance(encoded, bool | np.bool_) else data.startswith(_STARTS):
        return get_image(data)
    height, width = (_whole(sizes.get(name)) for name in ("height", "width"))
    channels = _whole(sizes.get("channels")) or (len(data) // (height * width) if height and width else 0)
    if not channels or channels * height * width != len(data):
        raise DataError(
            f"{len(data)} bytes are no image file, and no raw pixels of height {height} x width {width}; "
            "raw rows need columns height and width"
        )
    return _as_rgb(np.frombuffer(data, np.uint8).reshape(height, width, channels))


def image_tag(array: Any) -> str:
    """An image as an HTML element that holds it.

    Args:
        array: (H, W) or (H, W, 1) gray, or (H, W, 3) RGB; uint8, or floats from 0 to 1.

    Raises:
        DataError: for another shape.
    """
    pixels = np.asarray(array)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3) or not pixels.size:
        raise DataError(f"an array of shape {pixels.shape} is no picture; (H, W) or (H, W, 3) is")
    if pixels.dtype != np.uint8:
        pixels = np.clip(np.round(pixels.astype(np.float64) * (255 if pixels.dtype.kind == "f" else 1)), 0, 255)
    pixels = np.ascontiguousarray(pixels.astype(np.uint8)).reshape(*pixels.shape[:2], -1)
    height, width = pixels.shape[:2]
    if max(height, width) > SIDE:
        height, width = (max(1, round(side * SIDE / max(pixels.shape[:2]))) for side in (height, width))
        pixels = resize_image(pixels, height, width)
    # small pictures keep every pixel; photos are a tenth of the size as JPEG
    kind = "png" if max(height, width) <= _SMALL else "jpeg"
    text = base64.b64encode(encode_image(pixels[:, :, ::-1], kind)).decode()
    zoom = max(1, _SMALL // max(height, width))
    return (
        f'<img src="data:image/{kind};base64,{text}" height="{height * zoom}" width="{width * zoom}" '
        'style="image-rendering:pixelated">'
    )


# -- helpers ---------------------------------------------------------------------------------------------------------


def _head(df: Any, nrows: int, *names: str) -> pd.DataFrame:
    """The first rows here, from as many of a dask frame's partitions as it takes."""
    for name in names:
        if name not in df.columns:
            there = list(map(str, df.columns))
            raise DataError(
                f"no column {name!r}; there are {', '.join(there)}.{did_you_mean(name, there)}", column=name
            )
    if isinstance(df, pd.DataFrame):
        return df.head(nrows)
    frame: pd.DataFrame = df.head(nrows, npartitions=-1)
    return frame


def _pictures(frame: pd.DataFrame) -> Iterable[np.ndarray]:
    for number, row in enumerate(frame.to_dict("records")):
        try:
            yield get_np_array({str(name): value for name, value in row.items()})
        except DataError as error:
            raise DataError(f"row {row.get('id', number)}: {error.message}", row=number) from error


def _as_rgb(pixels: np.ndarray) -> np.ndarray:
    if pixels.shape[2] == 1:
        return pixels[:, :, 0]
    if pixels.shape[2] not in (3, 4):
        raise DataError(f"{pixels.shape[2]} channels are no picture; 1, 3 and 4 are")
    return np.ascontiguousarray(pixels[:, :, 2::-1])


def _whole(value: Any) -> int:
    """A size; 0 where a row has none."""
    return 0 if value is None or value is pd.NA or value != value else int(value)


def _text(value: Any) -> str:
    """A cell's text: a short array's numbers without brackets."""
    if isinstance(value, np.ndarray | list | tuple):
        value = ", ".join(f"{item:g}" if isinstance(item, float | np.floating) else str(item) for item in value)
    return html.escape(str(value))


def _grid(cells: Sequence[tuple[str, str]], across: int) -> Html:
    """Pictures in rows, each with its text under it."""
    style = f"width:{SIDE + 16}px;padding:8px;text-align:center;vertical-align:top"
    drawn = [f'<td style="{style}">{picture}<br>{text}</td>' for picture, text in cells]
    rows = ("".join(drawn[start : start + across]) for start in range(0, len(drawn), across))
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return Html(f'<table style="{_STYLE}">\n<tbody>\n{body}\n</tbody>\n</table>')


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> Html:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return Html(f'<table style="{_STYLE}">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>')
