"""docs/examples/pipeline.py over a real YARN, with everything in HDFS: the same code as over a LocalCluster."""

from __future__ import annotations

import io
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from cosdask.cluster.sandbox import Sandbox
from cosdask.data import write_parquet
from cosdask.storage import atomic_write, filesystem, read_bytes
from tests.cluster.needs import needs_hadoop

pytestmark = [
    needs_hadoop,
    pytest.mark.timeout(600),
    # skein asks for gRPC's version in the old way
    pytest.mark.filterwarnings("ignore:distutils Version classes are deprecated:DeprecationWarning"),
]

NET = """
layer {{ name: "data" type: "MemoryData" top: "data" top: "label" source_class: "ImageDataFrame"
  memory_data_param {{ source: "{rows}" batch_size: 20 channels: 1 height: 6 width: 6 }}
  transform_param {{ scale: 0.00390625 }} }}
layer {{ name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
  inner_product_param {{ num_output: 8 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
  inner_product_param {{ num_output: 3 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }}
"""
SOLVER = 'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" momentum: 0.9 max_iter: 20 random_seed: 2 test_iter: 3'


@pytest.mark.long
def test_the_pipeline_script_runs_over_yarn(hadoop: Sandbox, tmp_path: Path, repository: Path) -> None:
    """Train, features, logistic regression in containers; net, rows, weights and result lie in HDFS."""
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 3
    images = rng.integers(0, 100, (120, 1, 6, 6))
    for image, label in zip(images, labels, strict=True):
        image[0, :, 2 * label : 2 * label + 2] += 120
    write_parquet(tmp_path / "rows.parquet", images.astype(np.uint8), labels)
    base = f"{hadoop.namenode}/tests/pipeline"
    try:
        atomic_write(f"{base}/rows.parquet", (tmp_path / "rows.parquet").read_bytes())
        atomic_write(f"{base}/net.prototxt", NET.format(rows=f"{base}/rows.parquet").encode())
        atomic_write(f"{base}/solver.prototxt", SOLVER.encode())
        main = runpy.run_path(str(repository / "docs" / "examples" / "pipeline.py"))["main"]
        place = ["--cluster", "yarn", "--environment", f"python://{sys.executable}", "--worker-memory", "1500 MiB"]
        conf = ["-conf", f"{base}/solver.prototxt", "-model", f"{base}/out/model.caffemodel"]
        verbs = ["-features", "ip1", "-label", "label", "-output", f"{base}/lr"]
        accuracy = main([*place, "--worker-env", f"PYTHONPATH={repository}", *conf, *verbs])
        assert accuracy > 0.9
        with np.load(io.BytesIO(read_bytes(f"{base}/lr/logistic_regression.npz")), allow_pickle=False) as model:
            assert model["coefficients"].shape == (3, 8)
    finally:
        files, place_of = filesystem(base)
        files.rm(place_of, recursive=True)
