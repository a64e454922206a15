"""From ``cosdask submit`` to the first training step, part by part: ``python -m benchmarks.submit_time``.

The command runs as a user's would, on a sandbox of its own or a running one; nothing of it is changed. When what
happened is read afterwards from the logs of the ResourceManager and the NodeManagers, from what the Dask scheduler
printed, and from the record of the run in HDFS.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.hadoop import hadoop
from benchmarks.run import machine_facts
from cosdask import proto
from cosdask.cli.demo_data import load_digits
from cosdask.cli.ready import ready_prototxt
from cosdask.cluster.sandbox import Sandbox
from cosdask.cluster.yarn_logs import application_logs
from cosdask.data import write_lmdb
from cosdask.storage import RunFolder, atomic_write, run_folder_for

_RESULTS = Path(__file__).resolve().parent / "results"
_STAMP = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3})")
_SOLVER = (
    'net: "net.prototxt" base_lr: 0.01 momentum: 0.9 lr_policy: "fixed" max_iter: 20 display: 1 random_seed: 1 '
    'snapshot_prefix: "lenet"'
)
#: each part, and the moment at which it ends
PARTS = {
    "submitted": "the command: Python, YARN's client program, files to HDFS",
    "master started": "YARN brings the application master's files and starts it",
    "master registered": "the application master's own start",
    "scheduler started": "YARN starts the scheduler's container",
    "scheduler listens": "Dask's scheduler",
    "workers there": "the workers, in containers of their own",
    "driver connected": "the command in its container, as far as it takes longer than the workers",
    "ranks started": "nets and rows are looked at, ranks get their places",
    "rank imported": "a rank's process imports JAX and the rest",
    "group met": "the ranks meet",
    "net built": "nets, weights and rows of a rank",
    "first step": "the step is compiled and made once",
}


def stamped(text: str, pattern: str) -> list[float]:
    r"""When lines that match were written, seconds since 1970; the stamps are in local time.

    Example:
        >>> import datetime
        >>> found = stamped("2026-11-26 13:00:00,500 INFO x: y from A to B\n2026-11-26 13:00:01,000 no", "from A to B")
        >>> [datetime.datetime.fromtimestamp(at).isoformat() for at in found]
        ['2026-11-26T13:00:00.500000']
    """
    found = []
    for line in text.splitlines():
        stamp = _STAMP.match(line)
        if stamp and re.search(pattern, line):
            found.append(datetime.datetime.strptime(stamp[1], "%Y-%m-%d %H:%M:%S,%f").timestamp())
    return found


def moments(sandbox: Sandbox, application: str, model: str) -> dict[str, float]:
    """When each part ended, seconds since 1970."""
    number = application.removeprefix("application_")
    manager = _log(sandbox, "rm")
    nodes = "\n".join(_log(sandbox, name) for name in sandbox.names() if name.startswith("nm"))
    printed = application_logs(application)
    (scheduler,) = (text for name, text in printed.items() if "scheduler" in name)
    (container,) = (name.split()[0] for name in printed if "scheduler" in name)
    events = list(RunFolder(run_folder_for(model)).read_events())
    started = next(event for event in events if event["kind"] == "run_started")
    first = next(event for event in events if event["kind"] == "progress" and event["rank"] == 0)
    rank = started["time"] - sum(started["starting"].values())
    imported = rank + started["starting"]["imports"]
    workers = max(stamped(scheduler, "Register worker"))
    return {
        "submitted": stamped(manager, rf"{application} State change from NEW ")[0],
        "master started": stamped(nodes, rf"{number}_01_000001 transitioned from SCHEDULED to RUNNING")[0],
        "master registered": stamped(manager, rf"{application} State change from ACCEPTED to RUNNING")[0],
        "scheduler started": stamped(nodes, rf"{container} transitioned from SCHEDULED to RUNNING")[0],
        "scheduler listens": stamped(scheduler, "Scheduler at:")[0],
        "workers there": workers,
        "driver connected": max(workers, *stamped(scheduler, "Receive client connection: Client-[^w]")[:1]),
        "ranks started": rank,
        "rank imported": imported,
        "group met": imported + started["starting"]["group"],
        "net built": started["time"],
        "first step": first["time"],
    }


def _log(sandbox: Sandbox, daemon: str) -> str:
    return (sandbox.folder / "logs" / f"{daemon}.log").read_text(errors="replace")


def lengths(began: float, ends: Mapping[str, float]) -> dict[str, float]:
    """Seconds of each part.

    Example:
        >>> lengths(10.0, {"a": 12.0, "b": 12.5})
        {'a': 2.0, 'b': 0.5}
    """
    parts, before = {}, began
    for name, at in ends.items():
        parts[name], before = at - before, at
    return parts


def submit(sandbox: Sandbox, environment: str, workers: int, folder: str) -> dict[str, float]:
    """Submit one training and read when its parts ended."""
    model = f"{folder}/{uuid.uuid4().hex[:8]}/lenet.caffemodel"
    command = [sys.executable, "-c", "import sys; from cosdask.cli.main import main; sys.exit(main(sys.argv[1:]))"]
    flags = ["--workers", str(workers), "--environment", environment, "--worker-memory", "1GiB"]
    flags += ["--scheduler-memory", "512MiB", "--yarn-deadline", "240"]
    if environment.startswith("python:"):
        flags += ["--env", f"PYTHONPATH={os.environ.get('PYTHONPATH') or Path(__file__).resolve().parents[1]}"]
    job = ["train", "--conf", "solver.prototxt", "--model", model]
    began = time.time()
    done = subprocess.run(
        [*command, "submit", *flags, "--", *job], capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        raise RuntimeError(f"the command ended with exit code {done.returncode}: {done.stderr}{done.stdout}")
    application = re.search(r"application_\d+_\d+", done.stderr)
    assert application is not None
    found = lengths(began, moments(sandbox, application[0], model))
    print(f"{application[0]}: first step after {sum(found.values()):.1f} s", file=sys.stderr, flush=True)
    return found


def table(runs: list[dict[str, float]]) -> str:
    """Medians of the parts, and the sum of a whole run: its median and its least."""
    rows, at = ["| part | seconds | ends at |", "|---|---|---|"], 0.0
    for name, text in PARTS.items():
        middle = statistics.median(run[name] for run in runs)
        at += middle
        rows.append(f"| {text} | {middle:.1f} | {at:.1f} |")
    whole = [sum(run.values()) for run in runs]
    rows.append(f"| all of it: median (least) of {len(runs)} | {statistics.median(whole):.1f} ({min(whole):.1f}) | |")
    return "\n".join(rows)


def prepare(folder: str) -> None:
    """Digits in HDFS, net and solver here."""
    digits, _ = load_digits()
    write_lmdb("rows", digits.images, digits.labels)
    atomic_write(f"{folder}/rows/data.mdb", Path("rows/data.mdb").read_bytes())
    net = proto.read_net(str(ready_prototxt("lenet_train_test.prototxt")))
    for layer in net.layer:
        if layer.type == "Data":
            layer.data_param.source = f"{folder}/rows"
    Path("net.prototxt").write_text(proto.to_text(net))
    Path("solver.prototxt").write_text(_SOLVER)


def main() -> None:
    """Measure, print the table and keep the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.submit_time", description=__doc__)
    parser.add_argument("--repetitions", type=int, default=4, help="counted, after one that is not (default: 4)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--environment", default=f"python://{sys.executable}", help="of the containers")
    parser.add_argument("--output", type=Path, default=_RESULTS, help="folder of the results (default: %(default)s)")
    chosen = parser.parse_args()
    output = chosen.output.absolute()
    with hadoop("submit") as (sandbox, folder), tempfile.TemporaryDirectory() as here, contextlib.chdir(here):
        prepare(folder)
        # the first one fills caches: of the nodes the environment, of the system its files
        runs = [submit(sandbox, chosen.environment, chosen.workers, folder) for _ in range(chosen.repetitions + 1)][1:]
    print(table(runs))
    now = datetime.datetime.now(datetime.UTC)
    record: dict[str, Any] = {"date": now.isoformat(timespec="seconds"), "machine": machine_facts(), "submit": runs}
    output.mkdir(parents=True, exist_ok=True)
    (output / f"{now:%Y-%m-%d-%H%M%S}-submit.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
