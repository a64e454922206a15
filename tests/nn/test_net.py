"""The contract of ``cosdask.Net``: what it says about a net, and how it runs."""

from __future__ import annotations

import copy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_nets import LENET, inputs_text, ip, rows

from cosdask import Net
from cosdask.errors import NetError, WeightsError
from cosdask.proto import array_to_blob


@pytest.fixture(scope="module")
def net() -> Net:
    return Net.from_text(LENET, seed=3)


# -- what a net says about itself ------------------------------------------------------------------------------------


def test_a_net_states_inputs_outputs_layers_and_shapes(net: Net) -> None:
    """inputs, outputs, layers and blob_shapes are what Caffe's net would list."""
    assert net.inputs == {"data": (4, 1, 8, 8), "label": (4,)}
    assert net.outputs == ["accuracy", "loss"]
    assert [layer.name for layer in net.layers] == ["data", "conv", "relu", "pool", "ip", "accuracy", "loss"]
    assert net.blob_shapes["conv"] == (4, 3, 6, 6)
    assert net.blob_shapes["pool"] == (4, 3, 3, 3)
    assert net.blob_shapes["loss"] == ()
    assert Net.from_text(LENET, phase="TRAIN").outputs == ["loss"]


def test_outputs_are_listed_in_caffes_order() -> None:
    """Caffe keeps the tops that nobody reads in a sorted set; tops of data layers count too."""
    text = inputs_text(x=(2, 4), unread=(2,)) + ip("z", "x") + ip("b", "x") + ip("a", "b")
    assert Net.from_text(text).outputs == ["a", "unread", "z"]


def test_params_are_float32_leaves(net: Net) -> None:
    """Weights are a pytree of float32 arrays, drawn by the fillers."""
    leaves = jax.tree.leaves(net.params)
    assert len(leaves) == 4
    assert all(leaf.dtype == jnp.float32 for leaf in leaves)
    assert np.all(net.to_blobs(net.params)["conv"][1] == 0.5)
    assert not np.any(net.to_blobs(net.params)["ip"][1])


