"""Python layers (issue 4, layers): users' existing classes, forward and backward, only where they were allowed."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_nets import inputs_text, ip

import cosdask
from cosdask import Net
from cosdask.errors import ConfigError, NetError
from cosdask.proto import parse_solver

HERE = Path(__file__).parent
MODULE = "my_python_layers"


@pytest.fixture(autouse=True)
def allowed() -> None:
    """pytest puts this folder on the path."""
    cosdask.allow_python_layers([MODULE])


def python(name: str, bottoms: str, tops: str, param: str = "", more: str = "") -> str:
    words = " ".join(f'bottom: "{b}"' for b in bottoms.split()) + " ".join(f' top: "{t}"' for t in tops.split())
    return (
        f'layer {{ name: "{name}{tops}" type: "Python" {words} {more} '
        f'python_param {{ module: "{MODULE}" layer: "{name}" param_str: "{param}" }} }}\n'
    )


REGRESSION = inputs_text(data=(4, 3), label=(4, 2)) + ip("ip", "data", outputs=2)
LOSS = 'layer {{ name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "label" top: "loss" {} }}'


def batch(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"data": rng.normal(size=(4, 3)).astype(np.float32), "label": rng.normal(size=(4, 2)).astype(np.float32)}


def test_a_loss_in_numpy_is_the_built_in_loss() -> None:
    """Value and gradients of Caffe's own example equal those of EuclideanLoss, loss_weight included, compiled."""
    mine = Net.from_text(REGRESSION + python("Euclidean", "ip label", "loss", more="loss_weight: 3"), "TRAIN", seed=1)
    built_in = Net.from_text(REGRESSION + LOSS.format("loss_weight: 3"), "TRAIN", seed=1)
    results = []
    for net in (mine, built_in):
        (value, (outputs, _)), grads = jax.jit(jax.value_and_grad(net.loss, has_aux=True))(net.params, batch())
        results.append([value, outputs["loss"].reshape(()), *net.to_blobs(grads)["ip"]])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_two_passes_that_overlap_keep_their_own_state() -> None:
    """A backward pass belongs to its own forward pass, also where another one of the same layer came between."""
    net = Net.from_text(REGRESSION + python("Euclidean", "ip label", "loss", more="loss_weight: 1"), "TRAIN", seed=1)
    first, back = jax.vjp(lambda params: net.loss(params, batch(0))[0], net.params)
    net.loss(net.params, batch(5))
    (late,) = back(jnp.ones_like(first))
    at_once = jax.grad(lambda params: net.loss(params, batch(0))[0])(net.params)
    for key, value in at_once.items():
        np.testing.assert_array_equal(late[key], value)


def test_gradients_flow_where_caffe_lets_them() -> None:
    """A label gets no gradient (code that refuses it is not asked); propagate_down and force_backward decide."""

    def gradient_of_data(net_fields: str, layer_fields: str) -> np.ndarray:
        text = net_fields + REGRESSION + python("Doubled", "data", "twice", more=layer_fields)
        text += 'layer { name: "sum" type: "Reduction" bottom: "twice" top: "sum" loss_weight: 1 }'
        net = Net.from_text(text, "TRAIN", seed=1)
        return np.asarray(jax.grad(lambda data: net.loss(net.params, {**batch(), "data": data})[0])(batch()["data"]))

    assert not gradient_of_data("", "").any()
    assert (gradient_of_data("force_backward: true ", "") == 2).all()
    assert (gradient_of_data("", "propagate_down: true") == 2).all()


def test_a_data_layer_gives_batch_after_batch() -> None:
    """Without bottoms each forward pass calls the layer once, for whichever blobs are asked for."""
    net = Net.from_text(python("Rows", "", "data label", "2") + ip("ip", "data", outputs=2), seed=1)
    assert net.inputs == {}
    assert net.blob_shapes["data"] == (2, 3)
    seen = [net.forward({}, ["label"])["label"].ravel().tolist() for _ in range(2)]
    found = net.forward({}, ["label", "data", "ip"])
    assert seen == [[0, 0], [1, 1]]
    assert found["label"].ravel().tolist() == [2, 2]
    np.testing.assert_array_equal(found["data"], np.arange(6).reshape(2, 3) + 2)


