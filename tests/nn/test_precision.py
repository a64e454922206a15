"""``precision=`` on nets and solvers (issue 4, precision): what is rounded, and what stays float32."""

from __future__ import annotations

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_nets import LENET, inputs_text, ip, rows

from cosdask import Config, Net, Solver
from cosdask.errors import ConfigError
from cosdask.proto import parse_solver

DEEP = (
    inputs_text(data=(4, 3, 6, 6), label=(4,))
    + 'layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 4 '
    'bias_term: false kernel_size: 3 weight_filler { type: "xavier" } } }'
    'layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }'
    'layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }'
    'layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }'
    'layer { name: "short" type: "Pooling" bottom: "data" top: "short" pooling_param { pool: AVE kernel_size: 3 } }'
    'layer { name: "cut" type: "Concat" bottom: "conv" bottom: "short" top: "cut" }'
    + ip("ip", "cut", outputs=300)
    + 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }'
)


def batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    data = rng.standard_normal((4, 3, 6, 6)).astype(np.float32)
    return {"data": data, "label": np.array([257, 3, 299, 0], np.float32)}  # bfloat16 has no 257 and no 299


def jaxpr_of(net: Net) -> str:
    return str(jax.make_jaxpr(jax.grad(lambda params: net.loss(params, batch())[0]))(net.params))


def test_bfloat16_multiplies_in_bfloat16_and_keeps_the_rest() -> None:
    """Convolutions and products take bfloat16 factors; weights, gradients, sums, labels and outputs are float32."""
    exact = Net.from_text(DEEP, "TRAIN", seed=1)
    net = Net.from_text(DEEP, "TRAIN", seed=1, precision="bfloat16")
    (loss, (outputs, after)), grads = jax.jit(jax.value_and_grad(net.loss, has_aux=True))(net.params, batch())
    (wanted, _), exact_grads = jax.value_and_grad(exact.loss, has_aux=True)(exact.params, batch())
    assert loss != wanted
    np.testing.assert_allclose(loss, wanted, rtol=0.02)
    assert {leaf.dtype for leaf in jax.tree.leaves((loss, outputs, after, grads))} == {jnp.dtype(jnp.float32)}
    for key, gradient in grads.items():
        scale = float(jnp.abs(exact_grads[key]).max())
        np.testing.assert_allclose(gradient, exact_grads[key], atol=0.05 * scale + 1e-6)
    assert "bf16" in jaxpr_of(net)
    assert "bf16" not in jaxpr_of(exact)
    assert net.forward(batch(), ["conv"])["conv"].dtype == np.float32


def test_tf32_is_asked_for_only_where_it_is_wanted() -> None:
    """Products of a float32 net say so, forward and backward: a GPU's own default would be TF32, silently."""
    small = Net.from_text(LENET, "TRAIN", seed=1)
    low = Net.from_text(LENET, "TRAIN", seed=1, precision="tf32")

    def lowered(net: Net) -> str:
        return jax.jit(lambda params: net.loss(params, rows(4))[0]).lower(net.params).as_text()

    assert "HIGHEST" in lowered(small)
    assert "HIGHEST" not in lowered(low)
    assert "HIGH" in lowered(low)
    np.testing.assert_array_equal(small.forward(rows(4))["loss"], low.forward(rows(4))["loss"])  # on CPUs they agree


def test_a_solver_updates_float32_weights() -> None:
    """Small updates are not lost to rounding: weights and history stay float32, also where products are bfloat16."""
    text = (
        'layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param { '
        "shape { dim: 4 dim: 3 } shape { dim: 4 dim: 2 } "
        'data_filler { type: "constant" value: 1 } data_filler { type: "constant" value: 3 } } }'
        + ip("ip", "data", outputs=2)
        + 'layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "label" top: "loss" }'
    )
    settings = f'base_lr: 1e-5 lr_policy: "fixed" momentum: 0.9 max_iter: 9 random_seed: 1 net_param {{ {text} }}'
    weights = []
    for precision in ("float32", "bfloat16"):
        with Solver(parse_solver(settings), precision=precision) as solver:
            before = solver.net.to_blobs(solver.net.params)["ip"][0]
            solver.step(3)
            weights.append(solver.net.to_blobs(solver.net.params)["ip"][0] - before)
            assert solver.net.precision == precision
    np.testing.assert_allclose(weights[1], weights[0], rtol=0.02)
    assert np.abs(weights[0]).max() > 0


def test_the_precision_travels_and_is_checked() -> None:
    """A pickled net keeps it; a name that is none is refused, with the nearest."""
    assert pickle.loads(pickle.dumps(Net.from_text(LENET, precision="bfloat16", seed=1))).precision == "bfloat16"
    with pytest.raises(ConfigError, match=r'none of float32, tf32, bfloat16. Did you mean .*"bfloat16"'):
        Net.from_text(LENET, precision="bfloat32")
    assert Config.from_args(["--precision", "tf32"]).precision == "tf32"
    with pytest.raises(ConfigError, match="precision"):
        Config(precision="half")
