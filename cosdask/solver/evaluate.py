"""Evaluating a net over rows: outputs averaged so that every row counts once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosdask import device
from cosdask.data import Segment, Skips, Source, take
from cosdask.errors import NetError
from cosdask.nn.execute import Params
from cosdask.nn.layer import Array
from cosdask.nn.layers.hdf5_output import OutputFiles
from cosdask.nn.layers.python import user_errors
from cosdask.nn.net import Net


@dataclass
class Totals:
    """Sums of a net's outputs over rows: what workers send, and what adds up to the mean over all rows.

    Attributes:
        rows: how many rows.
        sums: the sum of each output.
        skips: rows left out, where the source skips those that cannot be read.
    """

    rows: int = 0
    sums: dict[str, np.ndarray] = field(default_factory=dict)
    skips: Skips = field(default_factory=Skips)

    def add(self, outputs: Mapping[str, np.ndarray], rows: int) -> None:
        """Take in a batch's means over ``rows`` rows."""
        for name, mean in outputs.items():
            weighted = _decimal(mean) * rows
            self.sums[name] = self.sums[name] + weighted if name in self.sums else weighted
        self.rows += rows

    def merge(self, other: Totals) -> Totals:
        """The totals of both."""
        merged = Totals(self.rows + other.rows, dict(self.sums))
        merged.skips.merge(self.skips)
        merged.skips.merge(other.skips)
        for name, value in other.sums.items():
            merged.sums[name] = merged.sums[name] + value if name in merged.sums else value
        return merged

    def means(self) -> dict[str, Any]:
        """``{output: float}``, or an array for outputs that are vectors."""
        if not self.rows:
            raise NetError("no rows were evaluated: the source is empty.")
        found = {name: value / self.rows for name, value in self.sums.items()}
        return {name: float(value) if value.ndim == 0 else value for name, value in found.items()}


def _decimal(values: Any) -> np.ndarray:
    """float32 numbers as the shortest decimals that stand for them: 97 of 100 is 0.97, not 0.9700000286."""
    single = np.asarray(values, np.float32)
    return single.astype(str).astype(np.float64)


class Evaluator:
    """A TEST net over a source, compiled once for full batches and once for a short last one.

    Outputs that grow with the batch are averaged over its rows; others (accuracy, loss) are the batch's own value,
    which :class:`Totals` weights with the batch's rows.
    """

    def __init__(self, net: Net, source: Source) -> None:
        self.net, self.source = net, source
        #: batches evaluated so far
        self.batches = 0
        self._axes = {name: net.batch_axis(name) for name in net.outputs}
        self._compiled = device.compile_function(self._outputs)
        self._blobs = device.compile_function(self._kept, static=[2])

    def _outputs(self, params: Params, raw: Mapping[str, Any]) -> dict[str, Array]:
        inputs = self.source.finish(raw, xp=jnp)
        rng = jax.random.key(0) if any(node.layer.random for node in self.net.graph.nodes) else None
        blobs, _ = self.net.apply(params, inputs, rng)
        return {name: blob if self._axes[name] is None else blob.mean(self._axes[name]) for name, blob in blobs.items()}

    def _kept(self, params: Params, raw: Mapping[str, Any], blobs: tuple[str, ...]) -> dict[str, Array]:
        rng = jax.random.key(0) if any(node.layer.random for node in self.net.graph.nodes) else None
        return self.net.apply(params, self.source.finish(raw, xp=jnp), rng, blobs)[0]

    def output_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each output's mean: the blob's, without its batch axis."""
        shapes = {}
        for name, axis in self._axes.items():
            shape = self.net.blob_shapes[name]
            shapes[name] = shape if axis is None else shape[:axis] + shape[axis + 1 :]
        return shapes

    def totals(self, params: Params, segments: Iterable[Segment], files: OutputFiles | None = None) -> Totals:
        """Evaluate the rows of the segments; what HDF5Output layers name goes to ``files``."""
        totals = Totals()
        for ids, raw in take(self.source, list(segments), self.source.batch_size, skips=totals.skips):
            with user_errors():
                outputs = {name: np.asarray(value) for name, value in self._compiled(params, raw).items()}
                if files:
                    kept = self._blobs(params, raw, tuple(files.blobs))
                    files.write({name: np.asarray(value) for name, value in kept.items()}, len(ids))
            self.batches += 1
            totals.add(outputs, len(ids))
        self.source.skips.merge(totals.skips)
        return totals


class SharedWeights:
    """Gives a test net the weights of a train net, by layer name, as Caffe shares them."""

    def __init__(self, train: Net, test: Net) -> None:
        train_keys = {(node.key, i): ref for node in train.graph.nodes for i, ref in enumerate(node.weights)}
        self._own: dict[str, Array] = {}
        self._keys: dict[str, str] = {}
        for node in test.graph.nodes:
            for position, ref in enumerate(node.weights):
                source = train_keys.get((node.key, position))
                if source is None:
                    self._own[ref.key] = test.params[ref.key]
                elif source.weight.shape != ref.weight.shape:
                    raise NetError(
                        f'layer "{node.key}", weight {position}: shape {ref.weight.shape} in the test net, '
                        f"{source.weight.shape} in the train net.",
                        layer=node.key,
                    )
                else:
                    self._keys[ref.key] = source.key

    def __call__(self, params: Params) -> Params:
        """The test net's weights, from the train net's."""
        return {**self._own, **{key: params[source] for key, source in self._keys.items()}}