def test_weights_are_trained_and_counts_are_kept() -> None:
    """Blobs added in setup are weights with the start given there; one with lr_mult 0 keeps what forward writes."""
    text = REGRESSION + python("Gain", "ip", "gain", more="param { lr_mult: 1 } param { lr_mult: 0 }")
    text += LOSS.format("").replace('bottom: "ip"', 'bottom: "gain"')
    net = Net.from_text(text, "TRAIN", seed=1)
    assert net.to_blobs(net.params)["Gaingain"][0].tolist() == [1.5]
    grads, (outputs, after) = jax.grad(net.loss, has_aux=True)(net.params, batch())
    assert net.to_blobs(after)["Gaingain"][1].tolist() == [1]
    hidden = net.apply(net.params, batch(), blobs=["ip"])[0]["ip"]
    expected = np.sum((hidden * 1.5 - batch()["label"]) * hidden) / 4
    np.testing.assert_allclose(net.to_blobs(grads)["Gaingain"][0][0], expected, rtol=1e-5)
    assert net.to_blobs(grads)["Gaingain"][1].tolist() == [0]
    assert outputs["loss"] > 0
    test = Net.from_text(text, "TEST", seed=1)
    np.testing.assert_allclose(test.forward(batch(), ["gain"])["gain"], 2 * 1.5 * hidden, rtol=1e-5)


def test_in_place_layers_and_other_batch_sizes() -> None:
    """A layer may have its bottom as its top; another batch size reshapes the same object."""
    text = REGRESSION + python("Doubled", "ip", "ip") + LOSS.format("")
    plain = REGRESSION + 'layer { name: "p" type: "Power" bottom: "ip" top: "ip" power_param { scale: 2 } }'
    mine, built_in = (Net.from_text(t, "TRAIN", seed=1) for t in (text, plain + LOSS.format("")))
    longer = {name: np.concatenate([array, array]) for name, array in batch().items()}
    for given in (batch(), longer, batch()):
        np.testing.assert_allclose(mine.forward(given)["loss"], built_in.forward(given)["loss"], rtol=1e-6)
    one, other = (jax.grad(lambda params, net=net: net.loss(params, longer)[0])(net.params) for net in (mine, built_in))
    np.testing.assert_allclose(mine.to_blobs(one)["ip"][0], built_in.to_blobs(other)["ip"][0], rtol=1e-6)


def test_a_layer_without_tops_looks_on() -> None:
    """It is called in a training's loss and in a forward pass over the net's outputs."""
    from my_python_layers import Seen

    net = Net.from_text(REGRESSION + python("Seen", "data", "") + LOSS.format(""), "TRAIN", seed=1)
    Seen.means.clear()
    jax.block_until_ready(jax.jit(net.loss)(net.params, batch()))
    net.forward(batch())
    jax.effects_barrier()
    np.testing.assert_allclose(Seen.means, [batch()["data"].mean()] * 2, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "param", "text"),
    [
        (
            "Broken",
            "forward",
            r"my_python_layers.Broken: forward raised ValueError: not today \(.*my_python_layers.py:\d+",
        ),
        ("Broken", "shape", r"forward gave top 0 the shape \(1, 1\), but reshape stated \(4, 3\)"),
        ("Eucliden", "", r'has no class "Eucliden". Did you mean "Euclidean"'),
        ("NOT_A_LAYER", "", r"my_python_layers.NOT_A_LAYER is no subclass of caffe.Layer"),
        ("Euclidean", "", r"setup raised Exception: two bottoms are needed"),
    ],
)
def test_what_goes_wrong_names_layer_and_line(name: str, param: str, text: str) -> None:
    """Errors of the user's code come out as errors of the layer, from compiled code too."""
    with pytest.raises(NetError, match=text) as caught:
        Net.from_text(REGRESSION + python(name, "data", "out", param)).forward(batch(), ["out"])
    assert caught.value.where["layer"] == f"{name}out"


