"""One top of a CoSData layer: from a dataframe's column to a blob."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from cosdask.data.decode import decode_image, flag_for, resize_image, to_planes
from cosdask.data.draw import Draw
from cosdask.data.transform import Transform
from cosdask.errors import ConfigError, DataError
from cosdask.proto import caffe_pb2

Block = caffe_pb2.CoSDataParameter.TopBlob
#: Makes the error for a row's cell: its place in the batch, and what is wrong.
Bad = Callable[[int, str], DataError]

_P = caffe_pb2.CoSDataParameter


class CosTop(ABC):
    """How a column becomes a top.

    Attributes:
        column: its name.
        arrow_type: what the column is read as.
        transpose: whether the blob is time-major, (C, N).
        is_slow: whether decoding takes long enough for several threads.
    """

    arrow_type: pa.DataType
    is_slow = False

    def __init__(self, block: Block, where: str) -> None:
        self.block, self.where = block, where
        self.column = block.name
        self.transpose = bool(block.transpose)
        axes = int(block.sample_num_axes)
        if axes > 3:
            raise ConfigError(f"{where}: sample_num_axes is {axes}; at most 3 axes (channels, height, width) are kept")
        if self.transpose and axes != 1:
            raise ConfigError(f"{where}: transpose needs sample_num_axes: 1, found {axes}")
        if not block.name:
            raise ConfigError(f"{where}: the block names no column")
        self.axes = axes

    @cached_property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of a row's part of the blob."""

    @property
    def row_bytes(self) -> int:
        """About how many bytes a row's cell takes, at most."""
        return 8 * int(np.prod(self.shape, dtype=np.int64))

    @abstractmethod
    def decode(self, name: str, column: pa.Array, draw: Draw, bad: Bad) -> dict[str, np.ndarray]:
        """The raw arrays of some rows, the batch along the first axis.

        Raises:
            DataError: a cell that cannot be taken.
        """

    def finish(self, name: str, raw: Mapping[str, Any], xp: ModuleType) -> Any:
        """The blob, float32; see :meth:`cosdask.data.base.Source.finish`."""
        blob = raw[name].astype(np.float32)
        return blob.T if self.transpose else blob

    def _kept(self, full: tuple[int, int, int]) -> tuple[int, ...]:
        """The first axes of (channels, height, width); what is left out must be 1."""
        rest = full[self.axes :]
        if any(size != 1 for size in rest):
            raise ConfigError(
                f"{self.where}: sample_num_axes: {self.axes} keeps the first axes of (channels, height, width) = "
                f"{full}, but those left out hold more than one value"
            )
        return full[: self.axes]


class NumberTop(CosTop):
    """A number, or an array of numbers, a row."""

    def __init__(self, block: Block, where: str, arrow_type: pa.DataType) -> None:
        super().__init__(block, where)
        self.arrow_type = arrow_type
        if block.HasField("transform_param"):
            raise ConfigError(f"{where}: only images have a transform_param; take it out")

    @property
    def _sizes(self) -> tuple[int, int, int]:
        block = self.block
        return int(block.channels), int(block.height), int(block.width)

    def _check_out(self) -> None:
        """``out_*`` can only repeat what the row has: nothing is transformed."""
        block = self.block
        out = (int(block.out_channels), int(block.out_height), int(block.out_width))
        if any(new and new != old for new, old in zip(out, self._sizes, strict=True)):
            raise ConfigError(f"{self.where}: out sizes {out} differ from {self._sizes}; only images change size")

    def _check_nulls(self, column: pa.Array, bad: Bad) -> None:
        if column.null_count:
            raise bad(column.is_null().to_pylist().index(True), "the cell is empty")


