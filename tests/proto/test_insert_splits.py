"""insert_splits: the Split layers of Caffe's own files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cosdask.errors import ProtoError
from cosdask.proto import filter_net, insert_splits, parse_net, read_net


def test_real_nets_get_the_layers_that_caffe_gives_them(golden: Path, reference_prototxt: Path) -> None:
    """Invariant 1: names, types and order of all layers of 11 real nets, and the blobs that splits make."""
    cases = sorted((golden / "shapes").glob("*.json"))
    assert len(cases) == 11
    splits = 0
    for case in cases:
        wanted = json.loads(case.read_text())
        (file,) = reference_prototxt.rglob(f"{case.stem}.prototxt")
        net = insert_splits(filter_net(read_net(file), "TEST"))
        assert [[layer.name, layer.type] for layer in net.layer] == wanted["layers"], case.stem
        assert {top for layer in net.layer for top in layer.top} == set(wanted["blobs"]), case.stem
        splits += sum(layer.type == "Split" for layer in net.layer)
    assert splits > 0


def test_a_loss_that_is_read_again_moves_its_weight() -> None:
    """The loss takes the split's first copy and its weight; readers take the others."""
    net = parse_net(
        """layer { name: "loss" type: "EuclideanLoss" top: "l" loss_weight: 2 }
        layer { name: "show" type: "Silence" bottom: "l" }"""
    )
    loss, split, show = insert_splits(net).layer
    assert list(loss.loss_weight) == []
    assert (split.name, split.type, list(split.bottom)) == ("l_loss_0_split", "Split", ["l"])
    assert list(split.top) == ["l_loss_0_split_0", "l_loss_0_split_1"]
    assert list(split.loss_weight) == [2, 0]
    assert list(show.bottom) == ["l_loss_0_split_1"]


def test_a_weight_of_zero_or_a_single_reader_needs_no_split() -> None:
    """Only what is used twice is split."""
    net = parse_net(
        """layer { name: "a" top: "x" top: "y" loss_weight: 0 loss_weight: 1 }
        layer { name: "b" bottom: "x" top: "z" }"""
    )
    assert insert_splits(net) == net


def test_layers_in_place_start_a_new_blob() -> None:
    """The name stays, the blob differs: readers before and after an in-place layer do not share a split."""
    net = parse_net(
        """layer { name: "d" top: "x" } layer { name: "r" bottom: "x" top: "x" }
        layer { name: "a" bottom: "x" top: "p" } layer { name: "b" bottom: "x" top: "q" }"""
    )
    split = insert_splits(net)
    assert [layer.name for layer in split.layer] == ["d", "r", "x_r_0_split", "a", "b"]
    assert [list(layer.bottom) for layer in split.layer] == [[], ["x"], ["x"], ["x_r_0_split_0"], ["x_r_0_split_1"]]


def test_a_layer_may_read_one_blob_twice() -> None:
    """Each bottom takes a copy of its own."""
    net = parse_net('layer { name: "d" top: "x" top: "y" } layer { name: "e" bottom: "y" bottom: "y" }')
    assert list(insert_splits(net).layer[2].bottom) == ["y_d_1_split_0", "y_d_1_split_1"]


def test_an_unknown_bottom_is_an_error_with_the_nearest_name() -> None:
    """Invariant 8: who reads what, and what it may have meant."""
    net = parse_net('layer { name: "d" top: "data" } layer { name: "c" bottom: "dta" }')
    with pytest.raises(ProtoError, match=r'layer "c" reads "dta".*"data"') as caught:
        insert_splits(net)
    assert caught.value.where["layer"] == "c"
