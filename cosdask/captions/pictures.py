"""Pictures as the image net of LRCN takes them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cosdask.data.decode import COLOR, decode_image, resize_image
from cosdask.errors import DataError

__all__ = ["BORDER", "MEAN", "prepare_image"]

#: Share of an image's height and width that is cut off on each side: what is left of 256 pixels is a crop of 227.
BORDER = 0.056640625
#: What is taken off blue, green and red: the mean of ImageNet's images that CaffeNet was trained with.
MEAN = (104.0, 117.0, 123.0)


def prepare_image(image: Any, height: int, width: int, border: float = BORDER, mean: Any = MEAN) -> np.ndarray:
    """The middle of an image at the net's size, less the mean.

    Args:
        image: the bytes of an image file; or uint8 (H, W), (H, W, 1), RGB (H, W, 3) or RGBA (H, W, 4).
        height: of the result.
        width: of the result.
        border: share of the image cut off on each side, below 0.5; rounded to whole pixels, halves up.
        mean: taken off each channel, in the order blue, green, red.

    Returns:
        float32 (3, height, width), BGR, resized bilinearly.

    Raises:
        DataError: no image, or an array of another type or shape.
    """
    pixels = _pixels(image)
    top, left = (math.floor(size * border + 0.5) for size in pixels.shape[:2])
    middle = pixels[top : pixels.shape[0] - top, left : pixels.shape[1] - left]
    if not middle.size:
        raise DataError(f"an image of {pixels.shape[0]} x {pixels.shape[1]} pixels has nothing inside of its border")
    resized = resize_image(np.ascontiguousarray(middle), height, width)
    planes: np.ndarray = resized.transpose(2, 0, 1).astype(np.float32)
    return planes - np.asarray(mean, np.float32)[:, None, None]


def _pixels(image: Any) -> np.ndarray:
    """uint8 (H, W, 3), BGR."""
    if isinstance(image, bytes | bytearray | memoryview):
        return decode_image(bytes(image), COLOR)
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise DataError(
            f"an image is the bytes of a file, or uint8 (H, W) or RGB (H, W, 3), "
            f"not {array.dtype} of shape {array.shape}"
        )
    if array.ndim == 2 or array.shape[2] == 1:
        return np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
    return array[:, :, 2::-1]
