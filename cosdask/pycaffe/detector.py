"""``caffe.Detector``: class scores of windows in pictures (Girshick et al. 2014, R-CNN)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from cosdask.errors import DataError
from cosdask.proto import caffe_pb2
from cosdask.pycaffe import io
from cosdask.pycaffe.classifier import PictureNet


class Detector(PictureNet):
    """Scores windows.

    Args:
        model_file: the deploy prototxt.
        pretrained_file: its weights.
        mean: see :class:`PictureNet`, as the other arguments.
        input_scale: see :class:`PictureNet`.
        raw_scale: see :class:`PictureNet`.
        channel_swap: see :class:`PictureNet`.
        context_pad: pixels of the net's input, on each side, that show what surrounds the window; where the picture
            ends they show the mean.
    """

    def __init__(
        self,
        model_file: str | os.PathLike[str] | caffe_pb2.NetParameter,
        pretrained_file: str | os.PathLike[str] | None = None,
        mean: Any = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
        context_pad: int | None = None,
    ) -> None:
        super().__init__(model_file, pretrained_file, mean, input_scale, raw_scale, channel_swap)
        self.context_pad = 0
        self.crop_mean: np.ndarray | None = None
        self.configure_crop(context_pad)

    def configure_crop(self, context_pad: int | None) -> None:
        """Set the pixels of context, and what stands where the picture has ended: the mean, as a raw picture."""
        self.context_pad = int(context_pad or 0)
        size = self.blobs[self.inputs[0]].shape[2:]
        if 2 * self.context_pad >= min(size):
            raise DataError(f"context_pad (={context_pad}) leaves nothing of an input of {size}.")
        if not self.context_pad:
            return
        name = self.inputs[0]
        self.crop_mean = np.zeros((*size, self.blobs[name].shape[1]), np.float32)
        if name in self.transformer.mean:
            planes = np.zeros(self.blobs[name].shape[1:], np.float32)
            # the mean as a picture: what preprocess makes a zero of
            self.crop_mean = self.transformer.deprocess(name, planes).reshape(self.crop_mean.shape)

    def detect_windows(self, images_windows: Iterable[tuple[Any, Any]]) -> list[dict[str, Any]]:
        """Scores of windows.

        Args:
            images_windows: (file name or picture, windows) pairs; a window is (ymin, xmin, ymax, xmax) in pixels.

        Returns:
            For each window ``{"window", "prediction", "filename"}``.

        Raises:
            DataError: for pictures that cannot be read and windows outside of them.
        """
        found: list[dict[str, Any]] = []
        crops: list[np.ndarray] = []
        for place, windows in images_windows:
            picture = io.load_image(place) if isinstance(place, str | os.PathLike) else np.asarray(place, np.float32)
            for window in windows:
                crops.append(self.crop(picture, window))
                found.append({"window": np.asarray(window), "filename": place})
        if not crops:
            return []
        scores = self.scores(crops)
        flat = scores.reshape(len(scores), -1)
        return [{**entry, "prediction": row} for entry, row in zip(found, flat, strict=True)]

    def detect_selective_search(self, image_fnames: Iterable[str]) -> list[dict[str, Any]]:
        """Not here: pycaffe ran a MATLAB program for it.

        Raises:
            DataError: always.
        """
        raise DataError(
            "detect_selective_search needs MATLAB's selective search, which is not part of cosdask; find windows with "
            "a library of your choice (OpenCV's ximgproc has selective search) and give them to detect_windows."
        )

    def crop(self, im: np.ndarray, window: Sequence[int]) -> np.ndarray:
        """The part of a picture in a window, with its context.

        Args:
            im: (height, width, channels).
            window: (ymin, xmin, ymax, xmax) in pixels.

        Returns:
            float32: the window as it is, or with ``context_pad`` of the net's input size.

        Raises:
            DataError: for a window that is empty or outside of the picture.
        """
        top, left, bottom, right = (int(edge) for edge in window)
        inside = im[max(0, top) : max(0, bottom), max(0, left) : max(0, right)]
        if not inside.size or top >= bottom or left >= right:
            raise DataError(f"the window {tuple(window)} holds nothing of a picture of {im.shape[:2]}.")
        if not self.context_pad or self.crop_mean is None:
            return np.asarray(inside, np.float32)
        return self._with_context(im, (top, left, bottom, right))

    def _with_context(self, im: np.ndarray, window: tuple[int, int, int, int]) -> np.ndarray:
        """The window fills all of the net's input but ``context_pad`` on each side."""
        assert self.crop_mean is not None
        size = self.crop_mean.shape[0]
        scale = size / (size - 2.0 * self.context_pad)
        top, left, bottom, right = window
        middle = ((top + bottom) / 2.0, (left + right) / 2.0)
        half = ((bottom - top) / 2.0 * scale, (right - left) / 2.0 * scale)
        wide = [round(middle[0] - half[0]), round(middle[1] - half[1])]
        wide += [round(middle[0] + half[0]), round(middle[1] + half[1])]
        steps = (self.crop_mean.shape[0] / (wide[2] - wide[0]), self.crop_mean.shape[1] / (wide[3] - wide[1]))
        cut = [max(0, wide[0]), max(0, wide[1]), min(im.shape[0], wide[2]), min(im.shape[1], wide[3])]
        place = [round((cut[axis] - wide[axis]) * steps[axis]) for axis in (0, 1)]
        sizes = [max(1, round((cut[axis + 2] - cut[axis]) * steps[axis])) for axis in (0, 1)]
        sizes = [min(sizes[axis], self.crop_mean.shape[axis] - place[axis]) for axis in (0, 1)]
        found = self.crop_mean.copy()
        shown = io.resize_image(im[cut[0] : cut[2], cut[1] : cut[3]], sizes)
        found[place[0] : place[0] + sizes[0], place[1] : place[1] + sizes[1]] = shown
        return found


__all__ = ["Detector"]
