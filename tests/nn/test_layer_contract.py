"""What every layer type keeps: its declared shapes, its numbers compiled or not, gradients, one compile, its phases."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from google.protobuf import text_format
from layer_table import LAYERS, Row
from layer_table_more import LAYERS as MORE

import cosdask.nn.layers  # noqa: F401  # fills the registry
from cosdask import allow_python_layers
from cosdask.device import compile_function
from cosdask.nn.layer import REGISTRY, Array, Layer, make_layer
from cosdask.nn.precision import cast_in, cast_out
from cosdask.proto import caffe_pb2

ROWS = [*LAYERS, *MORE]


def looks_at_phase(row: Row) -> bool:
    """Whether the row's layer has code that asks for the phase; else both phases are one and the same."""
    own = (cls for cls in type(make(row, row.phases[0])).__mro__ if cls.__module__.startswith("cosdask.nn.layers"))
    return any(".phase" in inspect.getsource(cls) for cls in own)


allow_python_layers(["my_python_layers"])  # the Python row's, which lies beside this file
#: types whose layers do other things in TRAIN than in TEST
PHASED = {"BatchNorm", "Dropout", "Pooling", "Python", "SPP"}
STEP, THRESHOLD = 1e-2, 1e-2  # those of Caffe's own checker
TO_LAST, TO_CAFFE = (0, 2, 3, 1), (0, 3, 1, 2)


def make(row: Row, phase: str) -> Layer:
    param = text_format.Parse('name: "layer" ' + row.text, caffe_pb2.LayerParameter())
    if not param.top and param.type not in ("Silence", "HDF5Output"):
        param.top.append("top")
    return make_layer(param, row.shapes, phase)


def bottoms_of(row: Row, seed: int = 0) -> list[Array]:
    """Distinct numbers 0.05 apart and away from 0, so that no kink lies within a step; class ids where asked for."""
    rng = np.random.default_rng(seed)
    if row.bottoms is not None:
        return [jnp.asarray(bottom) for bottom in row.bottoms(rng)]
    sizes = [int(np.prod(shape)) for shape in row.shapes]
    numbers = np.arange(sum(sizes)) - (0 if row.positive else sum(sizes) // 2)
    parts = np.split(rng.permutation(0.05 * numbers + 0.025), np.cumsum(sizes)[:-1])
    bottoms = [part.reshape(shape).astype(np.float32) for part, shape in zip(parts, row.shapes, strict=True)]
    for position, classes in row.classes:
        bottoms[position] = rng.integers(0, classes, row.shapes[position]).astype(np.float32)
    return [jnp.asarray(bottom) for bottom in bottoms]


def weights_of(layer: Layer) -> list[Array]:
    """Random weights in Caffe's layout; running sums are 1."""
    rng = np.random.default_rng(1)
    drawn = [rng.normal(0, 0.5, w.shape) if w.learnable else np.ones(w.shape) for w in layer.weights]
    return [jnp.asarray(values, jnp.float32) for values in drawn]


def runner(layer: Layer) -> Callable[..., list[Array]]:
    """The layer as a function of weights and bottoms, all in Caffe's layout."""
    rng = jax.random.key(3) if layer.random else None
    last = layer.layout == "last"

    def run(weights: Sequence[Array], bottoms: Sequence[Array]) -> list[Array]:
        kept = [w if s.axes is None else w.transpose(s.axes) for w, s in zip(weights, layer.weights, strict=True)]
        placed = [b.transpose(TO_LAST) if last and b.ndim == 4 else b for b in bottoms]
        return [t.transpose(TO_CAFFE) if last and t.ndim == 4 else t for t in layer.forward(kept, placed, rng)]

    return run


DIFFERENT = [
    pytest.param(row, phase, id=f"{row.name}-{phase}")
    for row in ROWS
    for phase in (row.phases if row.phases and looks_at_phase(row) else row.phases[:1])
]


def test_layers_that_look_at_their_phase_are_known() -> None:
    """All others are compiled in one phase, so a layer that begins to look must be seen here."""
    assert {row.name.split("-")[0] for row in ROWS if row.phases and looks_at_phase(row)} == PHASED


@pytest.mark.parametrize(("row", "phase"), DIFFERENT)
def test_tops_are_as_declared_and_the_same_compiled_or_not(row: Row, phase: str) -> None:
    """Shapes as stated in setup, finite float32 values, jit changes nothing, and other values compile nothing new."""
    layer = make(row, phase)
    run, weights, bottoms = runner(layer), weights_of(layer), bottoms_of(row)
    compiled = compile_function(run)
    plain, fast = run(weights, bottoms), compiled(weights, bottoms)
    assert [top.shape for top in plain] == [top.shape for top in fast] == layer.top_shapes
    for one, other in zip(plain, fast, strict=True):
        assert one.dtype == other.dtype == jnp.float32
        assert np.isfinite(one).all()
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    compiled(weights, bottoms_of(row, seed=7))
    assert compiled._cache_size() == 1


@pytest.mark.parametrize(("row", "phase"), DIFFERENT)
def test_gradients_are_those_of_differences(row: Row, phase: str) -> None:
    """As Caffe's checker: central differences of each value of each bottom and learnable weight."""
    layer = make(row, phase)
    checked = len(layer.param.top) if row.checked_tops is None else row.checked_tops
    if not checked:
        pytest.skip("no gradient flows through this layer's tops")
    run, weights, bottoms = runner(layer), weights_of(layer), bottoms_of(row)
    rng = np.random.default_rng(2)
    mix = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in layer.top_shapes[:checked]]

    def objective(weights: Sequence[Array], bottoms: Sequence[Array]) -> Array:
        tops = run(weights, bottoms)[:checked]
        return sum((jnp.vdot(top, m) for top, m in zip(tops, mix, strict=True)), start=jnp.zeros(()))

    of_weights, of_bottoms = compile_function(jax.grad(objective, (0, 1)))(weights, bottoms)
    for index, (weight, gradient) in enumerate(zip(layer.weights, of_weights, strict=True)):
        if weight.learnable:
            compare(gradient, differences(objective, weights, bottoms, 0, index), f"weight {index}")
        else:
            assert not np.any(gradient), f"the running sum {index} takes no gradient"
    for index, gradient in enumerate(of_bottoms):
        if index not in layer.no_gradient:
            compare(gradient, differences(objective, weights, bottoms, 1, index), f"bottom {index}")


