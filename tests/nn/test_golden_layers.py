"""Invariant 1: every layer's forward pass and gradients equal real Caffe's (``golden/layers``)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from google.protobuf import text_format

import cosdask.nn.layers  # noqa: F401  # fills the registry
from cosdask.device import compile_function
from cosdask.nn.layer import REGISTRY, Array, Layer, make_layer
from cosdask.proto import caffe_pb2

FOLDER = Path(__file__).parents[1] / "golden" / "layers"
CASES = sorted(path.stem for path in FOLDER.glob("*.npz") if not path.stem.startswith("Net__"))
TO_LAST, TO_CAFFE = (0, 2, 3, 1), (0, 3, 1, 2)

Case = dict[str, Any]


def load(name: str) -> Case:
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def layer_of(case: Case) -> tuple[Layer, list[np.ndarray], list[np.ndarray]]:
    """The case's one layer, its bottoms and its weights in Caffe's layout."""
    net = text_format.Parse(str(case["prototxt"]), caffe_pb2.NetParameter())
    param = next(layer for layer in net.layer if layer.name == "layer")
    if param.type not in REGISTRY:
        pytest.skip(f"layer type {param.type} is not there yet")
    bottoms = [case[f"in/{blob}"] for blob in param.bottom]
    layer = make_layer(param, [bottom.shape for bottom in bottoms], str(case["phase"]))
    weights = [case[f"param/layer/{index}"] for index in range(len(layer.weights))]
    assert [weight.shape for weight in layer.weights] == [weight.shape for weight in weights]
    return layer, bottoms, weights


def run(layer: Layer, weights: Sequence[Array], bottoms: Sequence[Array]) -> tuple[list[Array], list[Array]]:
    """Tops and weights after it, all in Caffe's layout."""
    last = layer.layout == "last"
    kept = [w if spec.axes is None else w.transpose(spec.axes) for w, spec in zip(weights, layer.weights, strict=True)]
    placed = [b.transpose(TO_LAST) if last and b.ndim == 4 else b for b in bottoms]
    tops, after = layer.forward_and_update(kept, placed, None)
    back = [
        w if spec.axes is None else w.transpose(tuple(np.argsort(spec.axes).tolist()))
        for w, spec in zip(after, layer.weights, strict=True)
    ]
    return [t.transpose(TO_CAFFE) if last and t.ndim == 4 else t for t in tops], back


def assert_close(actual: Array, wanted: np.ndarray, what: str) -> None:
    np.testing.assert_allclose(np.asarray(actual).reshape(wanted.shape), wanted, rtol=1e-4, atol=1e-5, err_msg=what)


@cache
def outcome(name: str) -> tuple[Layer, list[Array], list[Array], list[Array], list[Array]]:
    """The layer, its tops, its weights after the forward pass, the gradients of its weights and of its bottoms."""
    case = load(name)
    layer, bottoms, weights = layer_of(case)

    def both(weights: list[Array], bottoms: list[Array]) -> tuple[list[Array], ...]:
        tops, backward, after = jax.vjp(lambda w, b: run(layer, w, b), weights, bottoms, has_aux=True)
        return tops, after, *backward(top_gradients(layer, tops, case))

    # the rows of Filter's tops depend on its values, which a compiled function does not allow
    compiled = both if layer.type == "Filter" else compile_function(both)
    tops, after, of_weights, of_bottoms = compiled([jnp.asarray(w) for w in weights], [jnp.asarray(b) for b in bottoms])
    return layer, tops, after, of_weights, of_bottoms


def top_gradients(layer: Layer, tops: Sequence[Array], case: Case) -> list[Array]:
    """The gradients fed in at the tops; a loss's first top counts with its loss_weight, other tops not at all."""
    loss_weight = layer.param.loss_weight[0] if layer.param.loss_weight else 1.0
    return [
        jnp.asarray(case[f"outdiff/{blob}"])
        if f"outdiff/{blob}" in case
        else jnp.full(top.shape, loss_weight if index == 0 and layer.is_loss else 0.0)
        for index, (blob, top) in enumerate(zip(layer.param.top, tops, strict=True))
    ]


@pytest.mark.parametrize("name", CASES)
def test_forward_equals_caffe(name: str) -> None:
    """Tops have Caffe's shapes and values, and so have weights that the forward pass itself changes."""
    case = load(name)
    layer, tops, after, _, _ = outcome(name)
    for blob, shape, top in zip(layer.param.top, layer.top_shapes, tops, strict=True):
        assert top.shape == case[f"out/{blob}"].shape
        assert shape == top.shape or layer.type == "Filter"
        assert_close(top, case[f"out/{blob}"], blob)
    for index, weight in enumerate(after):
        assert_close(weight, case.get(f"after/layer/{index}", case[f"param/layer/{index}"]), f"weight {index} after")


@pytest.mark.parametrize("name", CASES)
def test_gradients_equal_caffe(name: str) -> None:
    """Gradients of bottoms and weights equal Caffe's for the same gradient of the tops."""
    case = load(name)
    recorded = [value for key, value in case.items() if key.startswith(("indiff/", "paramdiff/"))]
    if not any(value.any() for value in recorded):
        pytest.skip("the case holds no gradients: its backward pass was not run")
    layer, _, _, of_weights, of_bottoms = outcome(name)
    for blob, position, gradient in zip(layer.param.bottom, range(len(of_bottoms)), of_bottoms, strict=True):
        if f"indiff/{blob}" in case and position not in layer.no_gradient:
            assert_close(gradient, case[f"indiff/{blob}"], f"gradient of {blob}")
    for index, gradient in enumerate(of_weights):
        if layer.weights[index].learnable:
            assert_close(gradient, case[f"paramdiff/layer/{index}"], f"gradient of weight {index}")
        else:
            assert not np.any(np.asarray(gradient)), f"weight {index} takes no gradient"