def test_init_draws_the_same_for_the_same_seed(net: Net) -> None:
    """init(seed) is a function of the seed."""
    first, again, other = (net.to_blobs(net.init(seed))["conv"][0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


def test_input_shapes_replace_what_the_prototxt_says() -> None:
    """input_shapes may change the batch and the image; unknown names are refused with the nearest one."""
    net = Net.from_text(LENET, input_shapes={"data": (2, 1, 10, 10), "label": (2,)})
    assert net.blob_shapes["conv"] == (2, 3, 8, 8)
    with pytest.raises(NetError, match=r'"dta", which is no input\. Did you mean "data"\?'):
        Net.from_text(LENET, input_shapes={"dta": (2, 1, 10, 10)})


def test_data_layers_need_no_data_where_shapes_are_given() -> None:
    """A TRAIN net over an LMDB that is not here builds from input_shapes."""
    text = 'layer { name: "d" type: "Data" top: "data" top: "label" data_param { source: "none" batch_size: 2 } }'
    net = Net.from_text(text + ip("ip", "data"), input_shapes={"data": (2, 1, 4, 4), "label": (2,)})
    assert net.inputs == {"data": (2, 1, 4, 4), "label": (2,)}


def test_a_net_takes_a_message_too(net: Net) -> None:
    """Net and Net.from_text both take a NetParameter, and the phase as pycaffe's number."""
    assert Net.from_text(LENET, phase=0).phase == "TRAIN"
    assert Net(net.to_message()).blob_shapes == Net.from_text(net.to_message()).blob_shapes == net.blob_shapes


# -- running ---------------------------------------------------------------------------------------------------------


@settings(max_examples=6)
@given(st.integers(1, 9))
def test_forward_takes_any_batch_size(count: int) -> None:
    """Row i of a batch is what the row gives by itself, whatever the batch."""
    net = _NET
    data = rows(count)["data"]
    whole = net.forward({"data": data}, blobs=["ip"])["ip"]
    assert whole.shape == (count, 5)
    one = net.forward({"data": data[-1:]}, blobs=["ip"])["ip"]
    np.testing.assert_allclose(whole[-1:], one, rtol=1e-5, atol=1e-6)


_NET = Net.from_text(LENET, seed=3)


def test_forward_needs_only_the_inputs_that_the_blobs_depend_on(net: Net) -> None:
    """No label for ip; the missing one is named for loss."""
    assert set(net.forward({"data": rows(4)["data"]}, blobs=["ip", "pool"])) == {"ip", "pool"}
    with pytest.raises(NetError, match="inputs missing: label; given: data"):
        net.forward({"data": rows(4)["data"]})
    with pytest.raises(NetError, match=r'inputs missing: data; given: dtaa\. Did you mean "dtaa"\?'):
        net.forward({"dtaa": rows(4)["data"]}, blobs=["ip"])


def test_inputs_that_are_not_needed_do_not_matter(net: Net) -> None:
    """An extra input neither fails nor compiles again."""
    data = rows(4)
    program = net.programs.find({"data": data["data"]}, ("ip",))
    assert net.programs.find({**data, "other": np.zeros(3)}, ("ip",)) is program


@pytest.mark.parametrize("shape", [(4,), (4, 1, 1, 1), (4, 1)])
def test_labels_come_in_two_shapes(net: Net, shape: tuple[int, ...]) -> None:
    """(N,) as a Data layer gives them and (N, 1, 1, 1) as a MemoryData layer does."""
    given = rows(4)
    wanted = net.forward(given)
    found = net.forward({**given, "label": given["label"].reshape(shape)})
    np.testing.assert_array_equal(found["loss"], wanted["loss"])
    np.testing.assert_array_equal(found["accuracy"], wanted["accuracy"])


def test_a_blob_computed_in_place_is_what_the_last_layer_made(net: Net) -> None:
    """``conv`` is conv's output after the ReLU on it."""
    found = net.forward({"data": rows(4)["data"]}, blobs=["conv"])["conv"]
    assert found.shape == (4, 3, 6, 6)
    assert found.min() == 0 < found.max()


def test_a_reader_before_an_in_place_layer_sees_the_value_before_it() -> None:
    """Caffe's Split gives the earlier reader its own copy."""
    text = inputs_text(x=(2, 3)) + (
        'layer { name: "early" type: "Power" bottom: "x" top: "early" power_param { scale: 1 } }'
        'layer { name: "neg" type: "Power" bottom: "x" top: "x" power_param { scale: -1 } }'
        'layer { name: "late" type: "Power" bottom: "x" top: "late" power_param { scale: 1 } }'
    )
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = Net.from_text(text).forward({"x": x}, blobs=["early", "late", "x"])
    np.testing.assert_array_equal(found["early"], x)
    np.testing.assert_array_equal(found["late"], -x)
    np.testing.assert_array_equal(found["x"], -x)


def test_unknown_blobs_are_refused_with_the_nearest_name(net: Net) -> None:
    """A misspelled blob, and a name where a list is wanted."""
    with pytest.raises(NetError, match=r'the net makes no blob "poool"\. Did you mean "pool"'):
        net.forward(rows(4), blobs=["poool"])
    with pytest.raises(NetError, match=r'give a list of names, such as \["pool"\]'):
        net.forward(rows(4), blobs="pool")


def test_inputs_of_the_wrong_shape_name_the_layer_and_the_input(net: Net) -> None:
    """An image without its batch axis; weights that the given size does not fit."""
    with pytest.raises(NetError, match=r'layer "conv".*Input "data" was given as \(8, 8\), the net states'):
        net.forward({"data": np.zeros((8, 8))}, blobs=["ip"])
    with pytest.raises(NetError, match=r'layer "ip".*the given inputs need weights of shapes'):
        net.forward({"data": np.zeros((2, 1, 12, 12))}, blobs=["ip"])


def test_apply_equals_forward_and_can_be_compiled(net: Net) -> None:
    """apply is pure: compiled or not it gives what forward gives, and jit compiles it once."""
    given, traces = rows(4), []

    @jax.jit
    def run(params, inputs):
        traces.append(1)
        return net.apply(params, inputs)[0]

    first, again = run(net.params, given), run(net.init(9), given)
    assert len(traces) == 1
    assert float(first["loss"]) != float(again["loss"])
    np.testing.assert_allclose(first["loss"], net.forward(given)["loss"], rtol=1e-6)
    np.testing.assert_allclose(first["loss"], net.apply(net.params, given)[0]["loss"], rtol=1e-5)


def test_what_is_kept_while_tracing_is_no_tracer() -> None:
    """Weights first drawn, and layers first built, inside of a user's jit serve calls outside of it."""
    sequence = {"x": np.ones((4, 2, 3)), "cont": np.ones((4, 2))}
    for net, inputs in ((Net.from_text(LENET), rows(4)), (recurrent("LSTM"), sequence)):
        wanted = jax.jit(lambda given, net=net: net.apply(net.params, given)[0])(inputs)
        for name, array in net.forward(inputs).items():
            np.testing.assert_allclose(array, wanted[name], rtol=1e-5)


def test_forward_compiles_once_a_shape_and_uses_the_current_weights(net: Net) -> None:
    """New weights need no new compilation and are not the old ones."""
    net, given = net.copy(), rows(4)
    program = net.programs.find(given, tuple(net.outputs))
    before = net.forward(given)["loss"]
    compiled = program._function._cache_size()
    net.params = net.init(11)
    assert net.forward(given)["loss"] != before
    assert program._function._cache_size() == compiled == 1


def test_loss_is_differentiable_and_gradients_are_blobs(net: Net) -> None:
    """The gradient agrees with a difference quotient, and to_blobs gives it Caffe's shapes."""
    given, params = rows(4), net.params
    value = jax.jit(lambda params: net.loss(params, given)[0])
    blobs = net.to_blobs(jax.jit(jax.grad(value))(params))
    assert [blob.shape for blob in blobs["conv"]] == [(3, 1, 3, 3), (3,)]
    direction, step = net.init(5), 1e-2
    ahead = jax.tree.map(lambda a, b: a + step * b, params, direction)
    behind = jax.tree.map(lambda a, b: a - step * b, params, direction)
    slope = (float(value(ahead)) - float(value(behind))) / (2 * step)
    along = net.to_blobs(direction)
    dot = sum(float(np.vdot(g, d)) for layer in blobs for g, d in zip(blobs[layer], along[layer], strict=True))
    assert dot == pytest.approx(slope, rel=2e-2, abs=1e-3)


def test_loss_returns_outputs_and_params(net: Net) -> None:
    """``(total, ({output: array}, params))``."""
    total, (outputs, after) = net.loss(net.params, rows(4))
    assert set(outputs) == {"accuracy", "loss"}
    assert total.shape == ()
    assert total == outputs["loss"]
    assert set(after) == set(net.params)


def test_gradients_with_respect_to_inputs_are_natural(net: Net) -> None:
    """No force_backward is needed (docs/decisions)."""
    given = rows(4)
    gradient = jax.grad(lambda data: net.loss(net.params, {**given, "data": data})[0])(jnp.asarray(given["data"]))
    assert np.abs(gradient).max() > 0


def test_loss_weight_counts_in_the_total() -> None:
    """loss_weight scales a loss, makes another top one, and sums over all of its values."""
    text = (
        inputs_text(x=(2, 4), y=(2, 3))
        + ip("a", "x", "loss_weight: 0.5")
        + 'layer { name: "e" type: "EuclideanLoss" bottom: "a" bottom: "y" top: "e" loss_weight: 3 }'
    )
    net = Net.from_text(text, seed=0)
    given = {"x": np.ones((2, 4), np.float32), "y": np.zeros((2, 3), np.float32)}
    total, (outputs, _) = net.loss(net.params, given)
    a = net.forward(given, blobs=["a"])["a"]
    np.testing.assert_allclose(total, 0.5 * a.sum() + 3 * outputs["e"], rtol=1e-5)


def test_propagate_down_false_stops_the_gradient() -> None:
    """Nothing below that bottom learns from it; the layer's own weights still do."""
    text = inputs_text(x=(2, 4)) + ip("a", "x") + ip("b", "a", "propagate_down: false loss_weight: 1")
    net = Net.from_text(text, seed=0)
    grads = net.to_blobs(jax.grad(lambda p: net.loss(p, {"x": np.ones((2, 4), np.float32)})[0])(net.params))
    assert not np.any(grads["a"][0])
    assert np.any(grads["b"][0])


def test_lr_mult_zero_gives_a_zero_gradient() -> None:
    """As in Caffe, which does not compute it."""
    text = inputs_text(x=(2, 4)) + ip("a", "x", "param { lr_mult: 0 } loss_weight: 1")
    net = Net.from_text(text, seed=0)
    grads = net.to_blobs(jax.grad(lambda p: net.loss(p, {"x": np.ones((2, 4), np.float32)})[0])(net.params))
    assert not np.any(grads["a"][0])
    assert np.all(grads["a"][1] == 2)


# -- random layers, running sums, states -----------------------------------------------------------------------------

DROPOUT = inputs_text(x=(2, 50)) + 'layer { name: "drop6" type: "Dropout" bottom: "x" top: "y" }'


def test_an_active_random_layer_without_rng_is_named() -> None:
    """Dropout in TRAIN needs rng; in TEST it does not."""
    x = np.ones((2, 50), np.float32)
    net = Net.from_text(DROPOUT, phase="TRAIN")
    with pytest.raises(NetError, match=r'layer "drop6" \(Dropout\): draws random numbers .* pass rng='):
        net.apply(net.params, {"x": x})
    test = Net.from_text(DROPOUT)
    np.testing.assert_array_equal(test.apply(test.params, {"x": x})[0]["y"], x)


def test_random_layers_draw_by_key_and_by_call() -> None:
    """apply: the same key gives the same numbers. forward: each call new ones, the same for the same seed."""
    x = {"x": np.ones((2, 50), np.float32)}
    net, twin = (Net.from_text(DROPOUT, phase="TRAIN", seed=4) for _ in range(2))
    draws = [np.asarray(net.apply({}, x, rng=jax.random.key(k))[0]["y"]) for k in (1, 1, 2)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert np.any(draws[0] != draws[2])
    first, second = net.forward(x)["y"], net.forward(x)["y"]
    assert np.any(first != second)
    np.testing.assert_array_equal(twin.forward(x)["y"], first)


def test_batch_norms_sums_come_back_in_the_params() -> None:
    """The returned params carry the sums after the batch; their gradient is zero; the params given are untouched."""
    text = inputs_text(x=(4, 3)) + 'layer { name: "bn" type: "BatchNorm" bottom: "x" top: "y" loss_weight: 1 }'
    net = Net.from_text(text, phase="TRAIN", seed=0)
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    before = net.params
    _, after = jax.jit(net.apply)(before, {"x": x})
    mean, _, scale = net.to_blobs(after)["bn"]
    np.testing.assert_allclose(mean, x.mean(0), rtol=1e-5, atol=1e-6)
    assert scale == 1
    assert not any(np.any(blob) for blob in net.to_blobs(before)["bn"])
    grads = jax.grad(lambda p: net.loss(p, {"x": x})[0])(before)
    assert not any(np.any(blob) for blob in net.to_blobs(grads)["bn"])


def recurrent(kind: str) -> Net:
    text = inputs_text(x=(4, 2, 3), cont=(4, 2)) + (
        f'layer {{ name: "r" type: "{kind}" bottom: "x" bottom: "cont" top: "h" recurrent_param {{ num_output: 5 '
        'weight_filler { type: "gaussian" std: 0.7 } } }'
    )
    return Net.from_text(text, seed=2)


@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_a_sequence_fed_in_halves_gives_what_it_gives_in_one_piece(kind: str) -> None:
    """net.forward carries recurrent state over where cont is 1; apply starts from zero each time."""
    net, rng = recurrent(kind), np.random.default_rng(0)
    x = rng.standard_normal((6, 2, 3)).astype(np.float32)
    cont = np.ones((6, 2), np.float32)
    cont[0], cont[4, 1] = 0, 0
    whole = net.copy().forward({"x": x, "cont": cont})["h"]
    halves = [net.forward({"x": x[a:b], "cont": cont[a:b]})["h"] for a, b in ((0, 3), (3, 5), (5, 6))]
    np.testing.assert_allclose(np.concatenate(halves), whole, rtol=1e-5, atol=1e-6)
    again = {"x": x[3:5], "cont": cont[3:5]}
    pure = np.asarray(net.apply(net.params, again)[0]["h"])
    np.testing.assert_allclose(pure, net.copy().forward(again)["h"], rtol=1e-5, atol=1e-6)
    assert np.abs(pure - halves[1]).max() > 1e-3


def test_another_number_of_samples_starts_anew() -> None:
    """States of 2 samples say nothing about 3."""
    net = recurrent("LSTM")
    net.forward({"x": np.ones((4, 2, 3)), "cont": np.ones((4, 2))})
    given = {"x": np.ones((4, 3, 3)), "cont": np.ones((4, 3))}
    np.testing.assert_array_equal(net.forward(given)["h"], recurrent("LSTM").forward(given)["h"])


def test_forward_anew_neither_reads_nor_keeps_states() -> None:
    """What maps over rows must not depend on what the net saw before."""
    net = recurrent("LSTM")
    given = {"x": np.ones((4, 2, 3)), "cont": np.ones((4, 2))}
    first = net.forward_anew(given, ["h"])["h"]
    np.testing.assert_array_equal(net.forward_anew(given, ["h"])["h"], first)
    np.testing.assert_array_equal(net.forward(given)["h"], first)
    assert np.any(net.forward(given)["h"] != first)
    np.testing.assert_array_equal(net.forward_anew(given, ["h"])["h"], first)


def test_rows_chosen_by_their_values() -> None:
    """Filter's tops have as many rows as the data say: forward runs such a net uncompiled, jit refuses it by name."""
    text = inputs_text(x=(3, 2), keep=(3,)) + (
        'layer { name: "f" type: "Filter" bottom: "x" bottom: "keep" top: "y" }'
        'layer { name: "p" type: "Power" bottom: "y" top: "z" power_param { scale: 2 } }'
    )
    net = Net.from_text(text)
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    for keep in ([1, 0, 1], [0, 0, 1]):
        found = net.forward({"x": x, "keep": np.array(keep)})["z"]
        np.testing.assert_array_equal(found, 2 * x[np.array(keep) == 1])
    with pytest.raises(NetError, match=r'layer "f" \(Filter\).*cannot be part of a compiled function'):
        jax.jit(net.apply)(net.params, {"x": x, "keep": np.ones(3)})


# -- weights ---------------------------------------------------------------------------------------------------------

SHARED = (
    inputs_text(a=(2, 4), b=(2, 4))
    + ip("one", "a", 'param { name: "w" } param { name: "b" }')
    + ip("two", "b", 'param { name: "w" } param { name: "b" }')
    + 'layer { name: "e" type: "EuclideanLoss" bottom: "one" bottom: "two" top: "e" }'
)


def test_shared_weights_are_one_weight_under_every_sharer() -> None:
    """One leaf a shared blob; set under one sharer, seen under both; its gradient is the accumulated one."""
    net = Net.from_text(SHARED, seed=0)
    assert len(jax.tree.leaves(net.params)) == 2
    net.params = net.from_blobs({"two": [np.full((3, 4), 2.0), np.ones(3)]})
    blobs = net.to_blobs(net.params)
    np.testing.assert_array_equal(blobs["one"][0], blobs["two"][0])
    rng = np.random.default_rng(0)
    given = {name: rng.standard_normal((2, 4)).astype(np.float32) for name in "ab"}
    grads = net.to_blobs(jax.grad(lambda p: net.loss(p, given)[0])(net.params))
    difference = (given["a"] - given["b"]) @ np.full((4, 3), 2.0, np.float32)
    np.testing.assert_allclose(grads["one"][0], difference.T @ (given["a"] - given["b"]) / 2, rtol=1e-4)
    np.testing.assert_array_equal(grads["one"][0], grads["two"][0])


def test_a_sharer_runs_without_the_layer_that_owns_the_weight() -> None:
    """Asking for the second branch of a siamese net needs neither the first nor its input."""
    net = Net.from_text(SHARED, seed=0)
    x = np.ones((2, 4), np.float32)
    found = net.forward({"b": x}, blobs=["two"])["two"]
    np.testing.assert_array_equal(found, net.forward({"a": x}, blobs=["one"])["one"])


def test_to_blobs_and_from_blobs_are_inverse(net: Net) -> None:
    """In Caffe's shapes, as copies that may be written to; layers not named keep their values."""
    blobs = net.to_blobs(net.params)
    assert {layer: [blob.shape for blob in arrays] for layer, arrays in blobs.items()} == {
        "conv": [(3, 1, 3, 3), (3,)],
        "ip": [(5, 27), (5,)],
    }
    back = net.to_blobs(net.from_blobs(blobs))
    for layer, arrays in blobs.items():
        for blob, same in zip(arrays, back[layer], strict=True):
            np.testing.assert_array_equal(blob, same)
    blobs["conv"][0][:] = 7
    changed = net.to_blobs(net.from_blobs({"conv": blobs["conv"]}))
    assert np.all(changed["conv"][0] == 7)
    np.testing.assert_array_equal(changed["ip"][0], back["ip"][0])
    assert not np.any(net.to_blobs(net.params)["conv"][0] == 7)


@pytest.mark.parametrize(
    ("blobs", "message"),
    [
        ({"cnov": []}, r'no layer "cnov" with weights\. Did you mean "conv"'),
        ({"relu": []}, 'no layer "relu" with weights'),
        ({"conv": [np.zeros((3, 1, 3, 3))]}, r'layer "conv": 1 weight blob\(s\) given, the layer has 2'),
        ({"conv": [np.zeros((3, 3, 3, 1)), np.zeros(3)]}, r'layer "conv", weight 0: shape \(3, 3, 3, 1\) given'),
    ],
)
def test_blobs_that_do_not_fit_are_refused(net: Net, blobs: dict, message: str) -> None:
    """Unknown layers, numbers and shapes are named."""
    with pytest.raises(WeightsError, match=message):
        net.from_blobs(blobs)


def test_params_of_another_net_are_refused(net: Net) -> None:
    """Params that lack a weight are named, wherever they are used."""
    other = Net.from_text(SHARED).params
    for use in (lambda: net.apply(other, rows(4)), lambda: net.to_blobs(other), lambda: setattr(net, "params", other)):
        with pytest.raises(WeightsError, match='params lack weight 0 of layer "conv"'):
            use()


def test_copies_have_weights_of_their_own(net: Net) -> None:
    """copy.copy and copy.deepcopy: the same weights, set apart from then on."""
    for make in (copy.copy, copy.deepcopy, Net.copy):
        twin = make(net)
        before = net.to_blobs(net.params)["ip"][0]
        np.testing.assert_array_equal(twin.to_blobs(twin.params)["ip"][0], before)
        twin.params = twin.init(77)
        np.testing.assert_array_equal(net.to_blobs(net.params)["ip"][0], before)


def test_a_loss_without_a_top_counts() -> None:
    """Caffe gives such a layer a top that no one can name: it is part of the loss, and neither an output nor a blob."""
    text = inputs_text(a=(4, 3), b=(4, 3))
    loss = 'layer {{ name: "loss" type: "EuclideanLoss" bottom: "a" bottom: "b" {} }}'
    named = Net.from_text(text + loss.format('top: "loss" loss_weight: 2'), "TRAIN")
    silent = Net.from_text(text + loss.format("loss_weight: 2") + loss.format("").replace('"loss"', '"more"'), "TRAIN")
    rng = np.random.default_rng(0)
    values = {name: rng.normal(size=(4, 3)).astype(np.float32) for name in "ab"}
    total, (outputs, _) = silent.loss(silent.params, values)
    np.testing.assert_allclose(total, 1.5 * named.loss(named.params, values)[0], rtol=1e-6)
    assert outputs == {}
    assert silent.outputs == []
    assert set(silent.blob_shapes) == {"a", "b"}
    assert not silent.layers[-1].top


def test_an_infogain_matrix_is_found_beside_the_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``infogain_loss_param.source`` is looked for in the working directory, then beside the prototxt."""
    matrix = np.diag([1.0, 2.0, 3.0]).astype(np.float32)[None, None]
    (tmp_path / "h.binaryproto").write_bytes(array_to_blob(matrix).SerializeToString())
    (tmp_path / "net.prototxt").write_text(
        inputs_text(p=(2, 3), label=(2,))
        + 'layer { name: "loss" type: "InfogainLoss" bottom: "p" bottom: "label" top: "loss" '
        'infogain_loss_param { source: "h.binaryproto" } }'
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    net = Net(tmp_path / "net.prototxt")
    found = net.forward({"p": np.zeros((2, 3)), "label": np.array([0, 2])})["loss"]
    np.testing.assert_allclose(found, 2 * np.log(3), rtol=1e-5)
    assert net.layers[-1].infogain_loss_param.source == "h.binaryproto"


def test_a_layer_that_states_its_phase_runs_in_it() -> None:
    """Caffe's layers inherit the net's phase only where they state none: frozen statistics, dropout in tests."""
    dropout = 'layer { name: "d" type: "Dropout" bottom: "x" top: "y" phase: TRAIN }'
    ones = np.ones((8, 3), np.float32)
    found = Net.from_text(inputs_text(x=(8, 3)) + dropout, phase="TEST", seed=1).forward({"x": ones})["y"]
    assert set(np.unique(found)) == {0, 2}
    text = inputs_text(x=(8, 3)) + 'layer { name: "n" type: "BatchNorm" bottom: "x" top: "y" phase: TEST }'
    norm = Net.from_text(text, phase="TRAIN")
    params = norm.from_blobs({"n": [np.zeros(3), np.ones(3), np.ones(1)]})
    _, (_, after) = norm.loss(params, {"x": 5 * ones})
    for key, value in params.items():
        np.testing.assert_array_equal(after[key], value)


def test_weights_in_the_nets_own_message_are_taken(net: Net) -> None:
    """A caffemodel's message is a net with weights; layers without any draw theirs."""
    blobs = net.to_blobs(net.params)
    message = net.to_message()
    for layer in message.layer:
        if layer.name in list(blobs)[1:]:
            layer.blobs.extend(array_to_blob(blob) for blob in blobs[layer.name])
    other = Net(message, seed=99)
    first, *rest = blobs
    found = other.to_blobs(other.params)
    assert not np.array_equal(found[first][0], blobs[first][0])
    for name in rest:
        for mine, wanted in zip(found[name], blobs[name], strict=True):
            np.testing.assert_array_equal(mine, wanted)


def test_layers_behind_a_filter_see_the_rows_that_are_left() -> None:
    """Caffe reshapes them: a mean is over two rows where two of four are kept."""
    text = inputs_text(x=(4, 3), t=(4, 3), keep=(4,))
    text += 'layer { name: "f" type: "Filter" bottom: "x" bottom: "t" bottom: "keep" top: "fx" top: "ft" }'
    text += 'layer { name: "l" type: "EuclideanLoss" bottom: "fx" bottom: "ft" top: "l" }'
    x, t = np.arange(12, dtype=np.float32).reshape(4, 3), np.zeros((4, 3), np.float32)
    found = Net.from_text(text).forward({"x": x, "t": t, "keep": np.array([0, 1, 0, 1], np.float32)})
    np.testing.assert_allclose(found["l"], (x[[1, 3]] ** 2).sum() / 4)
