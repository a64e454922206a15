"""``debug_info``: Caffe's lines, with numbers that follow from weights, blobs and gradients (issue 4, layers)."""

from __future__ import annotations

import re

import jax
import numpy as np

from cosdask import Net, Solver
from cosdask.events import DebugInfo, Event, from_dict
from cosdask.nn.debug import DebugPass
from cosdask.proto import parse_solver
from cosdask.view import caffe_lines

NET = """
layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param { shape { dim: 4 dim: 3 }
  shape { dim: 4 dim: 2 } data_filler { type: "constant" value: 2 } data_filler { type: "constant" value: 1 } } }
layer { name: "one" type: "InnerProduct" bottom: "data" top: "one" param { name: "w" }
  inner_product_param { num_output: 3 bias_term: false weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "one" top: "one" }
layer { name: "two" type: "InnerProduct" bottom: "one" top: "two" param { name: "w" }
  inner_product_param { num_output: 3 bias_term: false } }
layer { name: "score" type: "InnerProduct" bottom: "two" top: "score" param { lr_mult: 1 } param { lr_mult: 0 }
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "score" bottom: "label" top: "loss" }
"""


def numbers(lines: list[str]) -> dict[str, float]:
    """What stands before the last colon, and the number behind it."""
    return {line.rpartition(": ")[0].strip(): float(line.rpartition(": ")[2]) for line in lines if "norm" not in line}


def test_lines_name_every_blob_and_gradient_in_caffes_order() -> None:
    """Forward in order, backward in reverse; diffs are those of each layer's own bottom; frozen weights have none."""
    net = Net.from_text(NET, "TRAIN", seed=4)
    lines = DebugPass(net).lines(net.params, {})
    found = numbers(lines)
    blobs, _ = net.apply(net.params, {}, blobs=["one", "two", "score", "label"])
    (w,), _, (score_w, _) = (net.to_blobs(net.params)[name] for name in ("one", "two", "score"))
    diff = (np.asarray(blobs["score"]) - np.asarray(blobs["label"])) / 4
    assert list(found) == [
        "[Forward] Layer data, top blob data data",
        "[Forward] Layer data, top blob label data",
        "[Forward] Layer one, top blob one data",
        "[Forward] Layer one, param blob w data",
        "[Forward] Layer relu, top blob one data",
        "[Forward] Layer two, top blob two data",
        "[Forward] Layer two, param blob w data",
        "[Forward] Layer score, top blob score data",
        "[Forward] Layer score, param blob 0 data",
        "[Forward] Layer score, param blob 1 data",
        "[Forward] Layer loss, top blob loss data",
        "[Backward] Layer loss, bottom blob score diff",
        "[Backward] Layer score, bottom blob two diff",
        "[Backward] Layer score, param blob 0 diff",
        "[Backward] Layer two, bottom blob one diff",
        "[Backward] Layer two, param blob 0 diff",
        "[Backward] Layer relu, bottom blob one diff",
        "[Backward] Layer one, param blob 0 diff",
    ]
    expected = {
        "[Forward] Layer data, top blob data data": 2,
        "[Forward] Layer one, param blob w data": np.abs(w).mean(),
        "[Forward] Layer relu, top blob one data": np.abs(blobs["one"]).mean(),
        "[Backward] Layer loss, bottom blob score diff": np.abs(diff).mean(),
        "[Backward] Layer score, bottom blob two diff": np.abs(diff @ score_w).mean(),
        "[Backward] Layer two, bottom blob one diff": np.abs(diff @ score_w @ w).mean(),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, err_msg=name)
    gradient = jax.grad(lambda params: net.loss(params, {})[0])(net.params)
    flat = np.concatenate([np.ravel(array) for array in gradient.values()])
    last = re.search(r"All net params \(data, diff\): L1 norm = \((.*), (.*)\); L2 norm = \((.*), (.*)\)", lines[-1])
    assert last is not None
    np.testing.assert_allclose([float(last[2]), float(last[4])], [np.abs(flat).sum(), np.linalg.norm(flat)], rtol=1e-4)


def test_a_solver_shows_the_iterations_that_it_displays() -> None:
    """Before the iteration's own lines, with what the update took off; looking changes nothing."""
    text = f'base_lr: 0.1 lr_policy: "fixed" max_iter: 3 display: 2 random_seed: 4 net_param {{ {NET} }} debug_info: '
    events: list[Event] = []
    weights = []
    for flag in ("true", "false"):
        with Solver(parse_solver(text + flag), on_event=events.append) as solver:
            before = solver.net.to_blobs(solver.net.params)["score"][0]
            solver.step(1)
            first = solver.net.to_blobs(solver.net.params)["score"][0]
            solver.step(2)
            weights.append(solver.net.to_blobs(solver.net.params)["score"][0])
    np.testing.assert_array_equal(*weights)
    shown = [event for event in events if isinstance(event, DebugInfo)]
    assert [event.iteration for event in shown] == [0, 2]
    assert events.index(shown[0]) < next(i for i, event in enumerate(events) if event.kind == "progress")
    updates = numbers([line for line in shown[0].lines if "[Update]" in line])
    name = f"[Update] Layer score, param 0 data: {np.abs(before).mean():g}; diff"
    np.testing.assert_allclose(updates[name], np.abs(before - first).mean(), rtol=1e-3)
    assert "[Update] Layer two, param w (owned by layer one, param w) diff" in updates
    assert from_dict(shown[0].to_dict()) == shown[0]
    assert next(caffe_lines(shown[0])).endswith("]     [Forward] Layer data, top blob data data: 2")