def test_only_allowed_modules_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 10: a prototxt cannot make cosdask import a module that nobody allowed."""
    (tmp_path / "evil_layers.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    monkeypatch.syspath_prepend(str(tmp_path))
    text = REGRESSION + python("Euclidean", "ip label", "loss").replace(MODULE, "evil_layers")
    with pytest.raises(
        NetError, match=r'"evil_layers", which is not allowed.*allow_python_layers\(\["evil_layers"\]\)'
    ):
        Net.from_text(text)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(NetError, match=r"missing_layers.*ModuleNotFoundError.*PYTHONPATH"):
        cosdask.allow_python_layers(["missing_layers"])
        Net.from_text(text.replace("evil_layers", "missing_layers"))
    with pytest.raises(ConfigError, match=r'give a list, such as \["my_layers"\]'):
        cosdask.allow_python_layers("my_layers")
    with pytest.raises(ConfigError, match=r"not the name of a Python module"):
        cosdask.allow_python_layers(["my_layers.py/x"])


def test_a_pickled_net_takes_its_code_along(tmp_path: Path) -> None:
    """A worker that lacks the module's file runs the layer: the client's code travels by value."""
    net = Net.from_text(REGRESSION + python("Doubled", "ip", "twice"), seed=1)
    (tmp_path / "net.pickle").write_bytes(pickle.dumps(net))
    np.savez(tmp_path / "batch.npz", **batch())
    script = (
        "import pickle, sys, numpy as np; given = dict(np.load('batch.npz')); "
        "net = pickle.load(open('net.pickle', 'rb')); assert 'my_python_layers' not in sys.modules; "
        "np.save('found.npy', net.forward(given, ['twice'])['twice'])"
    )
    env = {**__import__("os").environ, "PYTHONPATH": str(HERE.parents[1])}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=env, check=True, timeout=120)
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), net.forward(batch(), ["twice"])["twice"], rtol=1e-6)


SOLVER = 'base_lr: 0.1 lr_policy: "fixed" max_iter: 3 random_seed: 1 test_iter: 2 test_interval: 100 '


def net_of_own_data(labels: str = "label") -> str:
    """Data, loss and an own weight, all in NumPy."""
    return (
        python("Rows", "", "data label", "2")
        + ip("ip", "data", outputs=1)
        + python("Gain", "ip", "gain", more="param { lr_mult: 1 } param { lr_mult: 0 }")
        + python("Euclidean", f"gain {labels}", "loss", more="loss_weight: 1")
    )


def test_a_solver_trains_and_tests_through_python_layers() -> None:
    """Steps equal those worked out by hand from the batches that the data layer gave; no data source is needed."""
    solver = cosdask.Solver(parse_solver(SOLVER + f"net_param {{ {net_of_own_data()} }}"))
    start = {name: [b.copy() for b in blobs] for name, blobs in solver.net.to_blobs(solver.net.params).items()}
    (weight, bias), (gain, count) = start["ip"], start["Gaingain"]
    assert count.tolist() == [0]
    for step in range(2):
        data, label = np.arange(6).reshape(2, 3) + step, np.full((2, 1), step)
        hidden = data @ weight.T + bias
        diff = (hidden * gain - label) / 2
        change = (diff * gain).T @ data, (diff * gain).sum(0), (diff * hidden).sum()
        weight, bias, gain = weight - 0.1 * change[0], bias - 0.1 * change[1], gain - 0.1 * change[2]
        solver.step(1)
        found = solver.net.to_blobs(solver.net.params)
        np.testing.assert_allclose(found["ip"][0], weight, rtol=2e-4)
        np.testing.assert_allclose(found["Gaingain"], [gain, [step + 1]], rtol=2e-4)
    assert solver.test()["loss"] > 0
    solver.close()


def test_a_training_ends_with_the_error_of_the_users_code() -> None:
    """A backward pass that fails inside of the compiled step is the layer's error, not the compiler's."""
    text = net_of_own_data().replace('layer: "Gain"', 'layer: "Broken"').replace('"" }', '"backward" }', 3)
    text = text.replace("param { lr_mult: 1 } param { lr_mult: 0 }", "")
    with (
        cosdask.Solver(parse_solver(SOLVER + f"net_param {{ {text} }}")) as solver,
        pytest.raises(NetError, match=r"Broken: backward raised KeyError: 'gone'"),
    ):
        solver.step(1)
