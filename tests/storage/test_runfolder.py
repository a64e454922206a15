"""The run folder keeps what resuming, watching and reporting need."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from cosdask.errors import StorageError
from cosdask.storage import RunFolder, atomic_write, exists, join, local_path, run_folder_for


def folders(tmp_path: Path) -> list[str]:
    """A local run folder and one behind fsspec."""
    return [str(tmp_path / "lenet.run"), f"memory://{tmp_path.name}/lenet.run"]


def test_place_beside_the_model() -> None:
    """`<model stem>.run` beside the model, for both weight formats and for URLs."""
    assert run_folder_for("/a/lenet.caffemodel") == "/a/lenet.run"
    assert run_folder_for("/a/lenet_iter_5.caffemodel.h5") == "/a/lenet_iter_5.run"
    assert run_folder_for("hdfs://nn/m") == "hdfs://nn/m.run"


def test_run_and_validation_come_back(tmp_path: Path) -> None:
    """What is written is read back equal."""
    for url in folders(tmp_path):
        run = RunFolder(url)
        run.write_run({"seed": 7, "ranks": 2})
        frame = pd.DataFrame({"iteration": [10, 20], "accuracy": [0.5, 0.75]})
        run.write_validation(frame)
        assert RunFolder(url).read_run() == {"seed": 7, "ranks": 2}
        pd.testing.assert_frame_equal(RunFolder(url).read_validation(), frame)


def test_each_process_writes_its_own_numbered_part(tmp_path: Path) -> None:
    """A resumed run adds a part and keeps the earlier ones; order is kept over parts."""
    for url in folders(tmp_path):
        for start in range(3):
            with RunFolder(url) as run:
                run.append_event({"n": 2 * start})
                run.append_event({"n": 2 * start + 1})
        assert [event["n"] for event in RunFolder(url).read_events()] == list(range(6))
    names = sorted(path.name for path in (tmp_path / "lenet.run").iterdir())
    assert names == ["events-00000.jsonl", "events-00001.jsonl", "events-00002.jsonl"]


def test_two_writers_at_once_do_not_share_a_part(tmp_path: Path) -> None:
    """Parts are claimed by creating them."""
    first, second = RunFolder(tmp_path), RunFolder(tmp_path)
    first.append_event({"who": 1})
    second.append_event({"who": 2})
    first.append_event({"who": 1})
    assert [event["who"] for event in RunFolder(tmp_path).read_events()] == [1, 1, 2]
    first.close()
    second.close()


def test_a_line_cut_by_a_kill_is_left_out_other_damage_is_not(tmp_path: Path) -> None:
    """kill -9 in the middle of a line costs that line; damage elsewhere is an error with its place."""
    part = tmp_path / "events-00000.jsonl"
    part.write_text('{"n": 1}\n{"n": 2')
    assert list(RunFolder(tmp_path).read_events()) == [{"n": 1}]
    part.write_text('{"n": 1\n{"n": 2}\n')
    with pytest.raises(StorageError, match=r"events-00000\.jsonl:1"):
        list(RunFolder(tmp_path).read_events())


def test_snapshots_are_listed_in_order_and_replaced_by_name(tmp_path: Path) -> None:
    """A snapshot of the same name replaces its entry, as the file is replaced."""
    for url in folders(tmp_path):
        run = RunFolder(url)
        assert run.read_snapshots() == []
        run.add_snapshot("a.caffemodel", "a.solverstate", 5, {"model": 1, "state": 2}, {"model": "x", "state": "y"})
        run.add_snapshot("b.caffemodel", "b.solverstate", 10, {"model": 1, "state": 2}, {"model": "x", "state": "y"})
        run.add_snapshot("a.caffemodel", "a.solverstate", 5, {"model": 9, "state": 2}, {"model": "z", "state": "y"})
        found = RunFolder(url).read_snapshots()
        assert [entry["model"] for entry in found] == ["b.caffemodel", "a.caffemodel"]
        assert found[1]["sizes"]["model"] == 9


def test_a_new_run_does_not_remove_what_it_needs(tmp_path: Path) -> None:
    """Checkpoints of an earlier run go, unless the new one reads one of them, by whatever name: then nothing goes."""
    for url in folders(tmp_path):
        run, state = RunFolder(url), join(join(url, "checkpoints"), "auto_iter_3.solverstate")
        run.write_run({"seed": 7})
        atomic_write(state, b"state")
        names = [state]
        if local_path(url) is not None:
            (tmp_path / "link").symlink_to(url)
            names += [f"file:{state}", str(tmp_path / "link" / "checkpoints" / "auto_iter_3.solverstate")]
        for name in names:
            with pytest.raises(StorageError, match=r"auto_iter_3\.solverstate: an automatic checkpoint.*--resume"):
                run.reset([name])
        assert exists(state) and run.read_run() == {"seed": 7}
        run.reset([join(url, "other.caffemodel"), url + "/checkpoints_of_mine/a"])
        assert not exists(state)


def test_damaged_or_missing_files_are_named(tmp_path: Path) -> None:
    """A run folder that is none says which file is wrong."""
    with pytest.raises(StorageError, match=r"run\.json"):
        RunFolder(tmp_path).read_run()
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(StorageError, match=r"run\.json: holds a list"):
        RunFolder(tmp_path).read_run()
    (tmp_path / "snapshots.json").write_text("{")
    with pytest.raises(StorageError, match=r"snapshots\.json: not JSON"):
        RunFolder(tmp_path).read_snapshots()