class ScalarTop(NumberTop):
    """STRING (the text of a number), INT, FLOAT: one value a row."""

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Ones, as many as ``sample_num_axes``."""
        self._check_out()
        sizes = tuple(max(1, size) for size in self._sizes)
        if max(sizes) > 1:
            raise ConfigError(f"{self.where}: one value a row cannot fill (channels, height, width) = {sizes}")
        return sizes[: self.axes]

    def decode(self, name: str, column: pa.Array, draw: Draw, bad: Bad) -> dict[str, np.ndarray]:
        """See :meth:`CosTop.decode`."""
        self._check_nulls(column, bad)
        if pa.types.is_string(column.type):
            values = np.empty(len(column), np.float32)
            for i, text in enumerate(column.to_pylist()):
                try:
                    values[i] = float(text)
                except ValueError as error:
                    raise bad(i, f"the text {text[:40]!r} is not a number") from error
        else:
            values = column.to_numpy(zero_copy_only=False).astype(np.float32)
        return {name: values.reshape(-1, *self.shape)}


class ArrayTop(NumberTop):
    """INT_ARRAY, FLOAT_ARRAY: as many numbers a row as the top has places."""

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The first ``sample_num_axes`` of (channels, height, width)."""
        self._check_out()
        sizes = self._sizes[: self.axes]
        if self.axes == 0 or min(sizes) < 1:
            named = ", ".join(("channels", "height", "width")[: max(1, self.axes)])
            raise ConfigError(f"{self.where}: an array top needs {named} of at least 1, found {sizes}")
        return sizes

    def decode(self, name: str, column: pa.Array, draw: Draw, bad: Bad) -> dict[str, np.ndarray]:
        """See :meth:`CosTop.decode`."""
        self._check_nulls(column, bad)
        count = int(np.prod(self.shape, dtype=np.int64))
        lengths = column.value_lengths().to_numpy()
        if (lengths != count).any():
            i = int(np.flatnonzero(lengths != count)[0])
            raise bad(i, f"an array of {lengths[i]} numbers where {count} are expected; cut or pad it")
        values = column.flatten()
        if values.null_count:
            i = values.is_null().to_pylist().index(True) // count
            raise bad(i, "a number in the array is missing")
        return {name: values.to_numpy().astype(np.float32).reshape(-1, *self.shape)}


class ImageTop(CosTop):
    """ENCODED_IMAGE, RAW_IMAGE, ENCODED_IMAGE_WITH_DIM: a picture a row, transformed."""

    arrow_type = pa.binary()
    raw: ClassVar[bool] = False

    def __init__(self, block: Block, where: str, phase: str, base_dir: str | None, resize: bool) -> None:
        super().__init__(block, where)
        if not block.HasField("transform_param"):
            raise ConfigError(f"{where}: an image top needs a transform_param; an empty one will do")
        self.sizes = (int(block.channels), int(block.height), int(block.width))
        if min(self.sizes) < 1:
            raise ConfigError(f"{where}: an image top needs channels, height and width, found {self.sizes}")
        self.resize = resize
        self.transform = Transform(block.transform_param, phase, base_dir, where)
        self.is_slow = not self.raw or resize

    @cached_property
    def out(self) -> tuple[int, int, int]:
        """(C, h, w) after the transform; ``out_*`` must agree with it where they are given."""
        found = self.transform.out_shape(self.sizes)
        block = self.block
        stated = (int(block.out_channels), int(block.out_height), int(block.out_width))
        if any(size and size != real for size, real in zip(stated, found, strict=True)):
            raise ConfigError(
                f"{self.where}: out_channels, out_height, out_width are {stated}, but (channels, height, width) = "
                f"{self.sizes} become {found} by transform_param"
            )
        return found

    @property
    def row_bytes(self) -> int:
        """See :meth:`CosTop.row_bytes`: a picture takes no more than its pixels."""
        channels, height, width = self.sizes
        return channels * height * width

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """(C, h, w), or the first ``sample_num_axes`` of it."""
        return self._kept(self.out)

    def decode(self, name: str, column: pa.Array, draw: Draw, bad: Bad) -> dict[str, np.ndarray]:
        """See :meth:`CosTop.decode`: cropped uint8, (n, C, h, w)."""
        images = []
        for i in range(len(column)):
            try:
                images.append(self._image(column, i))
            except DataError as error:
                raise bad(i, error.message) from error
        out = np.empty((len(images), *self.out), np.uint8)
        crop = self.transform.crop
        if not crop:
            for image, planes in zip(images, out, strict=True):
                to_planes(image, planes)
            return {name: out, **self.transform.extras(name, None, draw)}
        heights = np.array([image.shape[0] for image in images], np.int64)
        widths = np.array([image.shape[1] for image in images], np.int64)
        offsets = self.transform.offsets(heights, widths, draw)
        for image, planes, (down, right) in zip(images, out, offsets.tolist(), strict=True):
            to_planes(image[down : down + crop, right : right + crop], planes)
        return {name: out, **self.transform.extras(name, offsets, draw)}

    def _image(self, column: pa.Array, i: int) -> np.ndarray:
        """One picture, (H, W, C), of a size that the transform takes."""
        image = self._pixels(column, i)
        channels, height, width = self.sizes
        if self.resize:
            image = resize_image(image, height, width)
        crop = self.transform.crop
        if image.shape[2] != channels:
            raise DataError(f"{image.shape[2]} channels where {channels} are expected")
        if crop and min(image.shape[:2]) < crop:
            raise DataError(f"an image of {image.shape[0]} x {image.shape[1]} is smaller than crop_size {crop}")
        fixed = not crop or self.transform.mean is not None
        if fixed and image.shape[:2] != (height, width):
            raise DataError(
                f"an image of {image.shape[0]} x {image.shape[1]} where {height} x {width} is expected; resize, or set "
                "crop_size"
            )
        return image

    def _pixels(self, column: pa.Array, i: int) -> np.ndarray:
        return decode_image(memoryview(_cell(column, i)), flag_for(self.sizes[0]))

    def finish(self, name: str, raw: Mapping[str, Any], xp: ModuleType) -> Any:
        """See :meth:`CosTop.finish`."""
        images = self.transform.finish(raw[name], raw.get(f"{name}:mirror"), raw.get(f"{name}:offset"), xp)
        blob = images.reshape(-1, *self.shape)
        return blob.T if self.transpose else blob