def differences(
    objective: Callable[..., Array], weights: list[Array], bottoms: list[Array], which: int, index: int
) -> Array:
    """Central differences with respect to each value of one weight (``which`` 0) or bottom (1)."""
    value = (weights, bottoms)[which][index]

    def at(moved: Array) -> Array:
        arguments = [list(weights), list(bottoms)]
        arguments[which][index] = moved
        return objective(*arguments)

    steps = np.eye(value.size, dtype=value.dtype).reshape(value.size, *value.shape) * STEP
    # both sides by one copy of the layer: the time goes into compiling it, and NumPy compiles nothing
    found = compile_function(jax.vmap(at))(np.asarray(value) + np.concatenate([steps, -steps]))
    after, before = np.split(np.asarray(found), 2)
    return ((after - before) / np.float32(2 * STEP)).reshape(value.shape)


def compare(gradient: Array, difference: Array, what: str) -> None:
    """Caffe's measure: the error relative to the larger of the two, but to no less than 1."""
    gradient = np.asarray(gradient)
    scale = np.maximum(np.maximum(np.abs(gradient), np.abs(difference)), 1)
    assert np.max(np.abs(gradient - difference) / scale) < THRESHOLD, what


ONE_A_TYPE = {
    row.name.split("-")[0]: pytest.param(row, row.phases[0], id=row.name) for row in reversed(ROWS) if row.phases
}


