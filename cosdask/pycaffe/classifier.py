"""``caffe.Classifier``: class scores of pictures, over ten crops of each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from cosdask.errors import NetError
from cosdask.proto import caffe_pb2
from cosdask.pycaffe import io
from cosdask.pycaffe.net import TEST, Net


class PictureNet(Net):
    """A net with one input of pictures and the :class:`~cosdask.pycaffe.io.Transformer` that belongs to it.

    Args:
        model_file: the deploy prototxt.
        pretrained_file: its weights.
        mean: see :meth:`Transformer.set_mean`.
        input_scale: see :meth:`Transformer.set_input_scale`.
        raw_scale: see :meth:`Transformer.set_raw_scale`.
        channel_swap: see :meth:`Transformer.set_channel_swap`.

    Raises:
        NetError: for a net of several inputs, or of none.
    """

    def __init__(
        self,
        model_file: str | os.PathLike[str] | caffe_pb2.NetParameter,
        pretrained_file: str | os.PathLike[str] | None = None,
        mean: Any = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
    ) -> None:
        super().__init__(model_file, TEST, weights=None if pretrained_file is None else os.fspath(pretrained_file))
        if len(self.inputs) != 1 or len(self.blobs[self.inputs[0]].shape) != 4:
            raise NetError(f"a net with one input (N, C, H, W) is needed; the inputs are {self.inputs or 'none'}.")
        name = self.inputs[0]
        self.transformer = io.Transformer({name: self.blobs[name].shape})
        self.transformer.set_transpose(name, (2, 0, 1))
        if mean is not None:
            self.transformer.set_mean(name, mean)
        if input_scale is not None:
            self.transformer.set_input_scale(name, input_scale)
        if raw_scale is not None:
            self.transformer.set_raw_scale(name, raw_scale)
        if channel_swap is not None:
            self.transformer.set_channel_swap(name, channel_swap)

    def scores(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """The net's first output for pictures of any number and size, a row each."""
        name = self.inputs[0]
        ready = np.stack([self.transformer.preprocess(name, picture) for picture in pictures])
        return self.forward_all(**{name: ready})[self.outputs[0]]


class Classifier(PictureNet):
    """Classifies pictures.

    Args:
        model_file: the deploy prototxt.
        pretrained_file: its weights.
        image_dims: (height, width) to which pictures are resized before they are cropped; default: the net's size.
        mean: see :class:`PictureNet`, as the other arguments.
        input_scale: see :class:`PictureNet`.
        raw_scale: see :class:`PictureNet`.
        channel_swap: see :class:`PictureNet`.
    """

    def __init__(
        self,
        model_file: str | os.PathLike[str] | caffe_pb2.NetParameter,
        pretrained_file: str | os.PathLike[str] | None = None,
        image_dims: Sequence[int] | None = None,
        mean: Any = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
    ) -> None:
        super().__init__(model_file, pretrained_file, mean, input_scale, raw_scale, channel_swap)
        self.crop_dims: Any = np.array(self.blobs[self.inputs[0]].shape[2:])
        self.image_dims: Any = self.crop_dims if image_dims is None else np.array(image_dims)

    def predict(self, inputs: Sequence[np.ndarray], oversample: bool = True) -> np.ndarray:
        """Class scores.

        Args:
            inputs: pictures (height, width, channels) of any sizes, as :func:`caffe.io.load_image` gives them.
            oversample: average over ten crops; False for the centre alone.

        Returns:
            float32 (pictures, classes).
        """
        resized = [io.resize_image(picture, self.image_dims) for picture in inputs]
        if oversample:
            scores = self.scores(list(io.oversample(resized, self.crop_dims)))
            return scores.reshape(len(scores) // 10, 10, -1).mean(1)
        top, left = ((self.image_dims - self.crop_dims) / 2).astype(int)
        height, width = self.crop_dims
        return self.scores([picture[top : top + height, left : left + width] for picture in resized])


__all__ = ["Classifier", "PictureNet"]
