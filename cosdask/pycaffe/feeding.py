"""How a net's data layers get their batches: from files as in training, or from arrays of the user's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cosdask.data import Feed, RowPlan, Shuffle, open_source
from cosdask.errors import DataError
from cosdask.nn.layer import Shape
from cosdask.proto import caffe_pb2


class RowReader:
    """The endless batches of one data layer, read ahead of their use.

    Args:
        layer: the data layer.
        phase: ``"TRAIN"`` or ``"TEST"``.
        folder: where relative paths count from beside the working directory.
        seed: of random crops and mirrors.
    """

    def __init__(self, layer: caffe_pb2.LayerParameter, phase: str, folder: str | None, seed: int) -> None:
        self._layer, self._phase, self._folder, self._seed = layer, phase, folder, seed
        self._feed: Feed | None = None
        self.first_batch = 0

    def next(self) -> dict[str, np.ndarray]:
        """The next batch: ``{top: float32 array}``.

        Raises:
            DataError, StorageError: for rows that cannot be read.
        """
        if self._feed is None:
            self._source = open_source(self._layer, self._phase, self._folder, {"seed": self._seed})
            order = Shuffle.of(self._source, self._seed) if self._source.shuffled else None
            plan = RowPlan(self._source.rows, 1, order)
            size = self._source.batch_size
            self._feed = Feed(self._source, plan, 0, size, first_batch=self.first_batch, seed=self._seed)
            # pycaffe's nets have no close: the threads end with the net
            self._feed.end_with(self)
        return {top: np.asarray(array) for top, array in self._source.finish(next(self._feed)).items()}

    def seek(self, batch: int) -> None:
        """Go on with another batch of the stream."""
        if self._feed is not None:
            self._feed.close()
            self._feed = None
        self.first_batch = batch


class ArrayReader:
    """The batches of a MemoryData layer without a source: what :meth:`set` was given, round and round."""

    def __init__(self, layer: caffe_pb2.LayerParameter) -> None:
        self._layer = layer
        self._arrays: list[np.ndarray] | None = None
        self._at = 0

    def set(self, data: Any, labels: Any, shapes: Mapping[str, Shape]) -> None:
        """Give rows and labels.

        Args:
            data: float32 (n, C, H, W), n a multiple of the batch size.
            labels: n numbers, of shape (n,) or (n, 1, 1, 1).
            shapes: of the layer's tops.

        Raises:
            DataError: where shapes do not fit.
        """
        name = self._layer.name
        top = shapes[self._layer.top[0]]
        rows = np.ascontiguousarray(data, np.float32)
        marks = np.ascontiguousarray(labels, np.float32)
        if rows.ndim != 4 or rows.shape[1:] != top[1:]:
            raise DataError(
                f'set_input_arrays: layer "{name}" takes arrays (n, *{top[1:]}), not {rows.shape}.', layer=name
            )
        if len(rows) == 0 or len(rows) % top[0] or marks.size != len(rows):
            raise DataError(
                f'set_input_arrays: layer "{name}" takes a multiple of {top[0]} rows and a label for each; '
                f"{len(rows)} rows and {marks.size} labels are given.",
                layer=name,
            )
        label = shapes[self._layer.top[1]] if len(self._layer.top) > 1 else (1,)
        self._arrays, self._at = [rows, marks.reshape(-1, *label[1:])], 0

    def next(self) -> dict[str, np.ndarray]:
        """The next batch.

        Raises:
            DataError: where nothing was given.
        """
        if self._arrays is None:
            raise DataError(
                f'layer "{self._layer.name}" (MemoryData) has no rows: give them with net.set_input_arrays(data, '
                "labels), or name what it reads with source_class.",
                layer=self._layer.name,
            )
        size = int(self._layer.memory_data_param.batch_size)
        found = [array[self._at : self._at + size] for array in self._arrays]
        self._at = (self._at + size) % len(self._arrays[0])
        return dict(zip(self._layer.top, found, strict=False))

    def seek(self, batch: int) -> None:
        """Go on with another batch of the stream."""
        rows = len(self._arrays[0]) if self._arrays else 1
        self._at = batch * int(self._layer.memory_data_param.batch_size) % rows


def make_reader(layer: caffe_pb2.LayerParameter, phase: str, folder: str | None, seed: int) -> RowReader | ArrayReader:
    """The reader of a data layer."""
    if layer.type == "MemoryData" and not layer.source_class:
        return ArrayReader(layer)
    return RowReader(layer, phase, folder, seed)


__all__ = ["ArrayReader", "RowReader", "make_reader"]