@pytest.mark.parametrize(("row", "phase"), ONE_A_TYPE.values())
def test_bfloat16_comes_near(row: Row, phase: str) -> None:
    """In a bfloat16 net every layer runs on bfloat16 bottoms, near its float32 tops and gradients."""
    layer = make(row, phase)
    run, weights, bottoms = runner(layer), weights_of(layer), bottoms_of(row)
    checked = len(layer.top_shapes) if row.checked_tops is None else row.checked_tops

    def lowered(weights: Sequence[Array], bottoms: Sequence[Array]) -> list[Array]:
        given = [b if i in layer.no_gradient else b.astype(jnp.bfloat16) for i, b in enumerate(bottoms)]
        cast_weights, cast_bottoms = cast_in(layer, weights, given, "bfloat16")
        return cast_out(layer, run(cast_weights, cast_bottoms), given)

    # numbers that bfloat16 holds exactly, so that only the layer's own arithmetic is compared
    weights = [rounded(weight) for weight in weights]
    bottoms = [b if i in layer.no_gradient else rounded(b) for i, b in enumerate(bottoms)]

    def summed(function: Callable[..., list[Array]]) -> Callable[..., tuple[Array, list[Array]]]:
        def call(weights: Sequence[Array], bottoms: Sequence[Array]) -> tuple[Array, list[Array]]:
            tops = function(weights, bottoms)
            return sum((top.astype(jnp.float32).sum() for top in tops[:checked]), start=jnp.zeros(())), tops

        return call

    both = [jax.value_and_grad(summed(function), (0, 1), has_aux=True) for function in (run, lowered)]
    ((_, exact), wanted), ((_, found), gradient) = compile_function(lambda w, b: [call(w, b) for call in both])(
        weights, bottoms
    )
    for top, near in zip(exact, found, strict=True):
        assert near.dtype in (jnp.float32, jnp.bfloat16)
        scale = max(1.0, float(np.abs(top).max(initial=0)))
        np.testing.assert_allclose(np.asarray(near, np.float32), top, rtol=0.02, atol=0.02 * scale)
    for one, other in zip(jax.tree.leaves(wanted), jax.tree.leaves(gradient), strict=True):
        assert other.dtype == jnp.float32
        np.testing.assert_allclose(other, one, rtol=0.05, atol=0.05 * max(1.0, float(np.abs(one).max(initial=0))))


def rounded(array: Array) -> Array:
    """To what bfloat16 holds; by NumPy, which compiles nothing."""
    return jnp.asarray(np.asarray(array).astype(jnp.bfloat16).astype(np.float32))


@pytest.mark.parametrize(("row", "phase"), DIFFERENT)
def test_only_random_layers_draw(row: Row, phase: str) -> None:
    """A layer that is not random runs without a key; one that is gives other tops for other keys."""
    layer = make(row, phase)
    weights = [
        w if s.axes is None else w.transpose(s.axes) for w, s in zip(weights_of(layer), layer.weights, strict=True)
    ]
    bottoms = [b.transpose(TO_LAST) if layer.layout == "last" and b.ndim == 4 else b for b in bottoms_of(row)]
    if not layer.random:
        jax.eval_shape(lambda: layer.forward(weights, bottoms, None))
        return
    first, again, other = (layer.forward(weights, bottoms, jax.random.key(seed))[0] for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


CAFFE = """AbsVal Accuracy ArgMax BNLL BatchNorm BatchReindex Bias Clip Concat ContrastiveLoss Convolution Crop Data
Deconvolution Dropout DummyData ELU Eltwise Embed EuclideanLoss Exp Filter Flatten HDF5Data HDF5Output HingeLoss Im2col
ImageData InfogainLoss InnerProduct Input LRN LSTM LSTMUnit Log MVN MemoryData MultinomialLogisticLoss PReLU Parameter
Pooling Power Python RNN ReLU Reduction Reshape SPP Scale Sigmoid SigmoidCrossEntropyLoss Silence Slice Softmax
SoftmaxWithLoss Split Swish TanH Threshold Tile WindowData"""


def test_no_type_of_caffe_is_missing() -> None:
    """All types of Caffe's registry (BVLC master), and CaffeOnSpark's own, can be named in a net."""
    missing = [name for name in [*CAFFE.split(), "CoSData"] if name not in REGISTRY]
    assert not missing


def test_every_registered_type_has_a_row() -> None:
    """A new layer type cannot be added without being held to this contract."""
    covered = {text_format.Parse('name: "layer" ' + row.text, caffe_pb2.LayerParameter()).type for row in ROWS}
    own = {
        name
        for name, cls in REGISTRY.items()
        if cls.__module__.startswith("cosdask.") and not getattr(cls, "is_input", False)
    }
    assert own <= covered
