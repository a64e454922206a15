"""From whatever names a net to its rows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from google.protobuf import text_format

import cosdask
from cosdask.data import Feed, RowPlan, Source, get_source, layer_top_shapes, open_source, register_source
from cosdask.errors import ConfigError, DataError, ProtoError, StorageError
from cosdask.proto import caffe_pb2, read_net, read_solver


@pytest.fixture
def folder(tmp_path: Path, lmdb_path: Path, parquet_path: Path) -> Path:
    """A solver beside its net, which reads the LMDB in TRAIN and the parquet in TEST or in a stage."""
    (tmp_path / "net.prototxt").write_text(
        f"""
        layer {{ name: "train" type: "Data" top: "data" top: "label" include {{ phase: TRAIN }}
                data_param {{ source: "{lmdb_path}" backend: LMDB batch_size: 6 }} }}
        layer {{ name: "test" type: "MemoryData" top: "data" top: "label" include {{ phase: TEST not_stage: "odd" }}
                source_class: "com.yahoo.ml.caffe.ImageDataFrame"
                memory_data_param {{ source: "{parquet_path}" batch_size: 5 channels: 3 height: 9 width: 8 }} }}
        layer {{ name: "odd" type: "MemoryData" top: "data" top: "label" include {{ phase: TEST stage: "odd" }}
                source_class: "com.yahoo.ml.caffe.LMDB"
                memory_data_param {{ source: "file:{lmdb_path}" batch_size: 4 channels: 3 height: 9 width: 8 }} }}
        layer {{ name: "silence" type: "Silence" bottom: "data" bottom: "label" }}
        """
    )
    (tmp_path / "solver.prototxt").write_text('net: "net.prototxt" base_lr: 0.1 test_iter: 1')
    (tmp_path / "odd_solver.prototxt").write_text('net: "net.prototxt" base_lr: 0.1 test_state { stage: "odd" }')
    return tmp_path


def names(what: Any, folder: Path) -> list[str]:
    """The layers that get_source takes for TRAIN and TEST."""
    return [get_source(what, phase).layer.name for phase in ("TRAIN", "TEST")]


def test_paths_messages_and_objects_lead_to_the_same_rows(folder: Path) -> None:
    """Net and solver prototxt, their messages, Net-like, Solver-like and Config-like objects."""
    net, solver = read_net(folder / "net.prototxt"), read_solver(folder / "solver.prototxt")
    for what in (folder / "net.prototxt", str(folder / "solver.prototxt"), net):
        assert names(what, folder) == ["train", "test"]
    inline = caffe_pb2.SolverParameter(net_param=net, base_lr=solver.base_lr)
    assert names(inline, folder) == ["train", "test"]
    assert names(SimpleNamespace(conf=str(folder / "solver.prototxt"), resize=False), folder) == ["train", "test"]
    like = SimpleNamespace(layers=[net.layer[0]], phase="TRAIN", folder=str(folder), name="n")
    assert get_source(like).layer.name == "train"
    assert get_source(SimpleNamespace(net=like, test_nets=[like])).layer.name == "train"


def test_states_of_the_solver_and_of_the_call(folder: Path) -> None:
    """Stages come from the solver's test_state, or from the call."""
    assert names(folder / "odd_solver.prototxt", folder) == ["train", "odd"]
    assert get_source(folder / "net.prototxt", "TEST", stages=["odd"]).layer.name == "odd"


