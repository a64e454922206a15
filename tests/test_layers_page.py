"""docs/layers.md: its code runs, and its example stays short (issue 4: one in 15 lines)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

LOSS = """
import caffe


class ScaledLoss(caffe.Layer):
    def reshape(self, bottom, top):
        top[0].reshape(1)

    def forward(self, bottom, top):
        top[0].data[0] = float(self.param_str) * bottom[0].data.sum()

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = float(self.param_str) * top[0].diff[0]
"""


def test_the_page_runs_from_top_to_bottom(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Readers copy it: the blocks run in order, on the prototxt between them."""
    page = (repository / "docs" / "layers.md").read_text()
    blocks = re.findall(r"```(python|prototxt)\n(.*?)```", page, re.DOTALL)
    assert len([line for line in blocks[0][1].splitlines() if line.strip() and not line.startswith("import")]) <= 15
    (tmp_path / "scaled_loss.py").write_text(LOSS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names: dict[str, object] = {}
    for kind, text in blocks:
        if kind == "prototxt":
            (tmp_path / "gate.prototxt").write_text(text)
        else:
            exec(compile(text, "layers.md", "exec"), names)
    assert capsys.readouterr().out == "(2, 3, 4, 4)\n"

    import cosdask

    data = np.ones((2, 3, 4, 4), np.float32)
    loss = 'layer { name: "l" type: "Python" bottom: "gate" top: "l" '
    loss += 'python_param { module: "scaled_loss" layer: "ScaledLoss" param_str: "3" } }'
    net = cosdask.Net.from_text((tmp_path / "gate.prototxt").read_text() + loss)
    np.testing.assert_allclose(net.forward({"data": data})["l"], [3 * data.size / 2])
