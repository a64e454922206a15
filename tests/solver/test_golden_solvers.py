"""Invariant 1 for training: steps, losses and snapshots equal real Caffe's (``golden/solvers``)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
from google.protobuf.message import Message

from cosdask import Solver
from cosdask.proto import blob_to_array, caffe_pb2, read_binary

FOLDER = Path(__file__).parents[1] / "golden" / "solvers"
CASES = sorted(path.name for path in FOLDER.iterdir())
#: Caffe wrote the pair after this step
SNAPSHOT = 5
LAST = 8


@dataclass
class Case:
    """A case's files in a folder of their own, and what Caffe made of them."""

    name: str
    trajectory: dict[str, np.ndarray]

    @property
    def suffix(self) -> str:
        return ".h5" if "hdf5" in self.name else ""

    @property
    def pair(self) -> tuple[str, str]:
        stem = f"snap_iter_{SNAPSHOT}"
        return f"{stem}.caffemodel{self.suffix}", f"{stem}.solverstate{self.suffix}"

    def assert_weights(self, solver: Solver, step: int) -> None:
        """All weights are those that Caffe had after the step."""
        blobs, seen = solver.net.to_blobs(solver.net.params), 0
        for key, wanted in self.trajectory.items():
            if key.startswith(f"step/{step}/"):
                layer, position = key.split("/")[2:]
                actual = blobs[layer][int(position)]
                np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-5, err_msg=key)
                seen += 1
        assert seen

    def start(self) -> Solver:
        return Solver("solver.prototxt", weights="start.caffemodel")


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    """The case in the working directory, without the pair that Caffe wrote."""
    for path in (FOLDER / request.param).iterdir():
        if not path.name.startswith("snap_"):
            shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    with np.load("trajectory.npz", allow_pickle=False) as file:
        trajectory = {key: file[key] for key in file.files}
    with h5py.File("rows.h5", "w") as rows:
        rows["x"], rows["y"] = trajectory["x"], trajectory["y"]
    Path("data_list.txt").write_text("rows.h5\n")
    yield Case(request.param, trajectory)


def test_steps_and_snapshots_equal_caffes(case: Case) -> None:
    """Weights and loss after each of 8 steps; the pair written on the way holds what Caffe's holds, and goes on."""
    with case.start() as solver:
        case.assert_weights(solver, 0)
        for step in range(1, LAST + 1):
            solver.step(1)
            assert solver.iter == step
            case.assert_weights(solver, step)
            np.testing.assert_allclose(solver.loss, case.trajectory[f"loss/{step}"], rtol=1e-4, atol=1e-5)
            if step == SNAPSHOT:
                assert tuple(Path(path).name for path in solver.snapshot()) == case.pair
        for ours in case.pair:
            assert_same_file(Path(ours), FOLDER / case.name / ours)
        solver.restore(case.pair[1])
        solver.step(LAST - SNAPSHOT)
        case.assert_weights(solver, LAST)


def test_caffes_pair_goes_on_as_in_caffe(case: Case) -> None:
    """Caffe's pair loads, and 3 more steps give its step 8, data position included; also from another folder."""
    for name in case.pair:
        shutil.copy(FOLDER / case.name / name, name)
    with Solver("solver.prototxt", snapshot=case.pair[1]) as solver:
        for name in case.pair:
            Path(name).unlink()
        for _ in range(2):
            assert solver.iter == SNAPSHOT
            case.assert_weights(solver, SNAPSHOT)
            solver.step(LAST - SNAPSHOT)
            case.assert_weights(solver, LAST)
            # the state names its model by a bare name: it lies beside the state
            solver.restore(FOLDER / case.name / case.pair[1])


def assert_same_file(ours: Path, caffes: Path) -> None:
    """The same message, or the same HDF5 tree: names, types and shapes equal, numbers within rounding."""
    if ours.suffix == ".h5":
        with h5py.File(ours) as one, h5py.File(caffes) as two:
            assert_same_group(one, two, ours.name)
        return
    kind = caffe_pb2.SolverState if "solverstate" in ours.name else caffe_pb2.NetParameter
    messages = [read_binary(path, kind()) for path in (ours, caffes)]
    numbers = [take_numbers(message) for message in messages]
    assert messages[0] == messages[1]
    assert len(numbers[0]) == len(numbers[1])
    for one, two in zip(*numbers, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def take_numbers(message: Message) -> list[np.ndarray]:
    """The arrays of a message in order; their numbers are taken out of it, their shapes stay."""
    if isinstance(message, caffe_pb2.SolverState):
        blobs = list(message.history)
    else:
        blobs = [blob for layer in message.layer for blob in layer.blobs]
    arrays = [blob_to_array(blob) for blob in blobs]
    for blob in blobs:
        blob.ClearField("data")
    return arrays


def assert_same_group(one: h5py.Group, two: h5py.Group, where: str) -> None:
    assert sorted(one) == sorted(two), where
    for name in one:
        if isinstance(one[name], h5py.Group):
            assert_same_group(one[name], two[name], f"{where}/{name}")
        elif one[name].dtype.kind in "SO":
            assert bytes(one[name][()]).rstrip(b"\0") == bytes(two[name][()]).rstrip(b"\0"), f"{where}/{name}"
        else:
            assert one[name].dtype == two[name].dtype, f"{where}/{name}"
            assert one[name].shape == two[name].shape, f"{where}/{name}"
            np.testing.assert_allclose(one[name][()], two[name][()], rtol=1e-4, atol=1e-5, err_msg=f"{where}/{name}")
