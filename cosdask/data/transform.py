"""Caffe's data transformer in two halves: crops where rows are decoded, arithmetic in the compiled step.

Caffe's order is crop, mirror, mean, scale. A mean file is subtracted at the pixel's place before mirroring; so here
mean comes first and mirror second, which gives the same values. Source: the rules of Caffe's ``DataTransformer``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np

from cosdask.data.decode import COLOR, GRAY, UNCHANGED
from cosdask.data.draw import Draw
from cosdask.errors import ConfigError, DataError, ProtoError
from cosdask.proto import blob_to_array, caffe_pb2, read_binary
from cosdask.storage import resolve

#: What a row's random numbers are drawn for.
_TOP, _LEFT, _MIRROR = range(3)
#: Most bytes of a mean file: 4096 x 4096 pixels of 16 channels would be 1 GB, nobody has that.
_MEAN_LIMIT = 1 << 30


def read_mean(url: str) -> np.ndarray:
    """A mean image from a binaryproto file.

    Returns:
        float32 (C, H, W).

    Raises:
        StorageError: missing.
        ProtoError: not a binaryproto file.
        DataError: of another shape than one image.
    """
    blob = read_binary(url, caffe_pb2.BlobProto(), _MEAN_LIMIT)
    try:
        values = blob_to_array(blob)
    except ProtoError as error:
        raise DataError(f"{url}: {error}", path=url) from error
    shape = values.shape
    while len(shape) > 3 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) != 3 or min(shape) < 1:
        raise DataError(f"{url}: a mean image (channels, height, width) is needed, found shape {shape}", path=url)
    return values.reshape(shape)


class Transform:
    """One ``transform_param`` in one phase.

    Args:
        param: the layer's ``transform_param``.
        phase: ``"TRAIN"`` (random crops) or ``"TEST"`` (centre crops); mirroring is random in both, as in Caffe.
        base_dir: folder of the prototxt, for a relative ``mean_file``.
        where: the layer, for messages.

    Raises:
        ConfigError: both mean_file and mean_value, or both force_color and force_gray.
    """

    def __init__(
        self, param: caffe_pb2.TransformationParameter, phase: str, base_dir: str | None = None, where: str = "data"
    ) -> None:
        self.param, self.phase, self.base_dir, self.where = param, phase, base_dir, where
        self.crop = int(param.crop_size)
        self.random_crop = self.crop > 0 and phase == "TRAIN"
        self.decode_flag = COLOR if param.force_color else GRAY if param.force_gray else UNCHANGED
        if param.mean_file and len(param.mean_value):
            raise ConfigError(f"{where}: give mean_file or mean_value, not both", layer=where)
        if param.force_color and param.force_gray:
            raise ConfigError(f"{where}: give force_color or force_gray, not both", layer=where)

    def __reduce__(self) -> tuple[Any, ...]:
        return Transform, (self.param, self.phase, self.base_dir, self.where)

    @cached_property
    def mean(self) -> np.ndarray | None:
        """The mean file's image, float32 (C, H, W)."""
        if not self.param.mean_file:
            return None
        return read_mean(resolve(os.fspath(self.param.mean_file), self.base_dir))

    @property
    def needs_offsets(self) -> bool:
        """Whether the second half must know where each row was cropped."""
        return self.random_crop and bool(self.param.mean_file)

    def out_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(C, h, w) after the crop, for images (C, H, W).

        Raises:
            DataError: images smaller than the crop, or that the mean does not fit.
        """
        channels, height, width = shape
        means = len(self.param.mean_value)
        if means > 1 and means != channels:
            raise DataError(
                f"{self.where}: {means} mean_value for {channels} channels; give one, or one a channel",
                layer=self.where,
            )
        if self.mean is not None and self.mean.shape != shape:
            raise DataError(
                f"{self.where}: the mean of {self.param.mean_file} has shape {self.mean.shape}, the images {shape}",
                layer=self.where,
            )
        if not self.crop:
            return shape
        if min(height, width) < self.crop:
            raise DataError(
                f"{self.where}: images of {height} x {width} are smaller than crop_size {self.crop}", layer=self.where
            )
        return channels, self.crop, self.crop

    def offsets(self, heights: np.ndarray, widths: np.ndarray, draw: Draw) -> np.ndarray:
        """Where each row is cropped: int32 (n, 2), top and left, for images of the given sizes (n,)."""
        down, right = heights - self.crop, widths - self.crop
        if self.random_crop:
            down, right = draw.below(down + 1, _TOP), draw.below(right + 1, _LEFT)
        else:
            down, right = down // 2, right // 2
        return np.stack([down, right], axis=1).astype(np.int32)

    def corners(self, draw: Draw) -> Callable[[int, int, int], tuple[int, int]]:
        """What :meth:`offsets` gives, row by row: a function of a row's place in the draw, its height and width."""
        size = self.crop
        if not self.random_crop:
            return lambda i, height, width: ((height - size) // 2, (width - size) // 2)
        tops, lefts = draw.bits(_TOP).tolist(), draw.bits(_LEFT).tolist()
        return lambda i, height, width: (tops[i] % (height - size + 1), lefts[i] % (width - size + 1))

    def extras(self, top: str, offsets: np.ndarray | None, draw: Draw) -> dict[str, np.ndarray]:
        """What :meth:`finish` needs beside the images, under ``top:mirror`` and ``top:offset``."""
        found: dict[str, np.ndarray] = {}
        if self.param.mirror:
            found[f"{top}:mirror"] = draw.flips(_MIRROR)
        if self.needs_offsets and offsets is not None:
            found[f"{top}:offset"] = offsets
        return found

    def finish(self, images: Any, mirror: Any = None, offset: Any = None, xp: ModuleType = np) -> Any:
        """Mean, mirror and scale: float32 (n, C, h, w).

        Args:
            images: uint8 or float32 (n, C, h, w), cropped.
            mirror: bool (n,), when the layer mirrors.
            offset: int32 (n, 2), when :attr:`needs_offsets`.
            xp: ``numpy``, or ``jax.numpy`` inside a compiled step.
        """
        images = images.astype(np.float32)
        if self.mean is not None:
            images = images - self._mean_of(images.shape, offset, xp)
        elif self.param.mean_value:
            images = images - xp.asarray(np.array(self.param.mean_value, np.float32).reshape(1, -1, 1, 1))
        if mirror is not None:
            images = xp.where(mirror[:, None, None, None], images[:, :, :, ::-1], images)
        if self.param.scale != 1:
            images = images * np.float32(self.param.scale)
        return images

    def _mean_of(self, shape: tuple[int, ...], offset: Any, xp: ModuleType) -> Any:
        """The mean's pixels under each row's crop: (n or 1, C, h, w)."""
        mean = self.mean
        assert mean is not None
        height, width = shape[2:]
        if offset is None:
            top, left = (mean.shape[1] - height) // 2, (mean.shape[2] - width) // 2
            return xp.asarray(mean[None, :, top : top + height, left : left + width])
        down = offset[:, 0:1] + np.arange(height, dtype=np.int32)[None, :]
        right = offset[:, 1:2] + np.arange(width, dtype=np.int32)[None, :]
        return xp.moveaxis(xp.asarray(mean)[:, down[:, :, None], right[:, None, :]], 0, 1)
