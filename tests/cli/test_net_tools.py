"""``cosdask show``, ``time``, ``draw`` and ``upgrade`` (issue 4, tools)."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosdask import Net
from cosdask.cli.main import main
from cosdask.nn.cost import layer_costs
from cosdask.proto import array_to_blob, caffe_pb2, parse_net, read_net, read_solver
from cosdask.view.layered import layered_layout

NET = """
name: "tiny"
layer { name: "data" type: "Data" top: "data" top: "label"
  data_param { source: "nowhere" batch_size: 2 backend: LMDB } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 group: 2 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" inner_product_param { num_output: 5
  weight_filler { type: "xavier" } } }
layer { name: "drop" type: "Dropout" bottom: "ip" top: "ip" include { phase: TRAIN } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SHAPES = ["--input-shape", "data=2,2,5,5", "--input-shape", "label=2"]


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A net whose data are not here, in the working directory."""
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "solver.prototxt").write_text('net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" solver_type: ADAM\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_show_counts_weights_products_and_memory(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each weight of a convolution is used once a place; in-place layers take no memory; a solver names its net."""
    assert main(["show", "solver.prototxt", *SHAPES]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split("  ") for line in lines if line[:1].isalpha()}
    cells = {name: [cell.strip() for cell in row if cell.strip()] for name, row in rows.items()}
    assert cells["conv"] == ["conv", "Convolution", "2 x 4 x 3 x 3", "40", "648", "448 B"]  # 2*9 places, 36 weights
    assert cells["relu"] == ["relu", "ReLU", "2 x 4 x 3 x 3", "0 B"]
    assert cells["ip"] == ["ip", "InnerProduct", "2 x 5", "185", "360", "780 B"]
    assert cells["total"][1:3] == ["225", "1,008"]
    assert "inputs: data, label; outputs: loss" in lines[-1]


def test_show_says_how_to_do_without_the_data(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing LMDB is no dead end."""
    assert main(["show", "net.prototxt"]) == 1
    assert "state the shapes, such as --input-shape data=10,3,227,227 --input-shape label=10" in capsys.readouterr().err
    assert main(["show", "net.prototxt", "--input-shape", "data"]) == 2
    assert main(["show", "net.prototxt", "--phase", "LEARN"]) == 2


def test_recurrent_layers_and_shared_weights_are_counted_once(tiny: Path) -> None:
    """An LSTM uses its matrices each step, the static one once; a sharer owns nothing."""
    net = Net.from_text(
        'input: "x" input_shape { dim: 3 dim: 2 dim: 4 } input: "c" input_shape { dim: 3 dim: 2 } '
        'input: "s" input_shape { dim: 2 dim: 5 }'
        'layer { name: "lstm" type: "LSTM" bottom: "x" bottom: "c" bottom: "s" top: "h" '
        "recurrent_param { num_output: 6 } }"
        'layer { name: "a" type: "InnerProduct" bottom: "s" top: "a" param { name: "w" } '
        "inner_product_param { num_output: 2 bias_term: false } }"
        'layer { name: "b" type: "InnerProduct" bottom: "s" top: "b" param { name: "w" } '
        "inner_product_param { num_output: 2 bias_term: false } }"
    )
    costs = {line.name: line for line in layer_costs(net)}
    assert costs["lstm"].macs == 24 * (3 * 2 * (4 + 6) + 2 * 5)
    assert (costs["a"].weights, costs["b"].weights) == (10, 0)
    assert costs["a"].macs == costs["b"].macs == 20


def test_time_speaks_as_caffe_time(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every layer forward and backward, and the averages, in lines that scripts for Caffe read."""
    assert main(["time", "net.prototxt", "--iterations", "2", *SHAPES]) == 0
    text = capsys.readouterr().out
    for name in ("data", "conv", "relu", "ip", "drop", "loss"):
        for way in ("forward", "backward"):
            assert re.search(rf"^ +{name}\t{way}: [0-9.e-]+ ms\.$", text, re.MULTILINE), (name, way)
    times = dict(re.findall(r"^Average ([\w -]+): ([0-9.e-]+) ms\.$", text, re.MULTILINE))
    assert set(times) == {"Forward pass", "Backward pass", "Forward-Backward"}
    assert float(times["Forward-Backward"]) > 0
    assert len(re.findall(r"^Iteration: \d+ forward-backward time: ", text, re.MULTILINE)) == 2
    assert float(re.search(r"conv\tbackward: ([0-9.e-]+)", text)[1]) > 0  # type: ignore[index]
    assert "*** Benchmark ends ***" in text


def test_draw_writes_svg_and_png(tiny: Path) -> None:
    """Every layer's name is text in the SVG, in-place layers in the box they work on; the file is always the same."""
    assert main(["draw", "net.prototxt", "net.svg", *SHAPES]) == 0
    assert main(["draw", "net.prototxt", "again.svg", *SHAPES]) == 0
    assert main(["draw", "net.prototxt", "net.png", "--phase", "TRAIN", "--sideways"]) == 0
    words = {"".join(text.itertext()).strip() for text in ElementTree.parse("net.svg").iter() if "text" in text.tag}
    assert {"tiny", "data", "conv", "4 of 3x3, group 2", "+ relu: ReLU", "ip", "loss", "2x4x3x3"} <= words
    assert not any("drop" in word for word in words)
    assert Path("net.svg").read_bytes() == Path("again.svg").read_bytes()
    assert Path("net.png").read_bytes().startswith(b"\x89PNG")
    assert main(["draw", "net.prototxt", "net.svg"]) == 1  # it is there
    assert main(["draw", "net.prototxt", "net.gif"]) == 2


@settings(max_examples=25)
@given(st.data())
def test_boxes_and_arrows_keep_apart(data: st.DataObject) -> None:
    """Whatever the graph: boxes never overlap, arrows go down, and a route starts and ends at its boxes' borders."""
    count = data.draw(st.integers(1, 12))
    sizes = [(data.draw(st.floats(0.5, 4)), data.draw(st.floats(0.5, 2))) for _ in range(count)]
    pairs = [(a, b) for b in range(count) for a in range(b)]
    edges = data.draw(st.lists(st.sampled_from(pairs), unique=True, max_size=20)) if pairs else []
    layout = layered_layout(sizes, edges, 0.5, 0.5)
    for one in range(count):
        for other in range(one):
            apart = [
                abs(layout.places[one][i] - layout.places[other][i]) - (sizes[one][i] + sizes[other][i]) / 2
                for i in (0, 1)
            ]
            assert max(apart) > 0.4
    for (start, end), route in zip(edges, layout.routes, strict=True):
        assert all(upper[1] < lower[1] for upper, lower in pairwise(route))
        assert route[0] == pytest.approx((layout.places[start][0], layout.places[start][1] + sizes[start][1] / 2))
        assert route[-1] == pytest.approx((layout.places[end][0], layout.places[end][1] - sizes[end][1] / 2))


def test_upgrade_writes_what_caffe_reads_today(tiny: Path, golden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nets, solvers and caffemodels; the new file needs no upgrade any more, and weights come along."""
    old = next(path for path in sorted((golden / "upgrade").rglob("*.prototxt")) if "layers" in path.read_text())
    assert main(["upgrade", str(old), "new.prototxt"]) == 0
    assert capsys.readouterr().out == "net: new.prototxt\n"
    assert "layers" not in Path("new.prototxt").read_text()
    assert read_net("new.prototxt") == read_net(old)
    assert main(["upgrade", "solver.prototxt", "new_solver.prototxt"]) == 0
    assert 'type: "Adam"' in Path("new_solver.prototxt").read_text()
    assert read_solver("new_solver.prototxt") == read_solver("solver.prototxt")
    model = caffe_pb2.NetParameter(layers=[{"name": "ip", "type": "INNER_PRODUCT"}])
    model.layers[0].blobs.append(array_to_blob(np.arange(6, dtype=np.float32).reshape(2, 3)))
    Path("old.caffemodel").write_bytes(model.SerializeToString())
    assert main(["upgrade", "old.caffemodel", "new.caffemodel"]) == 0
    new = caffe_pb2.NetParameter.FromString(Path("new.caffemodel").read_bytes())
    assert (new.layer[0].type, list(new.layer[0].blobs[0].data)) == ("InnerProduct", [0, 1, 2, 3, 4, 5])
    assert main(["upgrade", "solver.prototxt", "new_solver.prototxt"]) == 1  # it is there
    assert parse_net(Path("new.prototxt").read_text()).layer
