"""Python layers on workers (issue 4): the user's module lies on the client only, and its code reaches every rank."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest_parallel import config
from distributed import Client
from problems import Problem
from test_equality import assert_close, solved

import cosdask
from cosdask.errors import NetError

LAYER = (
    'layer { name: "gain" type: "Python" bottom: "conv1" top: "conv1" param { lr_mult: 2 } '
    'python_param { module: "gains_of_a_test" layer: "Gain" } }'
)
MODULE = """
import caffe
import numpy as np

START = 1.5

class Gain(caffe.Layer):
    def setup(self, bottom, top):
        self.blobs.add_blob(1)
        self.blobs[0].data[...] = START

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom, top):
        self.before = bottom[0].data.copy()
        top[0].data[...] = self.before * self.blobs[0].data

    def backward(self, top, propagate_down, bottom):
        self.blobs[0].diff[...] += np.sum(top[0].diff * self.before)
        bottom[0].diff[...] = top[0].diff * self.blobs[0].data
"""


@pytest.mark.slow
def test_two_workers_run_python_layers_as_one_process_does(
    client: Client, problem: Callable[..., Problem], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 2 through the user's code; refused where it was not allowed, and its failure is the run's."""
    (tmp_path / "gains_of_a_test.py").write_text(MODULE)
    made = problem(settings="max_iter: 4 test_iter: 1", middle=LAYER)
    with pytest.raises(NetError, match="not allowed"):
        cosdask.CaffeOnDask(client, config(made, clusterSize=2)).train()
    monkeypatch.syspath_prepend(str(tmp_path))
    options = config(made, clusterSize=2, allow_modules="gains_of_a_test")
    cos = cosdask.CaffeOnDask(client, options)
    result = cos.train()
    found = result.net.to_blobs(result.net.params)
    assert found["gain"][0][0] != 1.5
    assert_close(result.net, solved(made, ranks=2))
    tested = cos.test()
    assert 0 <= tested["accuracy"] <= 1

    import gains_of_a_test

    plain = gains_of_a_test.Gain.forward

    def slowly(self: object, bottom: object, top: object) -> None:
        time.sleep(1.5)
        plain(self, bottom, top)

    # a test takes as long as it takes, whatever counting may
    monkeypatch.setattr(gains_of_a_test.Gain, "forward", slowly)
    monkeypatch.setattr("cosdask.parallel.waiting.PREPARING", 4.0)
    assert cos.test() == tested
    monkeypatch.undo()
    monkeypatch.syspath_prepend(str(tmp_path))

    def refuse(self: object, top: object, propagate_down: object, bottom: object) -> None:
        raise ValueError("no more")

    monkeypatch.setattr(gains_of_a_test.Gain, "backward", refuse)
    with pytest.raises(NetError, match=r'rank \d.*layer "gain" \(Python\).*backward raised ValueError: no more'):
        cosdask.CaffeOnDask(client, config(made, clusterSize=2, overwrite=True)).train()
