"""What training waits for its rows, and what the feed holds: ``python -m benchmarks.waiting``.

CaffeNet trains from JPEGs in an LMDB, decoded and cropped by the feed; counted is the share of the time in which a step
waits for its batch. Then the feed alone goes over the same rows twenty times, and the process's memory is looked at
after each epoch.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import cosdask
import cosdask.proto as proto
from benchmarks.inputs import net_message
from benchmarks.measure import cores
from benchmarks.pictures import CROP, ROWS, open_rows, write_rows
from cosdask.data import Feed, RowPlan
from cosdask.proto import caffe_pb2

_BATCH = 16
_WARMUP = 3
_EPOCHS = 20


def write_solver(folder: Path) -> Path:
    """CaffeNet on the pictures, with crops and mirrors at random; returns the solver's path."""
    rows = write_rows("jpeg", folder)
    net = net_message("caffenet", _BATCH)
    for layer in net.layer:
        if layer.type == "MemoryData":
            layer.type = "Data"
            layer.ClearField("memory_data_param")
            layer.ClearField("source_class")
            layer.data_param.source, layer.data_param.batch_size = str(rows), _BATCH
            layer.data_param.backend = caffe_pb2.DataParameter.LMDB
            layer.transform_param.crop_size, layer.transform_param.mirror = CROP, True
    (folder / "net.prototxt").write_text(proto.to_text(net))
    (folder / "solver.prototxt").write_text(
        f'net: "{folder}/net.prototxt" base_lr: 0.0001 lr_policy: "fixed" momentum: 0.9 random_seed: 1 max_iter: 1000'
    )
    return folder / "solver.prototxt"


def waiting(folder: Path, steps: int) -> dict[str, float]:
    """Seconds a step, and the share of them in which it waits."""
    with cosdask.Solver(str(write_solver(folder))) as solver:
        solver.step(_WARMUP)
        float(solver.loss)
        (feed,) = solver.engine.feeds
        begin, waited = time.perf_counter(), feed.wait_seconds
        solver.step(steps)
        float(solver.loss)
        seconds = time.perf_counter() - begin
        return {"seconds_a_step": seconds / steps, "share": (feed.wait_seconds - waited) / seconds}


def memory(folder: Path) -> list[float]:
    """The process's resident megabytes after each epoch of the feed."""
    source = open_rows("jpeg", folder / "jpeg", 64)
    found = []
    with Feed(source, RowPlan(ROWS, 1), 0, 64) as feed:
        for _ in range(_EPOCHS):
            for _ in range(ROWS // 64):
                next(feed)
            found.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="waiting for rows, and the feed's memory")
    parser.add_argument("--steps", type=int, default=40, help="steps timed (default: %(default)s)")
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as name:
        found = waiting(Path(name), steps)
        megabytes = memory(Path(name))
    print(f"CaffeNet, batch {_BATCH}: {1000 * found['seconds_a_step']:.0f} ms a step, waiting {found['share']:.1%}")
    print(f"memory after epochs 2 and {_EPOCHS}: {megabytes[1]:.1f} MB and {megabytes[-1]:.1f} MB")
    print(json.dumps({**found, "megabytes": megabytes, "cores": cores()}))


if __name__ == "__main__":
    main()
