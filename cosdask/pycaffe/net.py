"""``caffe.Net`` as pycaffe's users know it, computed by JAX."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cosdask.errors import DataError, NetError, WeightsError, did_you_mean
from cosdask.nn import Net as PureNet
from cosdask.nn.layer import Array
from cosdask.proto import caffe_pb2
from cosdask.pycaffe import state
from cosdask.pycaffe.batches import forward_all, forward_backward_all
from cosdask.pycaffe.blob import Blob
from cosdask.pycaffe.calls import TEST, TRAIN, arguments, hdf5_name, phase_name, where
from cosdask.pycaffe.feeding import ArrayReader
from cosdask.pycaffe.listing import LayerView, Numbered
from cosdask.pycaffe.opening import AUTOMATIC, open_net
from cosdask.pycaffe.runs import Runs
from cosdask.pycaffe.weights import Weights
from cosdask.solver.nets import NetSource


class Net(Numbered):
    """A network whose blobs and weights may be looked at and written to.

    Called as pycaffe's, in both of its ways: ``Net(file, phase, level=0, stages=None, weights=None)`` and
    ``Net(file, weights, phase)``.

    Args:
        network_file: a net prototxt, or a ``NetParameter``.
        *args: a phase, or a weights file and a phase.
        phase: ``caffe.TRAIN`` or ``caffe.TEST``.
        level: for ``include { min_level / max_level }`` rules.
        stages: for ``include { stage / not_stage }`` rules.
        weights: a ``.caffemodel`` or ``.caffemodel.h5``.

    Raises:
        ProtoError, NetError, WeightsError, DataError: naming file and place.

    Example:
        >>> from cosdask.proto import parse_net
        >>> net = Net(parse_net('''
        ... layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 } } }
        ... layer { name: "double" type: "Power" bottom: "data" top: "double" power_param { scale: 2 } }
        ... '''), TEST)
        >>> net.blobs["data"].data[...] = 3
        >>> net.forward()["double"]
        array([[6., 6.]], dtype=float32)
    """

    def __init__(
        self,
        network_file: str | os.PathLike[str] | caffe_pb2.NetParameter,
        *args: Any,
        phase: int | str | None = None,
        level: int = 0,
        stages: Sequence[str] | None = None,
        weights: str | None = None,
    ) -> None:
        phase, level, stages, weights = arguments(args, phase, level, stages, weights)
        self._set_up(
            NetSource(where(network_file), phase_name(phase), level, tuple(stages or ()), phase_is_stated=True),
            state.seed(),
        )
        if weights:
            self.copy_from(weights)

    @classmethod
    def of_source(cls, source: NetSource, seed: int) -> Net:
        """The net that a solver names."""
        made: Net = object.__new__(cls)
        made._set_up(source, seed)
        return made

    def _set_up(self, source: NetSource, seed: int) -> None:
        self._net = open_net(source, seed)
        self.name: str = self._net.name
        self.phase: int = TRAIN if source.phase == "TRAIN" else TEST
        layers = self._net.layers
        self._layer_names: list[str] = [layer.name for layer in layers]
        self.top_names: OrderedDict[str, list[str]] = OrderedDict((p.name, list(p.top)) for p in layers)
        self.bottom_names: OrderedDict[str, list[str]] = OrderedDict((p.name, list(p.bottom)) for p in layers)
        self.inputs: list[str] = [top for layer in layers if layer.type == "Input" for top in layer.top]
        self.outputs: list[str] = [name for name in self._net.outputs if not name.startswith(AUTOMATIC)]
        self.blobs: OrderedDict[str, Blob] = OrderedDict(
            (name, Blob(shape)) for name, shape in self._net.blob_shapes.items()
        )
        self._weights = Weights(self._net, seed)
        self.params: OrderedDict[str, list[Blob]] = self._weights.by_layer
        self.layers: list[LayerView] = [LayerView(param, self.params.get(param.name, [])) for param in layers]
        self.layer_dict: OrderedDict[str, LayerView] = OrderedDict((layer.name, layer) for layer in self.layers)
        self._runs = Runs(self._net, self.blobs, self._weights, seed)
        self.blob_loss_weights: OrderedDict[str, float] = OrderedDict(self._runs.loss_weights)

    # -- weights -----------------------------------------------------------------------------------------------------

    @property
    def pure(self) -> PureNet:
        """The :class:`cosdask.Net` beneath, with the current weights and without what blobs hold."""
        return self._weights.net

    @property
    def weights(self) -> dict[str, Blob]:
        """Each weight once, by its key in :attr:`pure`."""
        return self._weights.owned

    def copy_from(self, weights: str | os.PathLike[str]) -> None:
        """Copy weights by layer name from a ``.caffemodel`` or ``.caffemodel.h5``, or several with commas between.

        Raises:
            WeightsError, ProtoError, StorageError: for a file that does not fit or cannot be read.
        """
        self._weights.load(weights)

    def load_hdf5(self, weights: str | os.PathLike[str]) -> None:
        """Copy weights from an HDF5 file, whose name must end in ``.h5``."""
        self.copy_from(hdf5_name(weights))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the weights as ``.caffemodel``, or as HDF5 where the name ends in ``.h5``."""
        self.pure.save(path)

    def save_hdf5(self, path: str | os.PathLike[str], write_diff: bool = False) -> None:
        """Write the weights as HDF5; the name must end in ``.h5``.

        Raises:
            WeightsError: for another name, and where gradients are asked for, which are not kept in files.
        """
        if write_diff:
            raise WeightsError("save_hdf5 writes weights only; save gradients with h5py from net.params[...][i].diff.")
        self.save(hdf5_name(path))

    def share_with(self, other: Net) -> None:
        """Use another net's weights, by layer name: both see what is written to them, now and later.

        Raises:
            WeightsError: where the weights of a layer that both have differ in number or shape.
        """
        self._weights.share(other._weights)

    def clear_param_diffs(self) -> None:
        """Set the gradients of all weights to zero; backward adds to them."""
        self._weights.clear_gradients()

    # -- forward -----------------------------------------------------------------------------------------------------

    def forward(
        self, blobs: Iterable[str] | None = None, start: str | None = None, end: str | None = None, **kwargs: Any
    ) -> dict[str, np.ndarray]:
        """Run the layers from ``start`` to ``end``, both included.

        Data layers take their next batch; a span that begins after them goes on with what blobs hold.

        Args:
            blobs: names of blobs to return beside the outputs.
            start: name of the first layer; default: the net's first.
            end: name of the last layer; default: the net's last.
            **kwargs: arrays for all of the net's inputs, by name.

        Returns:
            ``{blob: array}``: the net's outputs, or the tops of ``end``. The arrays are the blobs' own: the next call
            changes them.

        Raises:
            NetError: for names that the net lacks, or arrays that do not fit.
            DataError: for rows that cannot be read.
        """
        names = list(blobs or [])
        first, last = self._range(start, end)
        for name in names:
            self._check_blob(name)
        self._feed(kwargs, self.inputs, "inputs")
        self._runs.forward(first, last)
        wanted = self.top_names[end] if end is not None else self.outputs
        return {name: self.blobs[name].data for name in dict.fromkeys([*wanted, *names])}

    def _feed(self, arrays: Mapping[str, Any], names: Sequence[str], what: str) -> None:
        if not arrays:
            return
        if set(arrays) != set(names):
            raise NetError(f"the net's {what} are {', '.join(names) or 'none'}; given: {', '.join(arrays)}.")
        for name, array in arrays.items():
            blob, given = self.blobs[name], np.shape(array)
            if blob.shape and (not given or given[0] != blob.shape[0]):
                raise NetError(
                    f'"{name}" is an array of shape {given}, but the batch is {blob.shape[0]}: reshape the blob with '
                    f'net.blobs["{name}"].reshape, or feed any number of rows with forward_all.'
                )
            try:
                (blob.data if what == "inputs" else blob.diff)[...] = array
            except ValueError as error:
                raise NetError(f'"{name}": an array of shape {given} does not fit {blob.shape}.') from error

    def reshape(self) -> None:
        """Bring all blobs to the shapes that follow from those of the inputs."""
        self._runs.reshape()

    # -- backward ----------------------------------------------------------------------------------------------------

    def backward(
        self, diffs: Iterable[str] | None = None, start: str | None = None, end: str | None = None, **kwargs: Any
    ) -> dict[str, np.ndarray]:
        """Go back through the layers from ``start`` to ``end``, from the gradients that the top blobs hold.

        Loss tops hold their ``loss_weight``, other blobs zeros until they are written to. The gradients of weights are
        added to what ``net.params[...][i].diff`` holds (see :meth:`clear_param_diffs`).

        Args:
            diffs: names of blobs whose gradients are returned beside those of the inputs.
            start: name of the layer to begin with; default: the net's last.
            end: name of the layer to end with; default: the net's first.
            **kwargs: gradients for all of the net's outputs, by name.

        Returns:
            ``{blob: array}``: the gradients of the net's inputs, or of the bottoms of ``end``; the blobs' own arrays.

        Raises:
            NetError: for names that the net lacks, or arrays that do not fit.
        """
        names = list(diffs or [])
        first, last = self._range(end, start)
        for name in names:
            self._check_blob(name)
        self._feed(kwargs, self.outputs, "outputs")
        self._runs.backward(last, first)
        wanted = self.bottom_names[end] if end is not None else self.inputs
        return {name: self.blobs[name].diff for name in dict.fromkeys([*wanted, *names])}

    def forward_backward(self) -> Array:
        """All layers forward and back, as a solver goes through them; the weighted loss, on the device."""
        return self._runs.forward_backward()

    def seek(self, batch: int) -> None:
        """Let the data layers go on with this batch, counted from 0, of their endless streams; random layers too."""
        self._runs.seek(batch)

    # -- many rows, and smaller things -------------------------------------------------------------------------------

    def forward_all(self, blobs: Iterable[str] | None = None, **kwargs: Any) -> dict[str, np.ndarray]:
        """:meth:`forward` over any number of rows, a batch at a time; the last batch is filled up with zeros.

        Args:
            blobs: names of blobs to return beside the outputs.
            **kwargs: arrays for all inputs, of equally many rows.

        Returns:
            ``{blob: array}``, as many rows as were given.
        """
        return forward_all(self, blobs, kwargs)

    def forward_backward_all(
        self, blobs: Iterable[str] | None = None, diffs: Iterable[str] | None = None, **kwargs: Any
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """:meth:`forward` and :meth:`backward` over any number of rows, a batch at a time.

        Args:
            blobs: names of blobs to return beside the outputs.
            diffs: names of blobs whose gradients are returned beside those of the inputs.
            **kwargs: arrays for all inputs and, where the net's outputs are not losses, gradients for its outputs.

        Returns:
            Blobs and gradients, as many rows as were given.
        """
        return forward_backward_all(self, blobs, diffs, kwargs)

    def set_input_arrays(self, data: Any, labels: Any) -> None:
        """Give the rows of the net's MemoryData layer: see :meth:`ArrayReader.set`.

        Raises:
            DataError: where the net has none, or shapes do not fit.
        """
        for index, layer in enumerate(self._net.layers):
            if layer.type == "MemoryData":
                reader = self._runs.reader(index)
                if isinstance(reader, ArrayReader):
                    reader.set(data, labels, self._runs.shapes())
                    return
        raise DataError("set_input_arrays needs a MemoryData layer without source_class, and the net has none.")

    def _range(self, start: str | None, end: str | None) -> tuple[int, int]:
        first = 0 if start is None else self._layer_index(start)
        last = len(self._layer_names) - 1 if end is None else self._layer_index(end)
        return first, last

    def _layer_index(self, name: str) -> int:
        if name not in self._layer_names:
            raise NetError(f'the net has no layer "{name}".{did_you_mean(name, self._layer_names)}')
        return self._layer_names.index(name)

    def _check_blob(self, name: str) -> None:
        if name not in self.blobs:
            raise NetError(f'the net makes no blob "{name}".{did_you_mean(name, self.blobs)}')

    def _forward(self, start: int, end: int) -> float:
        """Run the layers of these indices; the weighted loss."""
        self._runs.forward(start, end)
        return self._runs.loss({top for layer in self._net.layers[start : end + 1] for top in layer.top})

    def _backward(self, start: int, end: int) -> None:
        """Go back through the layers of these indices, ``start`` being the higher one."""
        self._runs.backward(start, end)

    def __repr__(self) -> str:
        phase = "TRAIN" if self.phase == TRAIN else "TEST"
        return f'<caffe.Net "{self.name}" ({phase}): {len(self.layers)} layers>'


__all__ = ["TEST", "TRAIN", "LayerView", "Net"]
