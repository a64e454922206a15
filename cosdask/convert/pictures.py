"""Changing the images of rows on their way: size, color, and how they are stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from cosdask.convert.rows import row_schema
from cosdask.data.decode import decode_image, flag_for, resize_image
from cosdask.errors import ConfigError, DataError, did_you_mean

#: Formats that images can be encoded in, and the first bytes of each.
ENCODINGS = {
    "png": (b"\x89PNG",),
    "jpg": (b"\xff\xd8\xff",),
    "bmp": (b"BM",),
    "tiff": (b"II*\x00", b"MM\x00*"),
    "webp": (b"RIFF",),
}
#: In place of a format: each image in the one that it has.
KEEP = "keep"

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Pictures:
    """What becomes of each image; the default leaves all as they are.

    Attributes:
        height: new height, with ``width``; 0 keeps the size.
        width: new width.
        gray: one channel.
        color: three channels.
        encode: a format of :data:`ENCODINGS`, or :data:`KEEP`; images that are in it already stay as they are. ""
            does not encode.
        decode: store pixels.
        shape: (channels, height, width) that every image must have in the end; None takes any.

    Raises:
        ConfigError: settings that contradict each other.
    """

    height: int = 0
    width: int = 0
    gray: bool = False
    color: bool = False
    encode: str = ""
    decode: bool = False
    shape: Shape | None = None

    def __post_init__(self) -> None:
        if bool(self.height) != bool(self.width) or min(self.height, self.width) < 0:
            raise ConfigError(f"a size of {self.height} x {self.width}: give both height and width")
        if self.encode not in ("", KEEP, *ENCODINGS):
            hint = did_you_mean(self.encode, ENCODINGS)
            raise ConfigError(f'no encoding "{self.encode}".{hint} There are {", ".join(ENCODINGS)}')
        if self.encode and self.decode:
            raise ConfigError("encode and decode exclude each other")
        if self.gray and self.color:
            raise ConfigError("gray and color exclude each other")

    @property
    def idle(self) -> bool:
        """Whether rows stay as they are."""
        return self == Pictures()

    def apply(self, rows: pa.RecordBatch, first: int, place: str, skip: bool) -> tuple[pa.RecordBatch, list[str]]:
        """Changed rows, and what was wrong with those left out.

        Args:
            rows: columns of :func:`~cosdask.convert.rows.row_schema`.
            first: number of the first row, for messages.
            place: where rows come from, for messages.
            skip: leave bad rows out in place of an error.

        Raises:
            DataError: an image that cannot be read or has another size than it must.
        """
        found: list[dict[str, Any]] = []
        bad: list[str] = []
        for i, row in enumerate(rows.to_pylist()):
            try:
                if row["label"] is None:
                    raise DataError("the column label is empty")
                found.append(row if self.idle and _has_data(row) else self._changed(row))
            except DataError as error:
                text = f'{place}: row {first + i} (id "{row["id"]}"): {error}'
                if not skip:
                    raise DataError(text, path=place, row=first + i, id=row["id"]) from error
                bad.append(text)
        if self.idle and not bad:
            return rows, bad
        return pa.RecordBatch.from_pylist(found, row_schema("float_data" in rows.schema.names)), bad

    def _changed(self, row: dict[str, Any]) -> dict[str, Any]:
        if not _has_data(row):
            raise DataError("its file cannot be read, or is empty")
        image = self.image(row)
        channels = 1 if self.gray else 3 if self.color else image.shape[2]
        image = _recolored(image, channels)
        if self.height:
            image = resize_image(image, self.height, self.width)
        shape = (image.shape[2], image.shape[0], image.shape[1])
        if self.shape is not None and shape != self.shape:
            raise DataError(
                f"{_words(shape)}, where all are {_words(self.shape)}; give them one size, see --resize-height"
            )
        sizes = {"channels": shape[0], "height": shape[1], "width": shape[2]}
        if image.dtype != np.uint8:
            return {**row, **sizes, "data": None, "float_data": image.ravel(), "encoded": False}
        if self._stays(row):
            return row
        if not self.encode:
            return {**row, **sizes, "encoded": False, "data": image.tobytes()}
        kind = (encoding_of(row) or "png") if self.encode == KEEP else self.encode
        ok, data = cv2.imencode(f".{kind}", image)
        if not ok:
            raise DataError(f"an image of {_words(shape)} cannot be encoded as {kind}")
        return {**row, **sizes, "encoded": True, "data": data.tobytes()}

    def _stays(self, row: dict[str, Any]) -> bool:
        """Whether an encoded row's bytes are what is wanted."""
        if not row["encoded"] or self.decode or self.height or self.gray or self.color:
            return False
        return self.encode in ("", KEEP, encoding_of(row))

    def image(self, row: dict[str, Any]) -> np.ndarray:
        """A row's pixels: uint8 or float32 (height, width, channels)."""
        if row["encoded"]:
            # Rows of encoded files need not say their sizes: height is 0 then, whatever channels says.
            known = row["channels"] if row["height"] > 0 else self.shape[0] if self.shape else 0
            return decode_image(row["data"], flag_for(1 if self.gray else 3 if self.color else known))
        shape = (row["height"], row["width"], row["channels"])
        if row["data"] is None:
            pixels = np.asarray(row["float_data"], np.float32)
        else:
            pixels = np.frombuffer(row["data"], np.uint8)
        if min(shape) < 1 or pixels.size != shape[0] * shape[1] * shape[2]:
            raise DataError(f"{pixels.size} values for {_words((shape[2], shape[0], shape[1]))}")
        return pixels.reshape(shape)


def encoding_of(row: dict[str, Any]) -> str:
    """The format of an encoded row, by its first bytes; "" where it is none of :data:`ENCODINGS`."""
    data = row["data"] if row["encoded"] else b""
    return next((kind for kind, marks in ENCODINGS.items() if data.startswith(marks)), "")


def _has_data(row: dict[str, Any]) -> bool:
    return row["data"] is not None or row.get("float_data") is not None


def _recolored(image: np.ndarray, channels: int) -> np.ndarray:
    if image.shape[2] == channels:
        return image
    code = {(3, 1): cv2.COLOR_BGR2GRAY, (1, 3): cv2.COLOR_GRAY2BGR, (4, 3): cv2.COLOR_BGRA2BGR}
    code |= {(4, 1): cv2.COLOR_BGRA2GRAY}
    if (image.shape[2], channels) not in code:
        raise DataError(f"an image of {image.shape[2]} channels where {channels} are wanted")
    changed: np.ndarray = cv2.cvtColor(image, code[image.shape[2], channels])
    return changed.reshape(image.shape[0], image.shape[1], channels)


def _words(shape: Shape) -> str:
    return f"{shape[0]} x {shape[1]} x {shape[2]} (channels, height, width)"
