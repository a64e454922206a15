"""Which nets and weights a solver names (issue 4, solvers): several test nets, states, inline nets, weights, seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cosdask import Net, Solver
from cosdask.proto import parse_net, parse_solver, to_text
from cosdask.solver import nets

NET = """
layer {{ name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {{ shape {{ dim: 4 dim: 3 }}
  shape {{ dim: 4 dim: 2 }} data_filler {{ type: "constant" value: 2 }}
  data_filler {{ type: "constant" value: 1 }} }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param {{ num_output: 2
  weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "label" top: "loss" }}
{more}
"""
TOP = 'layer {{ name: "{0}" type: "Power" bottom: "ip" top: "{0}" power_param {{ scale: {1} }} {2} }}\n'
PLAIN = NET.format(more="")
SETTINGS = 'base_lr: 0.1 lr_policy: "fixed" max_iter: 2 test_interval: 100 random_seed: 7 '


def weights(solver: Solver) -> list[np.ndarray]:
    """The weights of the layer ``ip``."""
    return solver.net.to_blobs(solver.net.params)["ip"]


def test_each_test_net_has_its_state_and_the_trained_weights(tmp_path: Path) -> None:
    """Caffe's order: inline test nets, test_net files, then net for the rest; each with its level and stages."""
    staged = TOP.format("a", 1, 'include { stage: "x" }') + TOP.format("b", 2, "include { min_level: 3 }")
    (tmp_path / "net.prototxt").write_text(NET.format(more=staged))
    (tmp_path / "other.prototxt").write_text(NET.format(more=TOP.format("c", 3, "")))
    text = (
        f'{SETTINGS} net: "net.prototxt" test_net: "other.prototxt" test_net_param {{ {PLAIN} }} '
        "test_iter: 1 test_iter: 1 test_iter: 1 test_iter: 1 test_state { } test_state { } "
        'test_state { stage: "x" } test_state { level: 3 }'
    )
    (tmp_path / "solver.prototxt").write_text(text)
    with Solver(tmp_path / "solver.prototxt") as solver:
        solver.step(1)
        outputs = [set(solver.test(i)) - {"loss"} for i in range(4)]
        assert outputs == [set(), {"c"}, {"a"}, {"b"}]
        means = [solver.test(1)["c"], solver.test(2)["a"]]
        score = 2 * weights(solver)[0].sum(1) + weights(solver)[1]
        for mean, factor in zip(means, (3, 1), strict=True):
            np.testing.assert_allclose(mean, np.broadcast_to(factor * score, (4, 2)), rtol=1e-5)


@pytest.mark.parametrize("field", ["net", "train_net", "net_param", "train_net_param"])
def test_a_train_net_is_a_file_or_inline(field: str, tmp_path: Path) -> None:
    """The four ways to name the one net to train give the same training."""
    (tmp_path / "net.prototxt").write_text(PLAIN)
    named = f"{field} {{ {PLAIN} }}" if field.endswith("param") else f'{field}: "net.prototxt"'
    (tmp_path / "solver.prototxt").write_text(SETTINGS + named)
    with (
        Solver(tmp_path / "solver.prototxt") as solver,
        Solver(parse_solver(SETTINGS + f"net_param {{ {PLAIN} }}")) as plain,
    ):
        for one, other in zip(weights(solver), weights(plain), strict=True):
            np.testing.assert_array_equal(one, other)
        assert to_text(solver.net.to_message()) == to_text(plain.net.to_message())


def test_random_seed_decides_where_training_starts() -> None:
    """The same seed draws the same weights, another one others, and none (-1) new ones each time."""
    starts = []
    for seed in ("7", "7", "8", "-1", "-1"):
        text = SETTINGS.replace("7", seed) + f"net_param {{ {PLAIN} }}"
        with Solver(parse_solver(text)) as solver:
            starts.append(weights(solver)[0])
    np.testing.assert_array_equal(starts[0], starts[1])
    assert not any(np.array_equal(one, other) for i, one in enumerate(starts[1:]) for other in starts[1:][:i])


def test_weights_come_from_several_files_in_turn(tmp_path: Path) -> None:
    """``weights`` may be repeated, hold commas, or be given instead; a later file wins, layer by layer."""
    two = PLAIN + TOP.format("x", 1, "").replace("Power", "Bias").replace("power_param { scale: 1 }", "")
    (tmp_path / "net.prototxt").write_text(two)
    for name, value in (("first", 1.0), ("second", 2.0)):
        net = Net.from_text(two if name == "first" else PLAIN, "TRAIN")
        net.params = net.from_blobs(
            {key: [np.full_like(b, value) for b in v] for key, v in net.to_blobs(net.params).items()}
        )
        net.save(tmp_path / f"{name}.caffemodel")
    base = SETTINGS + 'net: "net.prototxt" '
    for text, given in (
        ('weights: "first.caffemodel" weights: "second.caffemodel"', None),
        ('weights: "first.caffemodel, second.caffemodel"', None),
        ("", ",".join(str(tmp_path / f"{name}.caffemodel") for name in ("first", "second"))),
    ):
        (tmp_path / "solver.prototxt").write_text(base + text)
        with Solver(tmp_path / "solver.prototxt", weights=given) as solver:
            blobs = solver.net.to_blobs(solver.net.params)
            assert blobs["ip"][0].tolist() == [[2.0] * 3] * 2
            assert blobs["x"][0].tolist() == [1.0] * 2
    assert parse_net(two).layer[-1].type == "Bias"


def test_states_may_say_the_phase() -> None:
    """Of the solver first, then of the net itself; else the net's place decides."""
    text = 'net_param { %s layer { name: "a" type: "Input" top: "x" input_param { shape { dim: 1 } } } '
    text += 'layer { name: "only" type: "Silence" bottom: "x" include { phase: TEST } } } '
    text += "test_iter: 1 test_interval: 1 "

    def names(own: str, state: str = "") -> tuple[int, int]:
        param = parse_solver(text % own + state)
        return len(nets.train_net(param, None).layers()), len(nets.test_nets(param, None)[0].layers())

    assert names("") == (1, 2)
    assert names("", "test_state { phase: TRAIN }") == (1, 1)
    assert names("", "train_state { phase: TEST }") == (2, 2)
    assert names("state { phase: TEST }") == (2, 2)
    assert names("state { phase: TEST }", "train_state { phase: TRAIN }") == (1, 2)
