"""CaffeOnSpark's SourceTest: what Binary2Sequence wrote is trained on and tested with."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

import cosdask
from cosdask.convert import Form, convert, open_input

_NET = """
layer {{ name: "data" type: "MemoryData" top: "data" top: "label" include {{ phase: {phase} }}
  source_class: "com.yahoo.ml.caffe.SeqImageDataSource" transform_param {{ crop_size: 6 mirror: {mirror} scale: 0.01 }}
  memory_data_param {{ source: "{source}" batch_size: {batch} channels: 3 height: 9 width: 8 }} }}
"""
_REST = """
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


def test_a_sequence_file_is_trained_on_and_tested_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four images in batches of 4 and 2: five steps, both outputs, an HDF5 snapshot."""
    monkeypatch.chdir(tmp_path)
    for k in range(4):
        image = np.random.default_rng(k).integers(0, 256, (9, 8, 3), dtype=np.uint8)
        Path(f"{k}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    Path("labels.txt").write_text("".join(f"{k}.png {k % 2}\n" for k in range(4)))
    convert(open_input("labels.txt", root="."), "seq", "sequence", form=Form(key="tuple2"), parts=2)
    layers = [_NET.format(phase=p, mirror=m, source="seq", batch=b) for p, m, b in
              (("TRAIN", "true", 4), ("TEST", "false", 2))]  # fmt: skip
    Path("net.prototxt").write_text("".join(layers) + _REST)
    Path("solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.0001 lr_policy: "fixed" max_iter: 10 test_iter: 2 test_interval: 10 '
        'snapshot_format: HDF5 snapshot_prefix: "model" random_seed: 1'
    )
    solver = cosdask.Solver("solver.prototxt")
    solver.step(5)
    assert solver.iter == 5 and solver.loss < 50
    outputs = solver.test()
    assert set(outputs) == {"accuracy", "loss"}
    assert all(float(np.ravel(value)[0]) < 50 for value in outputs.values())
    model, _ = solver.snapshot()
    assert model.endswith(".caffemodel.h5") and Path(model).exists()
    solver.close()
