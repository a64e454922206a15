"""Invariant 1 through ``Net``: real Caffe's numbers (``golden/layers``), layers of a phase, and shapes of real nets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosdask import Net
from cosdask.device import compile_function

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = sorted(path.stem for path in (GOLDEN / "layers").glob("*.npz"))
FILTER = json.loads((GOLDEN / "filter" / "expected.json").read_text())
SHAPES = sorted(path.stem for path in (GOLDEN / "shapes").glob("*.json"))
#: Caffe ran no backward pass in these nets (they neither have a loss above weights nor say force_backward), so the
#: recorded gradients are zeros; see docs/decisions
NOT_RUN_BACKWARD = {"BatchReindex__basic", "Embed__basic", "InfogainLoss__third_bottom"}


def load(name: str) -> dict[str, Any]:
    with np.load(GOLDEN / "layers" / f"{name}.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def group(case: dict[str, Any], kind: str) -> dict[str, Any]:
    """``{blob: array}``, or ``{layer: [array]}`` for weights, of the arrays under ``kind/``."""
    found = {key.partition("/")[2]: array for key, array in case.items() if key.startswith(kind + "/")}
    if kind not in ("param", "after", "paramdiff"):
        return found
    blobs: dict[str, dict[int, np.ndarray]] = {}
    for place, array in found.items():
        layer, _, position = place.rpartition("/")
        blobs.setdefault(layer, {})[int(position)] = array
    return {layer: [arrays[i] for i in sorted(arrays)] for layer, arrays in blobs.items()}


def assert_close(actual: Any, wanted: np.ndarray, what: str) -> None:
    assert np.shape(actual) == wanted.shape, what
    np.testing.assert_allclose(np.asarray(actual), wanted, rtol=1e-4, atol=1e-5, err_msg=what)


def assert_blobs_close(actual: dict[str, list[np.ndarray]], wanted: dict[str, list[np.ndarray]], what: str) -> None:
    for layer, arrays in wanted.items():
        for position, array in enumerate(arrays):
            assert_close(actual[layer][position], array, f"{what} {layer}/{position}")


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_equal_caffes(name: str) -> None:
    """Blobs, weights after the forward pass, and gradients of inputs and weights, all in Caffe's shapes."""
    case = load(name)
    net = Net.from_text(str(case["prototxt"]), phase=str(case["phase"]))
    outputs, from_above, inputs = group(case, "out"), group(case, "outdiff"), group(case, "in")

    def total(params: Any, inputs: Any) -> Any:
        blobs, after = net.apply(params, inputs, blobs=list(outputs))
        scalar = sum(jnp.vdot(blobs[name], diff) for name, diff in from_above.items())
        return scalar if from_above else net.loss(params, inputs)[0], (blobs, after)

    both = jax.value_and_grad(total, (0, 1), has_aux=True)
    # the rows of Filter's tops depend on its values, which compiled code does not allow
    compiled = both if name.startswith("Filter") else compile_function(both)
    (_, (blobs, after)), (of_params, of_inputs) = compiled(net.from_blobs(group(case, "param")), inputs)
    for blob, array in outputs.items():
        assert_close(blobs[blob], array, blob)
    assert_blobs_close(net.to_blobs(after), group(case, "after"), "after")
    if name not in NOT_RUN_BACKWARD:
        for blob, array in group(case, "indiff").items():
            assert_close(of_inputs[blob], array, f"gradient of {blob}")
        assert_blobs_close(net.to_blobs(of_params), group(case, "paramdiff"), "gradient of")


@pytest.mark.parametrize("name", sorted(NOT_RUN_BACKWARD))
def test_gradients_flow_where_caffe_ran_no_backward_pass(name: str) -> None:
    """What the cases above leave out is an unused gradient of Caffe's, recorded as zeros: nothing else."""
    case = load(name)
    recorded = [array for key, array in case.items() if key.startswith(("indiff/", "paramdiff/"))]
    assert not any(array.any() for array in recorded)
    assert "force_backward" not in str(case["prototxt"])


@pytest.mark.parametrize("expected", FILTER, ids=lambda e: f"{e['phase']}-{e['level']}-{'-'.join(e['stages'])}")
def test_layers_of_a_state(expected: dict[str, Any]) -> None:
    """Phase, level and stages choose the layers that Caffe chooses."""
    net = Net(GOLDEN / "filter/net.prototxt", expected["phase"], level=expected["level"], stages=expected["stages"])
    assert [layer.name for layer in net.layers] == expected["layers"]


def find(folder: Path, name: str) -> Path:
    found = [*folder.glob(f"*/{name}.prototxt")]
    assert found, f"{name}.prototxt is not among the reference files"
    return found[0]


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_of_real_nets(name: str, reference_prototxt: Path) -> None:
    """Layers in order, every blob's and every weight's shape, Caffe's automatic Split layers aside."""
    expected = json.loads((GOLDEN / "shapes" / f"{name}.json").read_text())
    net = Net(find(reference_prototxt, name))
    layers = [[layer, kind] for layer, kind in expected["layers"] if kind != "Split"]
    assert [[layer.name, layer.type] for layer in net.layers] == layers
    blobs = {blob: tuple(shape) for blob, shape in expected["blobs"].items() if "_split_" not in blob}
    assert net.blob_shapes == blobs
    weights = {node.key: [list(ref.weight.shape) for ref in node.weights] for node in net.graph.nodes if node.weights}
    assert weights == expected["params"]
