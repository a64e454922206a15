"""A net's picture in a notebook."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

import cosdask
from cosdask.errors import ConfigError, CosdaskError, NetError
from cosdask.view.draw import _label_area, _overlap

NET = """
name: "drawn"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 4
  weight_filler { type: "xavier" } } include { stage: "wide" } }
layer { name: "relu" type: "ReLU" bottom: "data" top: "relu" }
"""


def size(picture: object) -> tuple[int, ...]:
    data = picture._repr_png_()  # type: ignore[attr-defined]
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape[:2]


def test_a_net_is_drawn_from_whatever_names_it(tmp_path: Path) -> None:
    """A path, a message, a Net and a solver give the same picture; stages choose layers."""
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "solver.prototxt").write_text('net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed"')
    picture = cosdask.show_network(tmp_path / "net.prototxt")
    assert picture.data == cosdask.show_network(cosdask.proto.read_net(tmp_path / "net.prototxt")).data
    assert picture.data == cosdask.show_network(cosdask.Net.from_text(NET, phase="TRAIN")).data
    assert picture.data == cosdask.show_network(tmp_path / "solver.prototxt").data
    assert size(cosdask.show_network(tmp_path / "net.prototxt", stages=["wide"]))[1] > size(picture)[1]


def test_rankdir_turns_it(tmp_path: Path) -> None:
    """TB is taller, LR is wider; other words are refused."""
    net = cosdask.Net.from_text(NET)
    (height, width), (turned_height, turned_width) = (
        size(cosdask.show_network(net)),
        size(cosdask.show_network(net, "LR")),
    )
    assert turned_width > width and turned_height < height
    with pytest.raises(ConfigError, match="rankdir"):
        cosdask.show_network(net, "RL")


def test_labels_beside_arrows_cover_nothing() -> None:
    """Arrows that leave one box together have their labels at different places, on their own curves."""
    taken = [(2.0, 0.0, 3.0, 0.4), (1.0, 2.0, 1.0, 0.4), (3.0, 2.0, 1.0, 0.4)]
    routes = [[(2.0, 0.2), (1.0, 1.8)], [(2.0, 0.2), (1.2, 1.8)], [(2.0, 0.2), (1.4, 1.8)]]
    for route in routes:
        area = _label_area(route, "sentence 16x12", False, taken, width=4)
        assert sum(_overlap(area, other) for other in taken) == 0
        assert route[1][0] <= area[0] <= route[0][0] and 0.2 < area[1] < 1.8
        taken.append(area)
    assert _label_area(routes[0], "free", False, [], width=4)[:2] == (1.5, 1.0)
    x, _, width, _ = _label_area([(3.9, 0), (3.9, 1)], "a long name 16x12", False, [], width=4)
    assert x + width / 2 <= 4.25


def test_a_net_without_its_data_is_drawn_and_a_broken_one_is_not(tmp_path: Path) -> None:
    """A picture needs no rows; what is wrong with the net is said with its place."""
    lmdb = NET.replace('type: "Input"', 'type: "Data"').replace(
        "input_param { shape { dim: 2 dim: 3 } }", 'data_param { source: "gone" batch_size: 2 backend: LMDB }'
    )
    (tmp_path / "net.prototxt").write_text(lmdb)
    assert cosdask.show_network(tmp_path / "net.prototxt").data.startswith(b"\x89PNG")
    (tmp_path / "net.prototxt").write_text(NET.replace('bottom: "data" top: "relu"', 'bottom: "date" top: "relu"'))
    with pytest.raises(NetError, match="date"):
        cosdask.show_network(tmp_path / "net.prototxt")
    (tmp_path / "net.prototxt").write_text("layer {")
    with pytest.raises(CosdaskError, match=r"net\.prototxt:1"):
        cosdask.show_network(tmp_path / "net.prototxt")
