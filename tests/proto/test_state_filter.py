"""filter_net: Caffe's rules on phase, level and stages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosdask.errors import ConfigError, ProtoError
from cosdask.proto import caffe_pb2, filter_net, layer_included, parse_net, read_net, state_meets_rule


def test_the_layers_of_every_golden_state(golden: Path) -> None:
    """Invariant 1: for 40 states the layers that stay are those that real Caffe keeps."""
    net = read_net(golden / "filter" / "net.prototxt")
    cases = json.loads((golden / "filter" / "expected.json").read_text())
    assert len(cases) == 40
    for case in cases:
        kept = filter_net(net, case["phase"], case["level"], case["stages"])
        assert [layer.name for layer in kept.layer] == case["layers"], case


def test_arguments_win_over_the_nets_own_state() -> None:
    """As in pycaffe's Net: phase and level are replaced, stages are added; the net handed in stays as it is."""
    net = parse_net(
        """state { phase: TRAIN level: 5 stage: "own" }
        layer { name: "train" include { phase: TRAIN } } layer { name: "high" include { min_level: 1 } }
        layer { name: "own" include { stage: "own" } } layer { name: "both" include { stage: "own" stage: "new" } }"""
    )
    before = net.SerializeToString()
    kept = filter_net(net, "TEST", 0, ["new", "own"])
    assert [layer.name for layer in kept.layer] == ["own", "both"]
    assert kept.state == caffe_pb2.NetState(phase="TEST", level=0, stage=["own", "new"])
    assert net.SerializeToString() == before


def test_both_kinds_of_rules_are_an_error_naming_the_layer() -> None:
    """Caffe stops there too."""
    net = parse_net('layer { name: "odd" include { phase: TRAIN } exclude { stage: "x" } }')
    with pytest.raises(ProtoError, match=r'layer "odd" has both include and exclude') as caught:
        filter_net(net)
    assert caught.value.where["layer"] == "odd"


def test_phase_by_number_and_wrong_phase() -> None:
    """pycaffe's users pass caffe.TRAIN, a number."""
    net = parse_net('layer { name: "a" include { phase: TRAIN } }')
    assert len(filter_net(net, caffe_pb2.TRAIN).layer) == 1
    for phase in ("test", 7):
        with pytest.raises(ConfigError, match="no phase"):
            filter_net(net, phase)
    with pytest.raises(ConfigError, match="list"):
        filter_net(net, stages="deploy")


_stages = st.lists(st.sampled_from("abc"), max_size=2)
_rules = st.builds(
    caffe_pb2.NetStateRule,
    phase=st.sampled_from([None, "TRAIN", "TEST"]),
    min_level=st.none() | st.integers(-2, 2),
    max_level=st.none() | st.integers(-2, 2),
    stage=_stages,
    not_stage=_stages,
)
_states = st.builds(
    caffe_pb2.NetState, phase=st.sampled_from(["TRAIN", "TEST"]), level=st.integers(-3, 3), stage=_stages
)


@given(_states, st.lists(_rules, max_size=3))
def test_exclude_keeps_what_include_leaves_out(state: caffe_pb2.NetState, rules: list[caffe_pb2.NetStateRule]) -> None:
    """The same rules as include and as exclude are each other's opposite, but for none at all: then all layers stay."""
    included = layer_included(caffe_pb2.LayerParameter(include=rules), state)
    excluded = layer_included(caffe_pb2.LayerParameter(exclude=rules), state)
    met = any(state_meets_rule(state, rule) for rule in rules)
    assert included == (met or not rules)
    assert excluded == (not met)


@given(_states)
def test_a_rule_without_conditions_is_always_met(state: caffe_pb2.NetState) -> None:
    """Conditions not written hold, whatever their defaults say."""
    assert state_meets_rule(state, caffe_pb2.NetStateRule())
