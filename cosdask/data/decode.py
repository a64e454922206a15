"""Encoded images to pixels, as Caffe does it: with OpenCV, in BGR."""

from __future__ import annotations

import os

# OpenCV reads this once, when it loads: images that claim to be larger are refused before memory is taken.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 27))

import cv2
import numpy as np

from cosdask.errors import DataError

# The feed decodes whole images in threads of its own; OpenCV's would fight with them.
cv2.setNumThreads(0)

#: Markers of a JPEG: its start, the start of its pixels, its end.
_JPEG, _JPEG_PIXELS, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
#: OpenCV's decode flags by what is wanted.
GRAY = int(cv2.IMREAD_GRAYSCALE)
COLOR = int(cv2.IMREAD_COLOR)
UNCHANGED = int(cv2.IMREAD_UNCHANGED)


def flag_for(channels: int) -> int:
    """The decode flag for a number of channels: 1 gray, 3 color, else as stored."""
    return {1: GRAY, 3: COLOR}.get(channels, UNCHANGED)


def decode_image(data: bytes | memoryview, flag: int) -> np.ndarray:
    """Decode JPEG, PNG, or whatever else OpenCV reads.

    Args:
        data: the file's bytes.
        flag: :data:`GRAY`, :data:`COLOR` or :data:`UNCHANGED`.

    Returns:
        uint8 (height, width, channels), BGR when there are three.

    Raises:
        DataError: no image, damaged, too many pixels, or not 8 bits a channel.
    """
    if len(data) == 0:
        raise DataError("no bytes where an encoded image should be")
    if data[:2] == _JPEG and data[-2:] != _JPEG_END:
        _check_end(bytes(data))
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except cv2.error as error:
        reason = "it claims too many pixels" if "MAX_IMAGE_PIXELS" in str(error) else str(error.err or error)
        raise DataError(f"an image that cannot be decoded: {reason}") from error
    if image is None:
        raise DataError(f"no image: {len(data)} bytes that begin with {bytes(data[:8])!r}")
    if image.dtype != np.uint8:
        raise DataError(f"an image with {image.dtype} pixels; Caffe takes 8 bits a channel")
    pixels: np.ndarray = image[:, :, None] if image.ndim == 2 else image
    return pixels


def _check_end(data: bytes) -> None:
    """Refuse a JPEG that is cut short, which OpenCV fills up with gray; something may follow its end.

    A thumbnail inside has an end of its own, but the picture's pixels begin after it.
    """
    if data.rfind(_JPEG_END) <= data.rfind(_JPEG_PIXELS):
        raise DataError(f"a JPEG image that is cut short: {len(data)} bytes without its end")


def encode_image(image: np.ndarray, kind: str) -> bytes:
    """The bytes of an image file.

    Args:
        image: uint8 (height, width, channels), BGR when there are three.
        kind: ``"png"`` or ``"jpeg"``.
    """
    done, data = cv2.imencode(f".{kind}", image)
    if not done:
        raise DataError(f"an array of shape {image.shape} cannot be written as {kind}")
    return bytes(data)


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear resize of uint8 (h, w, channels); the image itself when it has the size already."""
    if image.shape[:2] == (height, width):
        return image
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return resized[:, :, None] if resized.ndim == 2 else resized


def to_planes(image: np.ndarray, out: np.ndarray) -> None:
    """Copy interleaved (h, w, C) pixels to planes (C, h, w)."""
    if image.dtype == np.uint8 and image.shape[2] == 3:
        cv2.split(image, list(out))  # three times as fast as a transposed copy
    else:
        out[...] = image.transpose(2, 0, 1)
