"""``caffe.io``: pictures as arrays, their way into and out of a net, and Caffe's messages as arrays."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from cosdask.data.decode import COLOR, decode_image
from cosdask.errors import DataError, did_you_mean
from cosdask.proto import array_to_blob, blob_to_array, caffe_pb2, parse_binary
from cosdask.storage import read_bytes

#: how much red, green and blue count in brightness (ITU-R BT.709, as in scikit-image)
_BRIGHTNESS = np.array([0.2125, 0.7154, 0.0721], np.float32)
#: OpenCV's interpolation by the order of the polynomial
_ORDERS = {0: cv2.INTER_NEAREST, 1: cv2.INTER_LINEAR, 2: cv2.INTER_CUBIC, 3: cv2.INTER_CUBIC}


def load_image(filename: str | os.PathLike[str], color: bool = True) -> np.ndarray:
    """Read a picture.

    Args:
        filename: a path or URL of whatever OpenCV decodes.
        color: False for one channel of brightness, of red, green, and blue as scikit-image weighs them.

    Returns:
        float32 (height, width, 3) RGB in [0, 1], or (height, width, 1).

    Raises:
        DataError: for what is no picture.
        StorageError: for a file that is missing.
    """
    name = os.fspath(filename)
    try:
        pixels = decode_image(read_bytes(name), COLOR)
    except DataError as error:
        raise DataError(f"{name}: {error}", path=name) from error
    found = np.ascontiguousarray(pixels[:, :, ::-1].astype(np.float32) / np.float32(255))
    return found if color else (found @ _BRIGHTNESS)[:, :, None]


def resize_image(im: np.ndarray, new_dims: Sequence[int], interp_order: int = 1) -> np.ndarray:
    """Resize a picture of any number of channels.

    Args:
        im: (height, width, channels).
        new_dims: (height, width).
        interp_order: 0 nearest, 1 linear, 2 or 3 cubic.

    Returns:
        float32 (new height, new width, channels).

    Raises:
        DataError: for another interpolation order or an array of other axes.
    """
    if interp_order not in _ORDERS:
        raise DataError(f"interp_order (={interp_order}): {', '.join(map(str, _ORDERS))} are possible.")
    if np.ndim(im) != 3:
        raise DataError(f"resize_image takes (height, width, channels), not an array of shape {np.shape(im)}.")
    height, width = (int(size) for size in new_dims)
    source = np.ascontiguousarray(im, np.float32)
    planes = [
        cv2.resize(source[:, :, channel], (width, height), interpolation=_ORDERS[interp_order])
        for channel in range(source.shape[2])
    ]
    return np.stack(planes, axis=2)


def oversample(images: Iterable[np.ndarray], crop_dims: Sequence[int]) -> np.ndarray:
    """Ten crops of each picture: the four corners, the centre, and their mirror images.

    Args:
        images: pictures (height, width, channels) of one size.
        crop_dims: (height, width) of the crops.

    Returns:
        float32 (10 * pictures, height, width, channels).

    Raises:
        DataError: where the crop is larger than the pictures.
    """
    pictures = [np.asarray(image, np.float32) for image in images]
    height, width = (int(size) for size in crop_dims)
    crops: list[np.ndarray] = []
    for picture in pictures:
        down, right = picture.shape[0] - height, picture.shape[1] - width
        if down < 0 or right < 0:
            raise DataError(f"a picture of {picture.shape[:2]} is smaller than the crop ({height}, {width}).")
        corners = [(top, left) for top in (0, down) for left in (0, right)]
        five = [picture[top : top + height, left : left + width] for top, left in [*corners, (down // 2, right // 2)]]
        crops += [*five, *(crop[:, ::-1] for crop in five)]
    return np.stack(crops)


class Transformer:
    """Brings pictures into the form in which a net wants them, and back.

    The order is Caffe's: resize, transpose, channel swap, raw scale, mean, input scale.

    Args:
        inputs: ``{input blob: shape}``, such as ``{"data": net.blobs["data"].data.shape}``.

    Example:
        >>> transformer = Transformer({"data": (1, 3, 2, 2)})
        >>> transformer.set_transpose("data", (2, 0, 1))
        >>> transformer.set_raw_scale("data", 255)
        >>> transformer.preprocess("data", np.ones((4, 4, 3), np.float32)).shape
        (3, 2, 2)
    """

    def __init__(self, inputs: Mapping[str, Sequence[int]]) -> None:
        self.inputs: dict[str, tuple[int, ...]] = {name: tuple(shape) for name, shape in inputs.items()}
        self.transpose: dict[str, tuple[int, ...]] = {}
        self.channel_swap: dict[str, tuple[int, ...]] = {}
        self.raw_scale: dict[str, float] = {}
        self.mean: dict[str, np.ndarray] = {}
        self.input_scale: dict[str, float] = {}

    def preprocess(self, in_: str, data: np.ndarray) -> np.ndarray:
        """A picture as the net's input.

        Args:
            in_: the input blob.
            data: (height, width, channels).

        Returns:
            float32, of the input's shape without the batch.
        """
        size = self._shape(in_)[2:]
        found = np.asarray(data, np.float32)
        if found.shape[:2] != size:
            found = resize_image(found, size)
        if in_ in self.transpose:
            found = found.transpose(self.transpose[in_])
        if in_ in self.channel_swap:
            found = found[list(self.channel_swap[in_])]
        if in_ in self.raw_scale:
            found = found * np.float32(self.raw_scale[in_])
        if in_ in self.mean:
            found = found - self.mean[in_]
        if in_ in self.input_scale:
            found = found * np.float32(self.input_scale[in_])
        return np.ascontiguousarray(found, np.float32)

    def deprocess(self, in_: str, data: np.ndarray) -> np.ndarray:
        """The way back: an input of the net as a picture, without the resizing."""
        self._shape(in_)
        found = np.asarray(data, np.float32).squeeze()
        if in_ in self.input_scale:
            found = found / np.float32(self.input_scale[in_])
        if in_ in self.mean:
            found = found + self.mean[in_]
        if in_ in self.raw_scale:
            found = found / np.float32(self.raw_scale[in_])
        if in_ in self.channel_swap:
            found = found[np.argsort(self.channel_swap[in_])]
        if in_ in self.transpose:
            found = found.transpose(np.argsort(self.transpose[in_]))
        return np.ascontiguousarray(found, np.float32)

    def set_transpose(self, in_: str, order: Sequence[int]) -> None:
        """The order of axes: ``(2, 0, 1)`` for pictures (height, width, channels).

        Raises:
            DataError: for an order of another number of axes.
        """
        shape = self._shape(in_)
        if sorted(order) != list(range(len(shape) - 1)):
            raise DataError(f'set_transpose: "{in_}" has {len(shape) - 1} axes beside the batch; order (={order}).')
        self.transpose[in_] = tuple(order)

    def set_channel_swap(self, in_: str, order: Sequence[int]) -> None:
        """The order of channels: ``(2, 1, 0)`` makes BGR of RGB.

        Raises:
            DataError: for an order of another number of channels.
        """
        shape = self._shape(in_)
        if sorted(order) != list(range(shape[1])):
            raise DataError(f'set_channel_swap: "{in_}" has {shape[1]} channels; order (={order}).')
        self.channel_swap[in_] = tuple(order)

    def set_raw_scale(self, in_: str, scale: float) -> None:
        """A factor applied before the mean: 255 for nets trained on bytes, as :func:`load_image` gives [0, 1]."""
        self._shape(in_)
        self.raw_scale[in_] = float(scale)

    def set_mean(self, in_: str, mean: Any) -> None:
        """What is subtracted: a number a channel, or a picture of the input's size.

        Raises:
            DataError: for a mean that fits neither.
        """
        shape = self._shape(in_)
        values = np.asarray(mean, np.float32)
        if values.ndim == 1:
            if values.shape != (shape[1],):
                raise DataError(f'set_mean: "{in_}" has {shape[1]} channels, the mean has {len(values)} numbers.')
            values = values[:, None, None]
        else:
            values = values[None] if values.ndim == 2 else values
            if values.shape != shape[1:]:
                raise DataError(f'set_mean: "{in_}" is {shape[1:]}, the mean picture {values.shape}.')
        self.mean[in_] = values

    def set_input_scale(self, in_: str, scale: float) -> None:
        """A factor applied after the mean."""
        self._shape(in_)
        self.input_scale[in_] = float(scale)

    def _shape(self, in_: str) -> tuple[int, ...]:
        if in_ not in self.inputs:
            raise DataError(f'"{in_}" is no input of this Transformer.{did_you_mean(in_, self.inputs)}')
        return self.inputs[in_]


def blobproto_to_array(blob: caffe_pb2.BlobProto, return_diff: bool = False) -> np.ndarray:
    """The numbers of a ``BlobProto``, float32: its data, or its gradient."""
    return blob_to_array(blob, return_diff)


def array_to_blobproto(arr: np.ndarray, diff: np.ndarray | None = None) -> caffe_pb2.BlobProto:
    """A ``BlobProto`` of an array, with a gradient where one is given."""
    blob = array_to_blob(np.asarray(arr))
    if diff is not None:
        blob.diff.extend(np.asarray(diff, np.float32).ravel().tolist())
    return blob


def arraylist_to_blobprotovector_str(arraylist: Iterable[np.ndarray]) -> bytes:
    """Arrays as a serialized ``BlobProtoVector``."""
    vector = caffe_pb2.BlobProtoVector()
    vector.blobs.extend(array_to_blobproto(array) for array in arraylist)
    return vector.SerializeToString()


#: pycaffe's own spelling
arraylist_to_blobprotovecor_str = arraylist_to_blobprotovector_str


def blobprotovector_str_to_arraylist(text: bytes) -> list[np.ndarray]:
    """The arrays of a serialized ``BlobProtoVector``."""
    vector = parse_binary(text, caffe_pb2.BlobProtoVector())
    return [blobproto_to_array(blob) for blob in vector.blobs]


def array_to_datum(arr: np.ndarray, label: int | None = None) -> caffe_pb2.Datum:
    """A ``Datum`` of an array (channels, height, width): bytes for uint8, else floats.

    Raises:
        DataError: for an array of other axes.
    """
    array = np.asarray(arr)
    if array.ndim != 3:
        raise DataError(f"a Datum holds (channels, height, width), not an array of shape {array.shape}.")
    datum = caffe_pb2.Datum(channels=array.shape[0], height=array.shape[1], width=array.shape[2])
    if array.dtype == np.uint8:
        datum.data = array.tobytes()
    else:
        datum.float_data.extend(array.astype(np.float32).ravel().tolist())
    if label is not None:
        datum.label = label
    return datum


def datum_to_array(datum: caffe_pb2.Datum) -> np.ndarray:
    """The array (channels, height, width) of a ``Datum``: uint8 for bytes, else float32.

    Raises:
        DataError: for an encoded picture, and for a Datum whose size is not the stated one.
    """
    if datum.encoded:
        raise DataError("the Datum holds an encoded picture; decode datum.data with an image library.")
    shape = (datum.channels, datum.height, datum.width)
    values = np.frombuffer(datum.data, np.uint8) if datum.data else np.array(datum.float_data, np.float32)
    if values.size != int(np.prod(shape)):
        raise DataError(f"a Datum of {shape} needs {int(np.prod(shape)):,} numbers, and it holds {values.size:,}.")
    return values.reshape(shape)


__all__ = [
    "Transformer",
    "array_to_blobproto",
    "array_to_datum",
    "arraylist_to_blobprotovecor_str",
    "arraylist_to_blobprotovector_str",
    "blobproto_to_array",
    "blobprotovector_str_to_arraylist",
    "datum_to_array",
    "load_image",
    "oversample",
    "resize_image",
]
