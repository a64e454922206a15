"""HDF5Output: keeps two blobs of every batch in an HDF5 file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cosdask.errors import NetError, StorageError
from cosdask.nn.layer import Array, Layer, register
from cosdask.proto import caffe_pb2
from cosdask.storage import local_path

if TYPE_CHECKING:
    import h5py

_NAMES = ("data", "label")
#: Rows that lie together in a file.
_CHUNK = 64


@register("HDF5Output")
class HDF5Output(Layer):
    """Names two blobs, data and labels, that are kept in a file; makes nothing.

    The layer itself is pure: whoever runs the net writes what it names (see :class:`OutputFiles`).
    """

    arithmetic = "as_given"
    layout = "any"
    n_bottoms = (2, 2)
    n_tops = (0, 0)

    def setup(self) -> None:
        """Check the settings.

        Raises:
            NetError: no file, a file that is not local, or blobs of different numbers of rows.
        """
        name = self.param.hdf5_output_param.file_name
        if not name:
            self.fail("hdf5_output_param needs a file_name.")
        if local_path(name) is None:
            self.fail(f"{name}: HDF5 is written to local disks only.")
        shapes = self.bottom_shapes
        if not shapes[0] or not shapes[1] or shapes[0][0] != shapes[1][0]:
            self.fail(f"data {shapes[0]} and labels {shapes[1]} need the same number of rows.")
        self.top_shapes = []

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """No tops."""
        return []


class OutputFiles:
    """The files of a net's HDF5Output layers: ``data`` and ``label``, float32, a row of each batch after the other.

    A file is made anew by the first batch. Caffe's own layer takes one batch only; here further ones are appended.

    Args:
        layers: of the net.
        part: stands before the names' endings, where several processes write a part each.
    """

    def __init__(self, layers: Sequence[caffe_pb2.LayerParameter], part: str = "") -> None:
        self._files: list[tuple[Path, tuple[str, ...]]] = []
        self._begun: set[Path] = set()
        for layer in layers:
            if layer.type == "HDF5Output":
                path = local_path(layer.hdf5_output_param.file_name)
                assert path is not None  # the layer has looked at it
                self._files.append((path.with_name(f"{path.stem}{part}{path.suffix}"), tuple(layer.bottom)))

    def __bool__(self) -> bool:
        return bool(self._files)

    @property
    def blobs(self) -> list[str]:
        """The blobs that are kept."""
        return list(dict.fromkeys(blob for _, blobs in self._files for blob in blobs))

    def write(self, found: Mapping[str, np.ndarray], rows: int | None = None) -> None:
        """Append a batch, or its first ``rows`` rows.

        Raises:
            StorageError: a file that cannot be written.
            NetError: rows of another shape than those before.
        """
        import h5py  # loaded by those who write HDF5 only

        for path, blobs in self._files:
            try:
                with h5py.File(path, "a" if path in self._begun else "w") as file:
                    for name, blob in zip(_NAMES, blobs, strict=True):
                        _append(file, name, np.asarray(found[blob], np.float32)[:rows])
            except OSError as error:
                raise StorageError(f"{path}: cannot be written: {error}", path=str(path)) from error
            self._begun.add(path)


def _append(file: h5py.File, name: str, rows: np.ndarray) -> None:
    if name not in file:
        file.create_dataset(name, data=rows, maxshape=(None, *rows.shape[1:]), chunks=(_CHUNK, *rows.shape[1:]))
        return
    kept = file[name]
    if kept.shape[1:] != rows.shape[1:]:
        raise NetError(f"{file.filename}: {name} has rows of shape {kept.shape[1:]}, now {rows.shape[1:]} came.")
    kept.resize(len(kept) + len(rows), axis=0)
    kept[len(kept) - len(rows) :] = rows


__all__ = ["HDF5Output", "OutputFiles"]
