"""Sources of images with a label: the columns they share, and their way to uint8 arrays.

The columns are CaffeOnSpark's: id, label, channels, height, width, encoded, data. Raw pixels lie in planes (``CHW``,
as in Datums) or interleaved (``HWC``, as in dataframes); the schema's metadata says which.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa

from cosdask.data.base import CHUNK, Source, window_rows
from cosdask.data.buffers import Buffers
from cosdask.data.decode import UNCHANGED, decode_image, flag_for, resize_image, to_planes
from cosdask.data.draw import Draw
from cosdask.data.image_rows import ImageRows
from cosdask.data.skips import bad_row
from cosdask.data.transform import Transform
from cosdask.errors import ConfigError, DataError

Shape = tuple[int, int, int]
#: Rows that shuffling mixes with each other, at most.
WINDOW_ROWS = 8192
#: Raw images below this many bytes are copied together, larger ones each to its place.
_SMALL = 16 << 10
#: Raw images from this many bytes on are copied by several threads.
_LARGE = 64 << 10
#: Rows looked at for the images' shape, where rows that cannot be read are skipped.
FIRST_ROWS = 1000
#: The parameters that hold the batch size, by layer type; else ``data_param``.
_BLOCKS = {"MemoryData": "memory_data_param", "ImageData": "image_data_param"}


def image_schema(layout: str, label: pa.DataType, floats: bool = False) -> pa.Schema:
    """The columns of image sources; with ``floats`` a row may hold ``float_data`` in place of ``data``."""
    fields = [
        ("id", pa.string()),
        ("label", label),
        ("channels", pa.int32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("encoded", pa.bool_()),
        ("data", pa.binary()),
    ]
    if floats:
        fields.append(("float_data", pa.list_(pa.float32())))
    return pa.schema(fields, metadata={"layout": layout})


class ImageSource(Source):
    """Rows with one image and one label.

    ``Data`` layers take their shape from the first row; ``MemoryData`` layers from ``memory_data_param``, and may
    resize.
    """

    @cached_property
    def memory(self) -> bool:
        """Whether a MemoryData layer describes the images (label (N, 1, 1, 1), sizes given)."""
        return bool(self.layer.type == "MemoryData")

    @property
    def batch_size(self) -> int:
        """Rows of a batch on one device, as the layer says."""
        return int(getattr(self.layer, _BLOCKS.get(self.layer.type, "data_param")).batch_size)

    @cached_property
    def transform(self) -> Transform:
        """The layer's ``transform_param``."""
        return Transform(self.layer.transform_param, self.transform_phase, self.base_dir, self.where)

    @cached_property
    def tops(self) -> dict[str, tuple[int, ...]]:
        """Caffe's shape of each top, batch included, after the crop."""
        names = list(self.layer.top)
        if not 1 <= len(names) <= 2:
            raise ConfigError(f"{self.where}: {len(names)} tops; an image top and a label top are possible")
        shapes: list[tuple[int, ...]] = [(self.batch_size, *self.transform.out_shape(self.image_shape))]
        shapes.append((self.batch_size, 1, 1, 1) if self.memory else (self.batch_size,))
        return dict(zip(names, shapes, strict=False))

    @cached_property
    def image_shape(self) -> Shape:
        """(C, H, W) of the images before the crop; with a crop, other rows may have other sizes."""
        if not self.memory:
            return self._first_image[0]
        param = self.layer.memory_data_param
        shape = (int(param.channels), int(param.height), int(param.width))
        if min(shape) < 1:
            raise ConfigError(f"{self.where}: memory_data_param needs channels, height and width, found {shape}")
        return shape

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """uint8, or float32 where rows hold floats: decided by the first row."""
        return np.dtype(np.float32) if "float_data" in self.schema.names else np.dtype(np.uint8)

    @cached_property
    def _first_image(self) -> tuple[Shape, bool]:
        if not self.rows:
            raise DataError(f"{self.where}: no rows in {self.place}, so the images' shape is unknown")
        for row in range(min(self.rows, FIRST_ROWS)):
            try:
                return self._look_at(row)
            except DataError as error:
                if not self.skipping or bad_row(error) is None:
                    raise self.placed(error) from error
                last = self.placed(error)
        raise DataError(f"{self.place}: none of the first {row + 1} rows can be read; the last one: {last}") from last

    def _look_at(self, row: int) -> tuple[Shape, bool]:
        """The shape of a row's image, and whether it is encoded."""
        rows = next(iter(self.stream(row, row + 1, 1)))
        image = self._image(rows, 0, row)
        height, width, channels = image.shape
        if self.skipping and min(height, width) < self.transform.crop:
            raise self._bad(rows, 0, row, f"an image of {height} x {width} is smaller than {self.transform.crop}")
        return (channels, height, width), rows.encoded[0]

    @property
    def shuffle_window(self) -> int:
        """See :meth:`Source.shuffle_window`; rows count as raw pixels."""
        size = int(np.prod(self.image_shape, dtype=np.int64)) * self.dtype.itemsize
        return window_rows(size, WINDOW_ROWS)

    @property
    @abstractmethod
    def place(self) -> str:
        """Where the rows lie, for messages."""

    def spec(self) -> dict[str, Any]:
        """See :meth:`Source.spec`; the shape goes along, so that nobody reads the first row again."""
        return {**super().spec(), "image_shape": list(self.image_shape)}

    @classmethod
    def _from_spec(cls, spec: Mapping[str, Any]) -> Source:
        source = super()._from_spec(spec)
        assert isinstance(source, ImageSource)
        channels, height, width = spec["image_shape"]
        source.image_shape = (channels, height, width)
        return source

    # From rows to arrays.

    @cached_property
    def _buffers(self) -> Buffers:
        return Buffers()

    def stream(self, start: int, stop: int, chunk: int = CHUNK) -> Iterator[ImageRows]:
        """See :meth:`Source.stream`: views of the images' bytes."""
        return map(ImageRows.of, self.read(start, stop, chunk))

    def decode(self, rows: ImageRows | pa.RecordBatch, draw: Draw) -> dict[str, np.ndarray]:
        """See :meth:`Source.decode`."""
        rows = _views(rows)
        top = self.layer.top[0]
        images, offsets = self._block(rows, draw) or self._one_by_one(rows, draw)
        found = {top: images, **self.transform.extras(top, offsets, draw)}
        if len(self.layer.top) > 1:
            labels = self._labels(rows, draw)
            found[self.layer.top[1]] = labels.reshape(-1, 1, 1, 1) if self.memory else labels
        return found

    def finish(self, raw: Mapping[str, Any], xp: ModuleType = np) -> dict[str, Any]:
        """See :meth:`Source.finish`."""
        top, *rest = self.layer.top
        images = self.transform.finish(raw[top], raw.get(f"{top}:mirror"), raw.get(f"{top}:offset"), xp)
        return {top: images, **{name: raw[name] for name in rest}}

    def frame_rows(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """See :meth:`Source.frame_rows`: labels as text, raw pixels interleaved."""
        label = rows.schema.get_field_index("label")
        rows = rows.set_column(label, "label", rows.column("label").cast(pa.string()))
        if rows.schema.metadata[b"layout"] == b"CHW":
            for name in ("data", "float_data"):
                if name in rows.schema.names:
                    rows = rows.set_column(rows.schema.get_field_index(name), name, self._interleaved(rows, name))
        return rows.replace_schema_metadata({"layout": "HWC"})

    def is_slow(self, rows: ImageRows | pa.RecordBatch) -> bool:
        """See :meth:`Source.is_slow`: copying small raw images is not; large ones, decoding and resizing are."""
        own = _views(rows)
        large = any(cell is not None and len(cell) >= _LARGE for cell in own.data[:1])
        return large or any(own.encoded) or bool(self.memory and self.options.get("resize"))

    def ids(self, rows: ImageRows | pa.RecordBatch) -> list[str]:
        """See :meth:`Source.ids`."""
        return _views(rows).ids

    def _interleaved(self, rows: pa.RecordBatch, name: str) -> pa.Array:
        own = ImageRows.of(rows)
        cells = own.data if name == "data" else own.floats or []
        values: list[Any] = []
        for i, cell in enumerate(cells):
            # rows of floats hold no bytes: theirs stay as they are
            if cell is None or not len(cell) or (name == "data" and own.encoded[i]):
                values.append(cell)
                continue
            pixels = np.ascontiguousarray(self._raw(own, i, i))
            values.append(pixels.tobytes() if name == "data" else pixels.ravel())
        return pa.array(values, rows.column(name).type)

    def _block(self, rows: ImageRows, draw: Draw) -> tuple[np.ndarray, np.ndarray | None] | None:
        """All rows without a look at each, when they are raw and of one size that fits; None otherwise."""
        if rows.num_rows == 0 or any(rows.encoded) or len(set(rows.sizes)) > 1:
            return None
        shape = self._size(rows, 0)
        if min(shape) < 1 or not self._fits(shape):
            return None
        cells: list[Any] = rows.data if rows.floats is None else rows.floats
        length = shape[0] * shape[1] * shape[2]
        if not all(cell is not None and len(cell) == length for cell in cells):
            return None
        if self.dtype == np.uint8 and length < _SMALL:
            together = np.frombuffer(b"".join(cells), np.uint8).reshape(len(cells), *_stored(shape, rows.layout))
            if not self.transform.crop and rows.layout == "CHW":
                return together, None
            cells = list(together)
        return self._copied(cells, shape, rows.layout, draw)

    def _copied(self, cells: list[Any], shape: Shape, layout: str, draw: Draw) -> tuple[np.ndarray, np.ndarray | None]:
        """Raw images, each cropped on its way from where it lies to its place in the batch."""
        size = self.transform.crop
        images = self._buffers.empty((len(cells), *self.transform.out_shape(self.image_shape)), self.dtype)
        offsets, corners = None, [[0, 0]] * len(cells)
        high, wide = (size, size) if size else shape[1:]
        if size:
            sizes = np.tile(np.array(shape[1:], np.int64), (len(cells), 1))
            offsets = self.transform.offsets(sizes[:, 0], sizes[:, 1], draw)
            corners = offsets.tolist()
        stored = _stored(shape, layout)
        for cell, planes, (down, right) in zip(cells, images, corners, strict=True):
            pixels = np.frombuffer(cell, self.dtype).reshape(stored)
            if layout == "CHW":
                planes[...] = pixels[:, down : down + high, right : right + wide]
            else:
                to_planes(pixels[down : down + high, right : right + wide], planes)
        return images, offsets

    def _size(self, rows: ImageRows, i: int) -> Shape:
        """A raw row's (channels, height, width); what the row does not give is the layer's."""
        channels, height, width = rows.sizes[i]
        if self.memory:
            own = self.image_shape
            return (
                channels if channels > 0 else own[0],
                height if height > 0 else own[1],
                width if width > 0 else own[2],
            )
        return channels, height, width

    def _fits(self, shape: Shape) -> bool:
        """Whether images of this size need nothing but the crop."""
        if self.options.get("resize") and self.memory:
            return shape == self.image_shape
        if not self.transform.crop:
            return shape == self.image_shape
        mean = self.transform.mean
        if mean is not None and shape != mean.shape:
            return False
        return shape[0] == self.image_shape[0] and min(shape[1:]) >= self.transform.crop

    def _one_by_one(self, rows: ImageRows, draw: Draw) -> tuple[np.ndarray, np.ndarray | None]:
        """Rows that are encoded or of different sizes: one is decoded and cropped before the next."""
        size = self.transform.crop
        images = self._buffers.empty((rows.num_rows, *self.transform.out_shape(self.image_shape)), self.dtype)
        places: list[tuple[int, int]] = []
        corner = self.transform.corners(draw)
        for i, (row, planes) in enumerate(zip(draw.rows.tolist(), images, strict=True)):
            image = self._image(rows, i, row)
            self._check(image, rows, i, row)
            if size:
                down, right = place = corner(i, image.shape[0], image.shape[1])
                places.append(place)
                image = image[down : down + size, right : right + size]
            to_planes(image, planes)
        return images, np.array(places, np.int32).reshape(-1, 2) if size else None

    def _image(self, rows: ImageRows, i: int, row: int) -> np.ndarray:
        """One row's pixels, (H, W, C), resized where that is asked for."""
        try:
            image = self._encoded(rows, i) if rows.encoded[i] else self._raw(rows, i, row)
        except DataError as error:
            if "row" in error.where:
                raise
            raise self._bad(rows, i, row, str(error)) from error
        if self.memory and self.options.get("resize"):
            image = resize_image(image, *self.image_shape[1:])
        return image

    def _encoded(self, rows: ImageRows, i: int) -> np.ndarray:
        data = rows.data[i]
        if data is None:
            raise DataError("the column data is empty")
        if not self.memory:
            return decode_image(data, self.transform.decode_flag)
        _, height, width = rows.sizes[i]
        if height < 1 or width < 1:
            return decode_image(data, flag_for(self.image_shape[0]))
        image = decode_image(data, UNCHANGED)
        if image.shape[:2] != (height, width):
            raise DataError(f"says {height} x {width}, but its image is {image.shape[0]} x {image.shape[1]}")
        return image

    def _raw(self, rows: ImageRows, i: int, row: int) -> np.ndarray:
        """A raw row's pixels, (H, W, C)."""
        shape = channels, height, width = self._size(rows, i)
        cell: Any = rows.data[i] if rows.floats is None else rows.floats[i]
        pixels = np.frombuffer(b"" if cell is None else cell, self.dtype)
        if min(shape) < 1 or pixels.size != channels * height * width:
            text = f"{pixels.size} values for {channels} x {height} x {width} (channels, height, width)"
            raise self._bad(rows, i, row, text)
        stored = pixels.reshape(_stored(shape, rows.layout))
        return stored.transpose(1, 2, 0) if rows.layout == "CHW" else stored

    def _check(self, image: np.ndarray, rows: ImageRows, i: int, row: int) -> None:
        """Refuse an image that does not fit the tops."""
        height, width, channels = image.shape
        if channels != self.image_shape[0]:
            remedy = "force_color or force_gray in transform_param" if not self.memory else "the layer's channels"
            text = f"{channels} channels where {self.image_shape[0]} are expected; see {remedy}"
        elif self.transform.crop and min(height, width) < self.transform.crop:
            text = f"an image of {height} x {width} is smaller than crop_size {self.transform.crop}"
        elif not self.transform.crop and (height, width) != self.image_shape[1:]:
            expected = f"{self.image_shape[1]} x {self.image_shape[2]}"
            text = f"an image of {height} x {width} where {expected} is expected; resize, or set crop_size"
        elif self.transform.mean is not None and (channels, height, width) != self.transform.mean.shape:
            text = f"an image of {height} x {width}, but the mean file has {self.transform.mean.shape[1:]}"
        else:
            return
        raise self._bad(rows, i, row, text)

    def _labels(self, rows: ImageRows, draw: Draw) -> np.ndarray:
        """The labels, float32 (n,); text must be whole numbers."""
        found = np.empty(rows.num_rows, np.float32)
        for i, label in enumerate(rows.labels):
            try:
                found[i] = int(label)
            except (TypeError, ValueError) as error:
                reason = f"the label {label!r} in the column label is not a whole number"
                if label is None:
                    reason = "the column label is empty"
                raise self._bad(rows, i, int(draw.rows[i]), reason, "label") from error
        return found

    def _bad(self, rows: ImageRows, i: int, row: int, text: str, column: str = "data") -> DataError:
        name = rows.slice(i, 1).ids[0]
        where = {"path": self.place, "row": row, "id": name, "column": column}
        return DataError(f'{self.place}: row {row} (id "{name}"): {text}', **where)


def _views(rows: ImageRows | pa.RecordBatch) -> ImageRows:
    return ImageRows.of(rows) if isinstance(rows, pa.RecordBatch) else rows


def _stored(shape: Shape, layout: str) -> Shape:
    """The shape in which raw pixels lie."""
    return shape if layout == "CHW" else (shape[1], shape[2], shape[0])
