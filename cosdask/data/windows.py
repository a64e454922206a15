"""Caffe's WindowData layers: windows of images, as R-CNN fine-tunes on them."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any, ClassVar

import cv2
import numpy as np
import pyarrow as pa

from cosdask.data.base import CHUNK, Source
from cosdask.data.decode import COLOR, decode_image, to_planes
from cosdask.data.draw import Draw
from cosdask.data.image_list import FILE_LIMIT, LIST_LIMIT
from cosdask.data.index import Block, Index
from cosdask.data.transform import Transform
from cosdask.errors import ConfigError, DataError, StorageError
from cosdask.proto import caffe_pb2
from cosdask.storage import exists, join, local_path, parent, read_bytes, read_text

_BLOCK = 4096
#: What a row's random numbers are drawn for.
_CHOICE, _MIRROR = range(2)
#: Most bytes of files kept with ``cache_images``.
_CACHE_BYTES = 1 << 30


@dataclass(frozen=True)
class WindowList:
    """A window file.

    Attributes:
        images: names as they are written there.
        windows: int64 (n, 6): image, label, x1, y1, x2, y2; corners are within the window.
        overlaps: float32 (n,), of the window with an object.
    """

    images: list[str]
    windows: np.ndarray
    overlaps: np.ndarray


def read_windows(url: str) -> WindowList:
    """A window file.

    For each image it has ``# index``, name, channels, height, width, the number of windows, a line each; then a line
    ``class overlap x1 y1 x2 y2`` for each window.

    Raises:
        StorageError: the file is missing.
        DataError: it is not such a file; names the line.
    """
    lines = [(number, line.split()) for number, line in enumerate(read_text(url, LIST_LIMIT).splitlines(), 1)]
    lines = [(number, words) for number, words in lines if words]
    images: list[str] = []
    windows: list[list[int]] = []
    overlaps: list[float] = []
    at = 0

    def bad(expected: str) -> DataError:
        number, words = lines[min(at, len(lines) - 1)]
        found = " ".join(words)[:60] if at < len(lines) else "the end of the file"
        return DataError(f"{url}:{number}: {expected} is expected, found {found!r}", path=url, line=number)

    while at < len(lines):
        if lines[at][1][0] != "#":
            raise bad('"# index"')
        if at + 6 > len(lines):
            raise bad("a name, channels, height, width and a number of windows")
        images.append(" ".join(lines[at + 1][1]))
        at += 5
        try:
            count = int(lines[at][1][0])
        except ValueError:
            raise bad("the number of windows") from None
        at += 1
        for _ in range(count):
            try:
                label, overlap, *corners = lines[at][1]
                windows.append([len(images) - 1, int(label), *(int(word) for word in corners)])
                overlaps.append(float(overlap))
                if len(corners) != 4:
                    raise ValueError
            except (IndexError, ValueError):
                raise bad("class overlap x1 y1 x2 y2") from None
            at += 1
    if not windows:
        raise DataError(f"{url}: the file names no windows", path=url)
    return WindowList(images, np.array(windows, np.int64), np.array(overlaps, np.float32))


class WindowSource(Source):
    """The rows of a ``WindowData`` layer.

    Each batch holds ``fg_fraction`` of windows that overlap an object by ``fg_threshold`` or more, with their class,
    behind others that overlap by less than ``bg_threshold``, with the label 0. Windows are drawn anew for each row,
    from seed, epoch and row; an epoch is as many batches as it takes for as many rows as there are windows.
    """

    kind: ClassVar[str] = "WindowData"

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        param = self.layer.window_data_param
        if self.transform.crop < 1:
            raise ConfigError(f"{self.where}: crop_size is needed", layer=self.layer.name)
        if param.crop_mode not in ("warp", "square"):
            raise ConfigError(
                f'{self.where}: crop_mode "{param.crop_mode}"; "warp" and "square" are possible', layer=self.layer.name
            )
        if 2 * param.context_pad >= self.transform.crop:
            raise ConfigError(
                f"{self.where}: context_pad {param.context_pad} leaves nothing of crop_size {self.transform.crop}",
                layer=self.layer.name,
            )
        self._cache: OrderedDict[str, bytes] = OrderedDict()
        self._cached = 0
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": OrderedDict(), "_cached": 0, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    @property
    def batch_size(self) -> int:
        """Rows of a batch on one device, as the layer says."""
        return int(self.layer.window_data_param.batch_size)

    @cached_property
    def transform(self) -> Transform:
        """The layer's ``transform_param``: crop size, mean and mirror.

        Raises:
            DataError: a mean file that is smaller than the crop, or has not three channels.
        """
        param = caffe_pb2.TransformationParameter()
        param.CopyFrom(self.layer.transform_param)
        param.ClearField("scale")  # see finish
        found = Transform(param, "TEST", self.base_dir, self.where)
        found.out_shape((3, found.crop, found.crop) if found.mean is None else (3, *found.mean.shape[1:]))
        return found

    @property
    def tops(self) -> dict[str, tuple[int, ...]]:
        """Images (N, 3, crop, crop) and labels (N,)."""
        size = self.transform.crop
        shapes = [(self.batch_size, 3, size, size), (self.batch_size,)]
        if len(self.layer.top) != 2:
            raise ConfigError(f"{self.where}: {len(self.layer.top)} tops; images and labels are needed")
        return dict(zip(self.layer.top, shapes, strict=True))

    @property
    def place(self) -> str:
        """The window file."""
        return self.named_place(self.layer.window_data_param.source)

    @cached_property
    def listing(self) -> WindowList:
        """The window file."""
        return read_windows(self.place)

    @cached_property
    def kinds(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the windows without and with an object.

        Raises:
            DataError: a batch needs windows of a kind that there is none of, or an object's class is 0.
        """
        param, overlaps = self.layer.window_data_param, self.listing.overlaps
        front = overlaps >= np.float32(param.fg_threshold)
        back = ~front & (overlaps < np.float32(param.bg_threshold))
        wrong = np.flatnonzero(front & (self.listing.windows[:, 1] < 1))
        if wrong.size:
            raise DataError(f"{self.place}: window {wrong[0]}: an object's class is 1 or more", path=self.place)
        for mask, wanted, name in ((front, self._foreground, "with"), (back, self.batch_size - self._foreground, "no")):
            if wanted and not mask.any():
                raise DataError(f"{self.place}: {wanted} windows {name} object a batch, but the file has none")
        return np.flatnonzero(back), np.flatnonzero(front)

    @property
    def _foreground(self) -> int:
        """Windows of a batch that have an object."""
        return int(np.float32(self.batch_size) * np.float32(self.layer.window_data_param.fg_fraction))

    @cached_property
    def schema(self) -> pa.Schema:
        """What is drawn for a row is not known before its epoch: only its number, and whether it has an object."""
        return pa.schema([("id", pa.string()), ("object", pa.bool_())], metadata={"layout": "HWC"})

    def _count(self) -> Index:
        rows = -(-len(self.listing.windows) // self.batch_size) * self.batch_size
        return Index(tuple(Block(min(_BLOCK, rows - at), {}) for at in range(0, rows, _BLOCK)))

    def read(self, start: int, stop: int, chunk: int = CHUNK) -> Iterator[pa.RecordBatch]:
        """See :meth:`Source.read`."""
        for first in range(start, stop, chunk):
            numbers = np.arange(first, min(stop, first + chunk))
            objects = numbers % self.batch_size >= self.batch_size - self._foreground
            yield pa.RecordBatch.from_arrays(
                [pa.array(numbers).cast(pa.string()), pa.array(objects)], schema=self.schema
            )

    def is_slow(self, rows: Any) -> bool:
        """See :meth:`Source.is_slow`: an image is decoded for each row."""
        return True

    def decode(self, rows: pa.RecordBatch, draw: Draw) -> dict[str, np.ndarray]:
        """See :meth:`Source.decode`; ``top:box`` int32 (n, 4) says which part of each image is not padding."""
        back, front = self.kinds
        size, (data, label) = self.transform.crop, self.layer.top
        objects = rows.column("object").to_numpy(zero_copy_only=False)
        chosen = np.where(
            objects,
            front[draw.below(len(front) or 1, _CHOICE)] if len(front) else 0,
            back[draw.below(len(back) or 1, _CHOICE)] if len(back) else 0,
        )
        mirrored = draw.flips(_MIRROR) & bool(self.transform.param.mirror)
        images = np.zeros((len(chosen), 3, size, size), np.uint8)
        boxes = np.zeros((len(chosen), 4), np.int32)
        for i, (number, flip) in enumerate(zip(chosen.tolist(), mirrored.tolist(), strict=True)):
            boxes[i] = self._window(number, flip, images[i])
        labels = np.where(objects, self.listing.windows[chosen, 1], 0).astype(np.float32)
        return {data: images, f"{data}:box": boxes, label: labels}

    def _window(self, number: int, flip: bool, out: np.ndarray) -> tuple[int, int, int, int]:
        """One window, warped into ``out`` (3, crop, crop); top, left, height and width of what is not padding."""
        image_number, _, *corners = self.listing.windows[number].tolist()
        name = self.listing.images[image_number]
        try:
            image = decode_image(self._file(name), COLOR)
        except (DataError, StorageError) as error:
            raise DataError(
                f'{self.place}: window {number} (image "{name}"): {error}', path=self.place, row=number, id=name
            ) from error
        param = self.layer.window_data_param
        found = fit_window(
            corners, image.shape[:2], self.transform.crop, param.context_pad, param.crop_mode == "square", flip
        )
        x1, y1, x2, y2 = found.source
        inside = 0 <= x1 <= x2 < image.shape[1] and 0 <= y1 <= y2 < image.shape[0]
        if not inside or min(found.box[2:]) < 1:
            raise DataError(
                f'{self.place}: window {number}: {corners} is not within image "{name}" of {image.shape[0]} x '
                f"{image.shape[1]}",
                path=self.place,
                row=number,
                id=name,
            )
        top, left, height, width = found.box
        warped = cv2.resize(image[y1 : y2 + 1, x1 : x2 + 1], (width, height), interpolation=cv2.INTER_LINEAR)
        if flip:
            warped = cv2.flip(warped, 1)
        to_planes(warped, out[:, top : top + height, left : left + width])
        return found.box

    @cached_property
    def _folder(self) -> str:
        """What stands before each image's name."""
        root = self.layer.window_data_param.root_folder
        first = root + self.listing.images[0]
        here = local_path(first)
        if here is None or here.is_absolute() or here.exists():
            return root
        for base in (self.base_dir, parent(self.place)):
            if base is not None and exists(join(base, first)):
                return join(base, root)
        return root

    def _file(self, name: str) -> bytes:
        """An image's file; kept with ``cache_images``, those used least lately leaving first."""
        if not self.layer.window_data_param.cache_images:
            return read_bytes(self._folder + name, FILE_LIMIT)
        with self._lock:
            if name in self._cache:
                self._cache.move_to_end(name)
                return self._cache[name]
        data = read_bytes(self._folder + name, FILE_LIMIT)
        with self._lock:
            if name not in self._cache:
                self._cache[name] = data
                self._cached += len(data)
            while self._cached > _CACHE_BYTES and len(self._cache) > 1:
                self._cached -= len(self._cache.popitem(last=False)[1])
        return data

    def finish(self, raw: Mapping[str, Any], xp: ModuleType = np) -> dict[str, Any]:
        """See :meth:`Source.finish`: mean and scale where there is no padding, zero where there is.

        As in Caffe the scale is ``window_data_param``'s; that of ``transform_param`` has no effect here.
        """
        data, label = self.layer.top
        size = self.transform.crop
        box = raw[f"{data}:box"][:, :, None]
        place = np.arange(size, dtype=np.int32)[None, :]
        down = (place >= box[:, 0]) & (place < box[:, 0] + box[:, 2])
        right = (place >= box[:, 1]) & (place < box[:, 1] + box[:, 3])
        inside = (down[:, :, None] & right[:, None, :])[:, None]
        images = self.transform.finish(raw[data], xp=xp) * np.float32(self.layer.window_data_param.scale)
        return {data: xp.where(inside, images, np.float32(0)), label: raw[label]}


@dataclass(frozen=True)
class Fitted:
    """Where a window's pixels come from (x1, y1, x2, y2, within) and go to (top, left, height, width)."""

    source: tuple[int, int, int, int]
    box: tuple[int, int, int, int]


def fit_window(corners: list[int], size: tuple[int, int], crop: int, pad: int, square: bool, flip: bool) -> Fitted:
    """How Caffe warps a window into a square of ``crop`` pixels, with ``pad`` pixels of what lies around it.

    Without padding and not square, the window itself is warped. Else the window grows so that the warped one has
    ``pad`` pixels of surroundings on each side (``square``: made a square first); what is outside of the image stays
    zero, and mirrored windows have their padding mirrored too. Source: Caffe's ``WindowDataLayer``.

    Args:
        corners: x1, y1, x2, y2 of the window, all within it.
        size: height and width of the image.
        crop: side of the result.
        pad: ``context_pad``.
        square: ``crop_mode: "square"``.
        flip: whether the window is mirrored.

    Example:
        >>> fit_window([2, 0, 5, 3], (10, 10), 8, 2, False, False)
        Fitted(source=(0, 0, 8, 6), box=(2, 0, 6, 8))
    """
    x1, y1, x2, y2 = corners
    if not pad and not square:
        return Fitted((x1, y1, x2, y2), (0, 0, crop, crop))
    single = np.float32
    grow = single(crop) / single(crop - 2 * pad)
    half_height, half_width = single((y2 - y1 + 1) / 2), single((x2 - x1 + 1) / 2)
    center_x, center_y = single(x1) + half_width, single(y1) + half_height
    if square:
        half_height = half_width = max(half_height, half_width)
    x1, x2 = _rounded(center_x - half_width * grow), _rounded(center_x + half_width * grow)
    y1, y2 = _rounded(center_y - half_height * grow), _rounded(center_y + half_height * grow)
    scale_x, scale_y = single(crop) / single(x2 - x1 + 1), single(crop) / single(y2 - y1 + 1)
    out_left, out_right = max(0, -x1), max(0, x2 - size[1] + 1)
    out_top, out_bottom = max(0, -y1), max(0, y2 - size[0] + 1)
    x1, x2, y1, y2 = x1 + out_left, x2 - out_right, y1 + out_top, y2 - out_bottom
    width, height = _rounded(single(x2 - x1 + 1) * scale_x), _rounded(single(y2 - y1 + 1) * scale_y)
    left = _rounded(single(out_right if flip else out_left) * scale_x)
    top = _rounded(single(out_top) * scale_y)
    return Fitted((x1, y1, x2, y2), (top, left, min(height, crop - top), min(width, crop - left)))


def _rounded(value: Any) -> int:
    """C's ``round``: halves go away from zero."""
    return int(math.copysign(math.floor(abs(float(value)) + 0.5), float(value)))
