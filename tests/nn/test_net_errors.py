"""What a net cannot do is said with file, line and layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_nets import LENET, inputs_text, ip

from cosdask import Net
from cosdask.errors import NetError


@pytest.mark.parametrize(
    ("change", "line", "message"),
    [
        (('bottom: "pool"', 'bottom: "pol"'), 9, r'layer "ip".*bottom "pol" is made by no layer.*Did you mean "pool"'),
        (("kernel_size: 3", "kernel_size: 30"), 5, r'layer "conv"'),
        (('type: "ReLU"', 'type: "RELU"'), 7, r'unknown layer type "RELU".*Did you mean.*"ReLU"'),
        (("num_output: 5", "num_output: 0"), 9, r'layer "ip"'),
        (("num_output: 5", "num_output: 900000000"), 9, r'layer "ip".*24,300,000,000 numbers, more than the 2,147,4'),
    ],
)
def test_errors_of_layers_name_file_and_line(tmp_path: Path, change: tuple[str, str], line: int, message: str) -> None:
    """What a layer cannot do is said with ``path:line`` of its block, also as attributes."""
    path = tmp_path / "net.prototxt"
    path.write_text(LENET.replace(*change))
    with pytest.raises(NetError, match=message) as caught:
        Net(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert (caught.value.where["path"], caught.value.where["line"]) == (str(path), line)


def test_of_layers_with_one_name_the_phases_own_is_named(tmp_path: Path) -> None:
    """TRAIN and TEST data layers often share a name."""
    path = tmp_path / "net.prototxt"
    path.write_text(
        inputs_text(x=(2, 3))
        + '\nlayer { name: "p" type: "Power" bottom: "x" top: "y" include { phase: TRAIN } }\n'
        + 'layer { name: "p" type: "Pwer" bottom: "x" top: "y" include { phase: TEST } }'
    )
    assert Net(path, phase="TRAIN").outputs == ["y"]
    with pytest.raises(NetError, match=r"net.prototxt:3: .*Pwer"):
        Net(path, phase="TEST")


def test_errors_while_running_name_file_and_line_too(tmp_path: Path) -> None:
    """Shapes that only turn out wrong with the given inputs."""
    path = tmp_path / "net.prototxt"
    path.write_text(LENET)
    with pytest.raises(NetError, match=r"net.prototxt:9: .*the given inputs need weights"):
        Net(path).forward({"data": np.zeros((2, 1, 12, 12))}, blobs=["ip"])


def test_a_top_made_twice_is_refused() -> None:
    """Unless the layer works in place."""
    text = inputs_text(x=(2, 4)) + ip("a", "x") + ip("b", "x").replace('top: "b"', 'top: "a"')
    with pytest.raises(NetError, match=r'layer "b" .*top "a" is already made'):
        Net.from_text(text)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ('param { name: "w" }', "shape"),
        ('param { name: "w" share_mode: PERMISSIVE lr_mult: 3 }', r"lr_mult \(=3.0\) differs from 2.0"),
    ],
)
def test_weights_that_cannot_be_shared_are_refused(second: str, message: str) -> None:
    """Shapes must agree (counts, if permissive), and no two multipliers."""
    text = inputs_text(x=(2, 4), y=(2, 3)) + ip("a", "x", 'param { name: "w" lr_mult: 2 }', outputs=3)
    text += ip("b", "y", second, outputs=4)
    with pytest.raises(NetError, match=rf'layer "b".*{message}'):
        Net.from_text(text)
