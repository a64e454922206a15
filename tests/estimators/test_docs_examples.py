"""What the documentation shows runs: docs/examples/pipeline.py and the code of docs/fine-tuning.md."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cosdask.data import write_parquet

NET = """
layer {{ name: "data" type: "MemoryData" top: "data" top: "label" source_class: "ImageDataFrame"
  include {{ phase: TRAIN }}
  memory_data_param {{ source: "train.parquet" batch_size: 20 channels: 1 height: 6 width: 6 }}
  transform_param {{ scale: 0.00390625 }} }}
layer {{ name: "data" type: "MemoryData" top: "data" top: "label" source_class: "ImageDataFrame"
  include {{ phase: TEST }}
  memory_data_param {{ source: "test.parquet" batch_size: 20 channels: 1 height: 6 width: 6 }}
  transform_param {{ scale: 0.00390625 }} }}
layer {{ name: "fc1" type: "InnerProduct" bottom: "data" top: "fc1"
  inner_product_param {{ num_output: 8 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "relu" type: "ReLU" bottom: "fc1" top: "fc1" }}
layer {{ name: "{last}" type: "InnerProduct" bottom: "fc1" top: "{last}"
  inner_product_param {{ num_output: 3 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "accuracy" type: "Accuracy" bottom: "{last}" bottom: "label" top: "accuracy" include {{ phase: TEST }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "{last}" bottom: "label" top: "loss" }}
"""
SOLVER = """
net: "{net}.prototxt" base_lr: 0.1 lr_policy: "fixed" momentum: 0.9 max_iter: {iterations} random_seed: 2
test_iter: 3 test_interval: 1000 test_initialization: false snapshot_prefix: "{net}" snapshot_after_train: false
"""


def stripes(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures with a bright third: left, middle or right."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = rng.integers(0, 100, (count, 1, 6, 6))
    for image, label in zip(images, labels, strict=True):
        image[0, :, 2 * label : 2 * label + 2] += 120
    return images.astype(np.uint8), labels


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A published model in the working directory, and the net of the new task."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLOG_minloglevel", "2")
    for name, count in (("train", 120), ("test", 60)):
        write_parquet(f"{name}.parquet", *stripes(count, count))
    Path("published.prototxt").write_text(NET.format(last="fc2"))
    Path("net.prototxt").write_text(NET.format(last="fc2_new"))
    Path("published_solver.prototxt").write_text(SOLVER.format(net="published", iterations=60))
    Path("solver.prototxt").write_text(SOLVER.format(net="net", iterations=40))
    return tmp_path


@pytest.mark.slow
def test_the_pipeline_script_trains_both_models(folder: Path, repository: Path) -> None:
    """Train, features, logistic regression over a LocalCluster; the model is written, as plain arrays."""
    main = runpy.run_path(str(repository / "docs" / "examples" / "pipeline.py"))["main"]
    conf = ["-conf", "published_solver.prototxt", "-model", "out/model.caffemodel"]
    accuracy = main([*conf, "-features", "fc1", "-label", "label", "-output", "out/lr"])
    assert accuracy > 0.9
    with np.load("out/lr/logistic_regression.npz", allow_pickle=False) as model:
        assert model["coefficients"].shape == (3, 8) and model["classes"].tolist() == [0, 1, 2]


def test_the_fine_tuning_page_runs(folder: Path, repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each piece of code of the page, one after the other, on a published model of another last layer."""
    from cosdask import Solver

    with Solver("published_solver.prototxt") as solver:
        solver.solve()
        solver.net.save("published.caffemodel")
        published = solver.net.to_blobs(solver.net.params)
    page = (repository / "docs" / "fine-tuning.md").read_text()
    pieces = dict(re.findall(r"<!-- run: (\w+) -->\n```python\n(.*?)```", page, re.DOTALL))
    assert list(pieces) == ["train", "classifier", "features", "pycaffe"]
    images, labels = stripes(60, 9)
    names = np.array(["left", "middle", "right"])[labels]
    known: dict[str, Any] = {"rows": images.astype(np.float32), "names": names}
    for piece in pieces.values():
        exec(compile(piece, "docs/fine-tuning.md", "exec"), known)
    said = capsys.readouterr().out.splitlines()
    assert "accuracy" in said[0] and float(re.search(r"'accuracy': ([\d.]+)", said[0])[1]) > 0.9  # type: ignore[index]
    assert float(said[1]) > 0.9 and float(said[2]) > 0.9 and float(said[3]) < 0.6
    kept = known["features"].net_
    np.testing.assert_array_equal(kept.to_blobs(kept.params)["fc1"][0], published["fc1"][0])