class RawImageTop(ImageTop):
    """RAW_IMAGE: interleaved bytes of the top's size."""

    raw: ClassVar[bool] = True

    def _pixels(self, column: pa.Array, i: int) -> np.ndarray:
        channels, height, width = self.sizes
        pixels = np.frombuffer(_cell(column, i), np.uint8)
        if pixels.size != channels * height * width:
            raise DataError(f"{pixels.size} bytes for {channels} x {height} x {width} (channels, height, width)")
        return pixels.reshape(height, width, channels)


class SizedImageTop(ImageTop):
    """ENCODED_IMAGE_WITH_DIM: an encoded picture beside its size."""

    arrow_type = pa.struct([("image", pa.binary()), ("height", pa.int32()), ("width", pa.int32())])

    def _pixels(self, column: pa.Array, i: int) -> np.ndarray:
        if not column[i].is_valid:
            raise DataError("the cell is empty")
        data = column[i]["image"].as_buffer()
        if data is None:
            raise DataError("the cell has no image")
        image = decode_image(memoryview(data), flag_for(self.sizes[0]))
        height, width = (column[i][name].as_py() or 0 for name in ("height", "width"))
        if height > 0 and width > 0 and image.shape[:2] != (height, width):
            raise DataError(f"says {height} x {width}, but its image is {image.shape[0]} x {image.shape[1]}")
        return image


def _cell(column: pa.Array, i: int) -> pa.Buffer:
    data = column[i].as_buffer()
    if data is None:
        raise DataError("the cell is empty")
    return data


def cos_top(block: Block, blob: str, phase: str, base_dir: str | None, where: str, resize: bool) -> CosTop:
    """How a top's block says that its column becomes a blob.

    Args:
        block: of ``cos_data_param``.
        blob: name of the top.
        phase: ``"TRAIN"`` or ``"TEST"``.
        base_dir: folder of the prototxt, for mean files.
        where: the layer, for messages.
        resize: whether images are resized to the block's height and width.

    Raises:
        ConfigError: settings that cannot work.
    """
    where = f'{where}, top "{blob}" (column {block.name!r})'
    numbers = {
        _P.STRING: (ScalarTop, pa.string()),
        _P.INT: (ScalarTop, pa.int64()),
        _P.FLOAT: (ScalarTop, pa.float32()),
        _P.INT_ARRAY: (ArrayTop, pa.list_(pa.int64())),
        _P.FLOAT_ARRAY: (ArrayTop, pa.list_(pa.float32())),
    }
    if block.type in numbers:
        maker, kind = numbers[block.type]
        return maker(block, where, kind)
    images = {_P.ENCODED_IMAGE: ImageTop, _P.RAW_IMAGE: RawImageTop, _P.ENCODED_IMAGE_WITH_DIM: SizedImageTop}
    return images[block.type](block, where, phase, base_dir, resize)