def test_relative_names_count_from_the_working_directory_first(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in Caffe, then from beside the solver."""
    work = tmp_path_factory.mktemp("work")
    text = (folder / "net.prototxt").read_text()
    (work / "net.prototxt").write_text(text.replace("batch_size: 6", "batch_size: 7"))
    assert get_source(folder / "solver.prototxt").batch_size == 6
    monkeypatch.chdir(work)
    assert get_source(folder / "solver.prototxt").batch_size == 7


def test_options_of_a_configuration_reach_the_source(folder: Path) -> None:
    """-lmdb_partitions, -resize and -persistent."""
    config = SimpleNamespace(conf=str(folder / "solver.prototxt"), lmdb_partitions=4, resize=True, persistent=True)
    source = get_source(config)
    assert len(source.partitions()) == 4
    assert source.options["resize"] and source.options["persistent"]


def test_what_cannot_be_found_is_named(folder: Path, tmp_path: Path) -> None:
    """No data for a phase, a solver without a net, a missing net, an unknown phase, a damaged prototxt."""
    (folder / "deploy.prototxt").write_text('layer { name: "data" type: "Input" top: "data" }')
    with pytest.raises(DataError, match=r"deploy\.prototxt: no layer that reads data in the phase TEST"):
        get_source(folder / "deploy.prototxt", "TEST")
    (folder / "empty_solver.prototxt").write_text("base_lr: 1")
    with pytest.raises(ConfigError, match="names no net"):
        get_source(folder / "empty_solver.prototxt")
    (folder / "lost_solver.prototxt").write_text('net: "nett.prototxt"')
    with pytest.raises(StorageError, match="no such file"):
        get_source(folder / "lost_solver.prototxt")
    with pytest.raises(ConfigError, match="phase 'train'"):
        get_source(folder / "net.prototxt", "train")
    (folder / "bad.prototxt").write_text('layer { naem: "x" }')
    with pytest.raises(ProtoError, match="naem"):
        get_source(folder / "bad.prototxt")
    with pytest.raises(ConfigError, match="not int"):
        get_source(3)
    with pytest.raises(ConfigError, match="names no solver"):
        get_source(SimpleNamespace(conf=None))


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ('type: "MemoryData" source_class: "LMBD"', ConfigError, 'Did you mean "LMDB"'),
        ('type: "MemoryData"', ConfigError, "source_class"),
        ('type: "CoSData" source_class: "DataFrameSource"', ConfigError, "batch_size"),
        (
            'type: "CoSData" source_class: "LMDB" cos_data_param { batch_size: 1 }',
            ConfigError,
            "goes with .*MemoryData",
        ),
        ('type: "Convolution"', DataError, "is no data layer"),
    ],
)
def test_layers_that_cannot_be_read_say_why(text: str, error: type[Exception], message: str) -> None:
    """Unknown classes (with the nearest), and what is not built yet."""
    layer = text_format.Parse(f'name: "data" {text}', caffe_pb2.LayerParameter())
    with pytest.raises(error, match=message):
        open_source(layer)


def test_shapes_for_nets(lmdb_path: Path, make_layer: Callable[..., Any]) -> None:
    """What Net feeds itself with; a MemoryData layer without a source has shapes of its own."""
    assert layer_top_shapes(make_layer("lmdb", lmdb_path, 3, "crop_size: 4")) == {"data": (3, 3, 4, 4), "label": (3,)}
    bare = text_format.Parse(
        'name: "d" type: "MemoryData" top: "a" top: "b" '
        "memory_data_param { batch_size: 2 channels: 3 height: 4 width: 5 }",
        caffe_pb2.LayerParameter(),
    )
    assert layer_top_shapes(bare) == {"a": (2, 3, 4, 5), "b": (2, 1, 1, 1)}


def write_hdf5(folder: Path, sizes: list[int]) -> Path:
    """HDF5 files of numbered rows, and their list."""
    start = 0
    for number, size in enumerate(sizes):
        with h5py.File(folder / f"part{number}.h5", "w") as file:
            values = np.arange(start, start + size, dtype=np.float64)
            file["data"] = np.stack([values, -values], axis=1)
            file["label"] = values.astype(np.int32)
        start += size
    (folder / "list.txt").write_text("".join(f"part{number}.h5\n" for number in range(len(sizes))))
    return folder / "list.txt"


def test_hdf5_rows_go_on_over_files(tmp_path: Path, make_layer: Callable[..., Any]) -> None:
    """All files in order, numbers made float32, empty files passed over, any range readable."""
    source = open_source(make_layer("hdf5", write_hdf5(tmp_path, [3, 0, 5]), 3))
    assert source.rows == 8
    assert source.tops == {"data": (3, 2), "label": (3,)}
    batches = list(source.batches(epochs=1))
    assert [len(batch["label"]) for batch in batches] == [3, 3, 2]
    assert np.concatenate([batch["label"] for batch in batches]).tolist() == list(range(8))
    assert batches[1]["data"].dtype == np.float32
    np.testing.assert_array_equal(batches[1]["data"][:, 1], [-3, -4, -5])
    copy = Source.from_spec(source.spec())
    assert [ids for rows in copy.read(2, 5) for ids in copy.ids(rows)] == ["2", "3", "4"]
    frame = source.to_dask().compute(scheduler="synchronous")
    assert list(frame.columns) == ["id", "data", "label"]
    assert len(frame) == 8


def test_hdf5_that_does_not_fit(tmp_path: Path, make_layer: Callable[..., Any]) -> None:
    """A missing data set, other row shapes, other lengths, no HDF5, an empty list, a missing file."""
    layer = make_layer("hdf5", write_hdf5(tmp_path, [3, 3]), 3)
    with h5py.File(tmp_path / "part1.h5", "a") as file:
        file.move("label", "labels")
    with pytest.raises(DataError, match=r'part1\.h5: no data set "label".*Did you mean "labels"'):
        open_source(layer).index()
    write_hdf5(tmp_path, [3, 3])
    with h5py.File(tmp_path / "part1.h5", "w") as file:
        file["data"], file["label"] = np.zeros((3, 4)), np.zeros(3)
    with pytest.raises(DataError, match=r"rows of shape \(4,\)"):
        open_source(layer).index()
    with h5py.File(tmp_path / "part1.h5", "w") as file:
        file["data"], file["label"] = np.zeros((3, 2)), np.zeros(4)
    with pytest.raises(DataError, match="differ in rows"):
        open_source(layer).index()
    (tmp_path / "part1.h5").write_bytes(b"no")
    with pytest.raises(DataError, match="not a readable HDF5"):
        open_source(layer).index()
    (tmp_path / "part1.h5").unlink()
    with pytest.raises(StorageError, match="no such file"):
        open_source(layer).index()
    (tmp_path / "list.txt").write_text("\n")
    with pytest.raises(DataError, match="names no HDF5 file"):
        open_source(layer).index()


def test_several_data_layers_are_zipped(tmp_path: Path, lmdb_path: Path, digits: tuple[np.ndarray, np.ndarray]) -> None:
    """Row i of each side by side; the shorter one begins again; frames and spec hold both."""
    listing = write_hdf5(tmp_path, [4, 6])
    (tmp_path / "net.prototxt").write_text(
        f"""
        layer {{ name: "images" type: "Data" top: "data" top: "label"
                data_param {{ source: "{lmdb_path}" backend: LMDB batch_size: 7 }} transform_param {{ crop_size: 4 }} }}
        layer {{ name: "extra" type: "HDF5Data" top: "values" hdf5_data_param {{ source: "{listing}" batch_size: 7 }} }}
        """
    )
    for number in range(2):
        with h5py.File(tmp_path / f"part{number}.h5", "a") as file:
            file["values"] = file["label"][...]
    source = get_source(tmp_path / "net.prototxt", "TRAIN")
    assert source.rows == 23
    assert source.tops == {"data": (7, 3, 4, 4), "label": (7,), "values": (7,)}
    batches = list(source.batches(epochs=1))
    assert np.concatenate([b["label"] for b in batches]).tolist() == digits[1].tolist()
    assert np.concatenate([b["values"] for b in batches]).tolist() == [row % 10 for row in range(23)]
    frame = source.frame(source.partitions()[0])
    assert {"id", "label", "data", "extra.values"} <= set(frame.columns)
    copy = Source.from_spec(source.spec())
    with Feed(copy, RowPlan(copy.rows, 1), 0, 7) as feed:
        np.testing.assert_array_equal(copy.finish(next(feed))["data"], batches[0]["data"])


def test_zipped_layers_need_one_batch_size(tmp_path: Path, lmdb_path: Path) -> None:
    """Different batch sizes in one net are refused with both named."""
    layer = (
        'layer {{ name: "{0}" type: "Data" top: "{0}" data_param {{ source: "{1}" backend: LMDB batch_size: {2} }} }}'
    )
    (tmp_path / "net.prototxt").write_text(layer.format("a", lmdb_path, 2) + layer.format("b", lmdb_path, 3))
    with pytest.raises(ConfigError, match="same batch_size"):
        get_source(tmp_path / "net.prototxt")


def test_users_own_sources() -> None:
    """register_source: a class that gives a pandas frame; cosdask's own names cannot be taken."""

    @register_source("org.example.Sevens")
    class Sevens:
        def __init__(self, layer: caffe_pb2.LayerParameter, phase: str) -> None:
            self.count = 3 if phase == "TRAIN" else 2

        def frame(self) -> pd.DataFrame:
            return pd.DataFrame(
                {"id": list("abc")[: self.count], "label": [7] * self.count, "data": [b"\x01"] * self.count}
            )

    layer = text_format.Parse(
        'name: "d" type: "MemoryData" top: "a" top: "b" source_class: "org.example.Sevens" '
        "memory_data_param { batch_size: 2 channels: 1 height: 1 width: 1 }",
        caffe_pb2.LayerParameter(),
    )
    assert open_source(layer, "TRAIN").rows == 3
    assert Source.from_spec(open_source(layer, "TEST").spec()).rows == 2
    assert next(open_source(layer, "TEST").batches())["b"].ravel().tolist() == [7.0, 7.0]
    with pytest.raises(ConfigError, match="cosdask's own"):
        register_source("com.yahoo.ml.caffe.LMDB")(Sevens)
    with pytest.raises(ConfigError, match="no method frame"):
        register_source("org.example.Nothing")(dict)


def test_a_users_source_class_is_used_as_it_is(lmdb_path: Path, make_layer: Callable[..., Any]) -> None:
    """A Source subclass under a dotted name."""
    from cosdask.data.lmdb import LmdbSource

    @register_source("org.example.Reversed")
    class Reversed(LmdbSource):
        kind = "org.example.Reversed"

        def ids(self, rows: Any) -> list[str]:
            return [name[::-1] for name in super().ids(rows)]

    layer = make_layer("memory_lmdb", lmdb_path, 2, more="channels: 3 height: 9 width: 8")
    layer.source_class = "org.example.Reversed"
    source = Source.from_spec(open_source(layer).spec())
    assert isinstance(source, Reversed)
    rows: Iterator[Any] = source.read(1, 2)
    assert source.ids(next(rows)) == ["10000000"]


def test_a_source_class_by_its_python_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 10: a module is imported only where it was allowed; its code travels to processes without the file."""
    from cosdask.data import registered, user_modules
    from cosdask.nn import user_code
    from cosdask.parallel.plugins import dump_plugins

    (tmp_path / "own_rows.py").write_text(
        """
        import pandas as pd
        class Eights:
            def __init__(self, layer, phase): pass
            def frame(self): return pd.DataFrame({"label": [8, 8], "data": [b"\\x01"] * 2})
        number = 3
        """.replace("\n        ", "\n")
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(user_modules, "_allowed", set())
    monkeypatch.setattr(user_code, "_allowed", set())
    # what other tests of this process allowed does not travel along
    monkeypatch.setattr(user_code, "_shipped", {})

    def layer(name: str) -> caffe_pb2.LayerParameter:
        text = (
            f'name: "d" type: "MemoryData" top: "a" top: "b" source_class: "own_rows.{name}" '
            "memory_data_param { batch_size: 2 channels: 1 height: 1 width: 1 }"
        )
        return text_format.Parse(text, caffe_pb2.LayerParameter())

    with pytest.raises(ConfigError, match=r"'own_rows\.Eights' is not known.*--allow-modules"):
        open_source(layer("Eights"))
    assert "own_rows" not in sys.modules
    cosdask.allow_python_layers(["own_rows"])
    with pytest.raises(ConfigError, match=r'the module "own_rows" has no class "Eight".*Did you mean "Eights"'):
        open_source(layer("Eight"))
    with pytest.raises(ConfigError, match='has no class "number"'):
        open_source(layer("number"))
    assert next(open_source(layer("Eights")).batches())["b"].ravel().tolist() == [8.0, 8.0]
    root = str(Path(cosdask.__file__).parent.parent)
    script = (
        f"import sys; sys.path.insert(0, {root!r})",
        "from cosdask.parallel.plugins import load_plugins",
        "from cosdask.data import registered_sources",
        "load_plugins(sys.stdin.read())",
        "print(registered_sources()['own_rows.Eights'](None, '').frame()['label'].tolist())",
    )
    try:
        plugins = dump_plugins()
    finally:
        del registered.USERS["own_rows.Eights"], sys.modules["own_rows"]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(script)], input=plugins, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and done.stdout.strip() == "[8, 8]", done.stderr
