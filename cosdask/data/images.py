"""Sources of images with a label: the columns they share, and their way to uint8 arrays.

The columns are CaffeOnSpark's: id, label, channels, height, width, encoded, data. Raw pixels lie in planes (``CHW``,
as in Datums) or interleaved (``HWC``, as in dataframes); the schema's metadata says which.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cosdask.data.base import Source
from cosdask.data.decode import COLOR, GRAY, UNCHANGED, decode_image, flag_for, resize_image, to_planes
from cosdask.data.draw import Draw
from cosdask.data.transform import Transform
from cosdask.errors import ConfigError, DataError

Shape = tuple[int, int, int]
#: Rows that shuffling mixes with each other: at most so many, and no more than these bytes of raw pixels.
WINDOW_ROWS = 8192
WINDOW_BYTES = 128 << 20


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

    @property
    def memory(self) -> bool:
        """Whether a MemoryData layer describes the images (label (N, 1, 1, 1), sizes given)."""
        return bool(self.layer.type == "MemoryData")

    @property
    def batch_size(self) -> int:
        """Rows of a batch on one device, as the layer says."""
        return int(self.layer.memory_data_param.batch_size if self.memory else self.layer.data_param.batch_size)

    @cached_property
    def transform(self) -> Transform:
        """The layer's ``transform_param``."""
        return Transform(self.layer.transform_param, self.phase, self.base_dir, self.where)

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
        rows = next(self.read(0, 1, 1), None) if self.rows else None
        if rows is None:
            raise DataError(f"{self.where}: no rows in {self.place}, so the images' shape is unknown")
        height, width, channels = self._image(rows, 0, 0).shape
        return (channels, height, width), bool(rows.column("encoded")[0].as_py())

    @property
    def shuffle_window(self) -> int:
        """See :meth:`Source.shuffle_window`: as many rows as fit in :data:`WINDOW_BYTES` as raw pixels."""
        size = int(np.prod(self.image_shape, dtype=np.int64)) * self.dtype.itemsize
        return max(64, min(WINDOW_ROWS, WINDOW_BYTES // size))

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

    def decode(self, rows: pa.RecordBatch, draw: Draw) -> dict[str, np.ndarray]:
        """See :meth:`Source.decode`."""
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

    def is_slow(self, rows: pa.RecordBatch) -> bool:
        """See :meth:`Source.is_slow`: copying raw pixels is not, decoding and resizing are."""
        return bool(pc.any(rows.column("encoded")).as_py()) or bool(self.memory and self.options.get("resize"))

    def _interleaved(self, rows: pa.RecordBatch, name: str) -> pa.Array:
        column = rows.column(name)
        values: list[Any] = []
        for i in range(rows.num_rows):
            if not column[i].is_valid or (name == "data" and rows.column("encoded")[i].as_py()):
                values.append(column[i].as_py())
                continue
            pixels = np.ascontiguousarray(self._raw(rows, i, i))
            values.append(pixels.tobytes() if name == "data" else pixels.ravel())
        return pa.array(values, column.type)

    def _block(self, rows: pa.RecordBatch, draw: Draw) -> tuple[np.ndarray, np.ndarray | None] | None:
        """All rows at once, when they are raw and of one size; None when each needs its own look."""
        sizes = np.stack([rows.column(name).to_numpy() for name in ("channels", "height", "width")])
        if self.memory:
            sizes = np.where(sizes > 0, sizes, np.array(self.image_shape, sizes.dtype)[:, None])
        if rows.num_rows == 0 or not (sizes == sizes[:, :1]).all() or pc.any(rows.column("encoded")).as_py():
            return None
        shape: Shape = (int(sizes[0, 0]), int(sizes[1, 0]), int(sizes[2, 0]))
        flat = self._flat(rows, int(np.prod(shape, dtype=np.int64)))
        if flat is None or min(shape) < 1 or not self._fits(shape):
            return None
        if rows.schema.metadata[b"layout"] == b"CHW":
            pixels = flat.reshape(-1, *shape)
        else:
            pixels = flat.reshape(-1, shape[1], shape[2], shape[0]).transpose(0, 3, 1, 2)
        if not self.transform.crop:
            return np.ascontiguousarray(pixels), None
        size = self.transform.crop
        offsets = self.transform.offsets(sizes[1].astype(np.int64), sizes[2].astype(np.int64), draw)
        if not self.transform.random_crop:
            down, right = offsets[0].tolist()
            return np.ascontiguousarray(pixels[:, :, down : down + size, right : right + size]), offsets
        images = np.empty((len(pixels), shape[0], size, size), pixels.dtype)
        for i, (down, right) in enumerate(offsets.tolist()):
            images[i] = pixels[i, :, down : down + size, right : right + size]
        return images, offsets

    def _flat(self, rows: pa.RecordBatch, length: int) -> np.ndarray | None:
        """All rows' pixels behind each other, when each row has ``length`` of them."""
        column = rows.column("float_data" if self.dtype == np.float32 else "data")
        if column.null_count:
            return None
        if self.dtype == np.float32:
            lengths = pc.list_value_length(column)
            same = pc.all(pc.equal(lengths, length)).as_py()
            return column.flatten().to_numpy() if same else None
        _, ends, values = column.buffers()
        offsets = np.frombuffer(ends, np.int32, len(column) + 1, column.offset * 4)
        if values is None or (np.diff(offsets) != length).any():
            return None
        return np.frombuffer(values, np.uint8)[offsets[0] : offsets[-1]]

    def _fits(self, shape: Shape) -> bool:
        """Whether images of this size need nothing but the crop."""
        if self.options.get("resize") and self.memory:
            return shape == self.image_shape
        if not self.transform.crop:
            return shape == self.image_shape
        return shape[0] == self.image_shape[0] and min(shape[1:]) >= self.transform.crop

    def _one_by_one(self, rows: pa.RecordBatch, draw: Draw) -> tuple[np.ndarray, np.ndarray | None]:
        """Rows that are encoded or of different sizes."""
        images = [self._image(rows, i, int(draw.rows[i])) for i in range(rows.num_rows)]
        for i, image in enumerate(images):
            self._check(image, rows, i, int(draw.rows[i]))
        out = np.empty((len(images), *self.transform.out_shape(self.image_shape)), self.dtype)
        if not self.transform.crop:
            for image, planes in zip(images, out, strict=True):
                to_planes(image, planes)
            return out, None
        heights = np.array([image.shape[0] for image in images], np.int64)
        widths = np.array([image.shape[1] for image in images], np.int64)
        offsets, size = self.transform.offsets(heights, widths, draw), self.transform.crop
        for image, planes, (down, right) in zip(images, out, offsets.tolist(), strict=True):
            to_planes(image[down : down + size, right : right + size], planes)
        return out, offsets

    def _image(self, rows: pa.RecordBatch, i: int, row: int) -> np.ndarray:
        """One row's pixels, (H, W, C), resized where that is asked for."""
        try:
            image = self._encoded(rows, i) if rows.column("encoded")[i].as_py() else self._raw(rows, i, row)
        except DataError as error:
            if "row" in error.where:
                raise
            raise self._bad(rows, i, row, str(error)) from error
        if self.memory and self.options.get("resize"):
            image = resize_image(image, *self.image_shape[1:])
        return image

    def _encoded(self, rows: pa.RecordBatch, i: int) -> np.ndarray:
        data = rows.column("data")[i].as_buffer()
        if data is None:
            raise DataError("the column data is empty")
        if not self.memory:
            param = self.transform.param
            flag = COLOR if param.force_color else GRAY if param.force_gray else UNCHANGED
            return decode_image(memoryview(data), flag)
        height, width = rows.column("height")[i].as_py(), rows.column("width")[i].as_py()
        if height < 1 or width < 1:
            return decode_image(memoryview(data), flag_for(self.image_shape[0]))
        image = decode_image(memoryview(data), UNCHANGED)
        if image.shape[:2] != (height, width):
            raise DataError(f"says {height} x {width}, but its image is {image.shape[0]} x {image.shape[1]}")
        return image

    def _raw(self, rows: pa.RecordBatch, i: int, row: int) -> np.ndarray:
        """A raw row's pixels, (H, W, C); sizes that the row does not give are the layer's."""
        shape = [int(rows.column(name)[i].as_py()) for name in ("channels", "height", "width")]
        if self.memory:
            shape = [own if own > 0 else layers for own, layers in zip(shape, self.image_shape, strict=True)]
        channels, height, width = shape
        if "float_data" in rows.schema.names:
            cell = rows.column("float_data")[i]
            pixels = cell.values.to_numpy() if cell.is_valid else np.empty(0, np.float32)
        else:
            buffer = rows.column("data")[i].as_buffer()
            pixels = np.frombuffer(b"" if buffer is None else buffer, np.uint8)
        if min(shape) < 1 or pixels.size != channels * height * width:
            text = f"{pixels.size} values for {channels} x {height} x {width} (channels, height, width)"
            raise self._bad(rows, i, row, text)
        if rows.schema.metadata[b"layout"] == b"CHW":
            return pixels.reshape(channels, height, width).transpose(1, 2, 0)
        return pixels.reshape(height, width, channels)

    def _check(self, image: np.ndarray, rows: pa.RecordBatch, i: int, row: int) -> None:
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

    def _labels(self, rows: pa.RecordBatch, draw: Draw) -> np.ndarray:
        """The labels, float32 (n,); text must be whole numbers."""
        column = rows.column("label")
        if column.null_count:
            i = pc.index(column.is_null(), True).as_py()
            raise self._bad(rows, i, int(draw.rows[i]), "the column label is empty")
        if not pa.types.is_string(column.type):
            return column.to_numpy(zero_copy_only=False).astype(np.float32)
        found = np.empty(len(column), np.float32)
        for i, text in enumerate(column.to_pylist()):
            try:
                found[i] = int(text)
            except ValueError as error:
                reason = f"the label {text!r} in the column label is not a whole number"
                raise self._bad(rows, i, int(draw.rows[i]), reason) from error
        return found

    def _bad(self, rows: pa.RecordBatch, i: int, row: int, text: str) -> DataError:
        name = rows.column("id")[i].as_py()
        return DataError(f'{self.place}: row {row} (id "{name}"): {text}', path=self.place, row=row, id=name)
