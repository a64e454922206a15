"""Weights files: ``.caffemodel`` and ``.caffemodel.h5``, by layer name as Caffe reads and writes them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from cosdask import Net
from cosdask.errors import CosdaskError, NetError, WeightsError
from cosdask.nn.fillers import fill
from cosdask.proto import array_to_blob, blob_to_array, caffe_pb2, read_binary

NET = """
name: "n"
layer { name: "data" type: "Input" top: "x" input_param { shape { dim: 2 dim: 2 dim: 5 dim: 5 } } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "conv" convolution_param { num_output: 4 kernel_size: 3
  group: 2 weight_filler { type: "xavier" } bias_filler { type: "gaussian" } } }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" inner_product_param { num_output: 3
  weight_filler { type: "xavier" } bias_filler { type: "gaussian" } } }
layer { name: "twin" type: "InnerProduct" bottom: "conv" top: "twin" param { name: "w" } param { name: "b" }
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "sharer" type: "InnerProduct" bottom: "conv" top: "sharer" param { name: "w" } param { name: "b" }
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
"""


def assert_same(first: Net, second: Net) -> None:
    one, two = first.to_blobs(first.params), second.to_blobs(second.params)
    assert list(one) == list(two)
    for layer, arrays in one.items():
        for a, b in zip(arrays, two[layer], strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["m.caffemodel", "m.caffemodel.h5"])
def test_saved_weights_load_again(tmp_path: Path, name: str) -> None:
    """In both formats, bit for bit, shared weights too; also through the constructor."""
    net = Net.from_text(NET, seed=1)
    net.save(tmp_path / name)
    other = Net.from_text(NET, seed=2)
    other.load(tmp_path / name)
    assert_same(net, other)
    assert_same(net, Net.from_text(NET, weights=tmp_path / name))


def test_a_caffemodel_holds_what_caffes_own_would(tmp_path: Path) -> None:
    """Caffe's shapes, phase, Split layers, and a shared weight under every sharer."""
    net = Net.from_text(NET, seed=1)
    net.save(tmp_path / "m.caffemodel")
    message = read_binary(tmp_path / "m.caffemodel", caffe_pb2.NetParameter())
    assert [layer.name for layer in message.layer] == ["data", "conv", "conv_conv_0_split", "ip", "twin", "sharer"]
    assert {layer.phase for layer in message.layer} == {caffe_pb2.TEST}
    conv, _, ip, twin, sharer = message.layer[1:]
    assert [tuple(blob.shape.dim) for blob in conv.blobs] == [(4, 1, 3, 3), (4,)]
    assert [tuple(blob.shape.dim) for blob in ip.blobs] == [(3, 36), (3,)]
    assert twin.blobs == sharer.blobs
    np.testing.assert_array_equal(blob_to_array(conv.blobs[0]), net.to_blobs(net.params)["conv"][0])


def test_hdf5_keeps_a_shared_weight_under_its_owner(tmp_path: Path) -> None:
    """``data/<layer>/<i>``, a group for every layer, the sharer's empty."""
    net = Net.from_text(NET, seed=1)
    net.save(tmp_path / "m.caffemodel.h5")
    with h5py.File(tmp_path / "m.caffemodel.h5") as file:
        assert {name: sorted(group) for name, group in file["data"].items()} == {
            "conv": ["0", "1"],
            "conv_conv_0_split": [],
            "data": [],
            "ip": ["0", "1"],
            "sharer": [],
            "twin": ["0", "1"],
        }
        np.testing.assert_array_equal(file["data/ip/0"][()], net.to_blobs(net.params)["ip"][0])


def test_layers_are_matched_by_name(tmp_path: Path) -> None:
    """Layers that only one side has are passed over; the net's keep their weights."""
    Net.from_text(NET, seed=1).save(tmp_path / "m.caffemodel")
    renamed = Net.from_text(NET.replace('name: "ip"', 'name: "fresh"'), seed=2)
    before = renamed.to_blobs(renamed.params)
    renamed.load(tmp_path / "m.caffemodel")
    after, source = renamed.to_blobs(renamed.params), Net.from_text(NET, seed=1)
    np.testing.assert_array_equal(after["fresh"][0], before["fresh"][0])
    np.testing.assert_array_equal(after["conv"][0], source.to_blobs(source.params)["conv"][0])


def test_later_files_win(tmp_path: Path) -> None:
    """weights=[a, b] copies a, then b."""
    for seed in (1, 2):
        Net.from_text(NET, seed=seed).save(tmp_path / f"{seed}.caffemodel")
    net = Net.from_text(NET, weights=[tmp_path / "1.caffemodel", tmp_path / "2.caffemodel"])
    assert_same(net, Net.from_text(NET, seed=2))


def old_model(version: int) -> caffe_pb2.NetParameter:
    """A caffemodel as Caffe of 2014 wrote it: 4-D blobs without ``shape``."""
    net = Net.from_text(NET, seed=1)
    blobs = net.to_blobs(net.params)
    message = caffe_pb2.NetParameter(name="old")
    for layer in net.layers[1:]:
        old = message.layers.add(name=layer.name) if version == 1 else message.layer.add(name=layer.name)
        if version == 1:
            kind = "CONVOLUTION" if layer.type == "Convolution" else "INNER_PRODUCT"
            old.type = caffe_pb2.V1LayerParameter.LayerType.Value(kind)
        else:
            old.type = layer.type
        old.blobs.extend(array_to_blob(array, like_legacy=True) for array in blobs[layer.name])
    return message


@pytest.mark.parametrize("version", [1, 2])
def test_old_caffemodels_load(tmp_path: Path, version: int) -> None:
    """4-D blobs (1, 1, 1, N) fit (N,), and V1 layers are upgraded."""
    path = tmp_path / "old.caffemodel"
    path.write_bytes(old_model(version).SerializeToString())
    assert_same(Net.from_text(NET, weights=path), Net.from_text(NET, seed=1))


def test_old_shapes_fit_only_with_ones_in_front(tmp_path: Path) -> None:
    """(3, 36, 1, 1) has as many numbers as (3, 36), but is not (1, 1, 3, 36)."""
    message = old_model(2)
    blob = next(layer for layer in message.layer if layer.name == "ip").blobs[0]
    blob.num, blob.channels, blob.height, blob.width = 3, 36, 1, 1
    path = tmp_path / "old.caffemodel"
    path.write_bytes(message.SerializeToString())
    with pytest.raises(WeightsError, match=r'layer "ip", weight 0: shape \(3, 36, 1, 1\) in the file, \(3, 36\)'):
        Net.from_text(NET, weights=path)


@pytest.mark.parametrize("name", ["m.caffemodel", "m.caffemodel.h5"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("num_output: 4", "num_output: 6"),
            r'layer "conv", weight 0: shape \(4, 1, 3, 3\) in the file',
        ),
        (
            ("kernel_size: 3", "kernel_size: 3 bias_term: false"),
            r'layer "conv" has 2 weight blob\(s\)',
        ),
    ],
)
def test_weights_that_do_not_fit_name_file_and_layer(
    tmp_path: Path, name: str, change: tuple[str, str], message: str
) -> None:
    """Wrong shapes and numbers are refused, and the net keeps the weights it had."""
    path = tmp_path / name
    Net.from_text(NET, seed=1).save(path)
    net = Net.from_text(NET.replace(*change), seed=2)
    before = net.to_blobs(net.params)["ip"][0]
    with pytest.raises(WeightsError, match=message) as caught:
        net.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    np.testing.assert_array_equal(net.to_blobs(net.params)["ip"][0], before)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.caffemodel", b"", "holds no layers; is it a caffemodel"),
        ("m.caffemodel", b'name: "n" layer { name: "a" }', "looks like a text file"),
        ("m.caffemodel", b"\x89HDF\r\n\x1a\n" + bytes(64), "HDF5"),
        ("m.caffemodel.h5", b"no hdf5", "is no HDF5 file"),
        ("m.caffemodel.h5", b"\x89HDF\r\n\x1a\n" + bytes(64), "is no HDF5 file"),
    ],
)
def test_files_that_are_no_weights_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    """Empty, text, damaged, or the other format: the file is named."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CosdaskError, match=message) as caught:
        Net.from_text(NET, weights=path)
    assert str(path) in str(caught.value)


def _claim_too_much(file: h5py.File) -> None:
    del file["data/ip/0"]
    file["data/ip"].create_dataset("0", shape=(1 << 33,), dtype="f4", chunks=(1 << 20,))


def _numbers_for_a_group(file: h5py.File, name: str) -> None:
    del file[name]
    file[name] = np.zeros(3, np.float32)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_claim_too_much, "claims shape"),
        (lambda file: _numbers_for_a_group(file, "data"), 'has no group "data"'),
        (lambda file: _numbers_for_a_group(file, "data/ip"), 'layer "ip" is no group'),
        (lambda file: file["data/ip"].move("0", "w"), 'has no numbers "0"; it holds 1, w'),
    ],
    ids=["too-large", "no-group", "no-layer", "no-weight"],
)
def test_damaged_hdf5_weights_are_refused(tmp_path: Path, damage: Callable[[h5py.File], None], message: str) -> None:
    """Invariant 10: the file is named, and no memory is taken for what it only claims to hold."""
    path = tmp_path / "m.caffemodel.h5"
    Net.from_text(NET, seed=1).save(path)
    with h5py.File(path, "a") as file:
        damage(file)
    with pytest.raises(WeightsError, match=message) as caught:
        Net.from_text(NET, weights=path)
    assert str(path) in str(caught.value)


def test_a_missing_weights_file_is_named_with_its_neighbors(tmp_path: Path) -> None:
    """A misspelled name."""
    Net.from_text(NET, seed=1).save(tmp_path / "lenet.caffemodel")
    with pytest.raises(CosdaskError, match=r"lenett\.caffemodel.*lenet\.caffemodel"):
        Net.from_text(NET, weights=tmp_path / "lenett.caffemodel")


def test_a_name_used_twice_is_saved_twice(tmp_path: Path) -> None:
    """Caffe allows two layers of one name; each keeps its own weights in the file, and the first is loaded."""
    text = NET.replace('name: "twin"', 'name: "ip"')
    net = Net.from_text(text, seed=1)
    net.save(tmp_path / "m.caffemodel")
    message = read_binary(tmp_path / "m.caffemodel", caffe_pb2.NetParameter())
    first, second = (layer for layer in message.layer if layer.name == "ip")
    blobs = net.to_blobs(net.params)
    np.testing.assert_array_equal(blob_to_array(first.blobs[0]), blobs["ip"][0])
    np.testing.assert_array_equal(blob_to_array(second.blobs[0]), blobs["ip#2"][0])
    with pytest.raises(WeightsError, match='layer name "ip" is used twice'):
        net.save(tmp_path / "m.caffemodel.h5")


# -- fillers ---------------------------------------------------------------------------------------------------------

BIG = (64, 50, 5, 5)


@pytest.mark.parametrize(
    ("text", "mean", "std", "low", "high"),
    [
        ('type: "constant" value: 0.3', 0.3, 0, 0.3, 0.3),
        ('type: "uniform" min: -1 max: 3', 1, 4 / 12**0.5, -1, 3),
        ('type: "gaussian" mean: 2 std: 0.5', 2, 0.5, -1, 5),
        ('type: "xavier"', 0, (1 / 1250) ** 0.5, -((3 / 1250) ** 0.5), (3 / 1250) ** 0.5),
        ('type: "xavier" variance_norm: FAN_OUT', 0, (1 / 1600) ** 0.5, -((3 / 1600) ** 0.5), (3 / 1600) ** 0.5),
        ('type: "xavier" variance_norm: AVERAGE', 0, (1 / 1425) ** 0.5, -((3 / 1425) ** 0.5), (3 / 1425) ** 0.5),
        ('type: "msra"', 0, (2 / 1250) ** 0.5, -0.3, 0.3),
        ('type: "gaussian" std: 1 sparse: 16', 0, 0.5, -6, 6),
    ],
)
def test_fillers_draw_from_caffes_distributions(text: str, mean: float, std: float, low: float, high: float) -> None:
    """Mean, standard deviation and bounds over 80,000 values; fan-in is all of a blob but its first axis."""
    from google.protobuf import text_format

    values = fill(text_format.Parse(text, caffe_pb2.FillerParameter()), BIG, np.random.default_rng(0))
    assert values.dtype == np.float32
    assert values.shape == BIG
    assert values.mean() == pytest.approx(mean, abs=4 * std / 80_000**0.5 + 1e-6)
    assert values.std() == pytest.approx(std, rel=0.02, abs=1e-6)
    assert low - 1e-6 <= values.min() <= values.max() <= high + 1e-6


def test_positive_unitball_rows_sum_to_one() -> None:
    """Each output's weights are positive and sum to 1."""
    values = fill(caffe_pb2.FillerParameter(type="positive_unitball"), (4, 3, 2, 2), np.random.default_rng(0))
    assert values.min() >= 0
    np.testing.assert_allclose(values.reshape(4, -1).sum(1), 1, rtol=1e-5)


def test_bilinear_upsamples() -> None:
    """The kernel of factor 2: outer product of (0.25, 0.75, 0.75, 0.25)."""
    line = np.array([0.25, 0.75, 0.75, 0.25], np.float32)
    values = fill(caffe_pb2.FillerParameter(type="bilinear"), (2, 1, 4, 4), None)
    np.testing.assert_allclose(values[1, 0], np.outer(line, line))


def test_unknown_fillers_are_refused_with_the_nearest_name() -> None:
    """A misspelled type, found when the net is built."""
    with pytest.raises(NetError, match=r'layer "conv" .*unknown filler type "xaver"\. Did you mean "xavier"'):
        Net.from_text(NET.replace('"xavier"', '"xaver"'))


#: loads a caffemodel of 100 MB in a process of its own, whose peak of memory is then the load's
LARGE = """
import json, os, sys, time
from pathlib import Path
import jax
from cosdask import Net

def peak():
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024

text = 'input: "x" input_shape { dim: 1 dim: 5000 } layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" '
net = Net.from_text(text + "inner_product_param { num_output: 5000 } }", seed=1)
net.save(sys.argv[1])
jax.block_until_ready(net.params)
start = time.process_time()
Path(sys.argv[1]).read_bytes()
read = time.process_time()
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = peak()
net.load(sys.argv[1])
jax.block_until_ready(net.params)
loaded = time.process_time()
more = loaded - read - (read - start)
print(json.dumps({"bytes": os.path.getsize(sys.argv[1]), "peak": peak() - before, "seconds": more}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read from Linux's /proc")
def test_a_large_caffemodel_loads_in_little_time_and_memory(tmp_path: Path) -> None:
    """100 MB: under 3 times its size at most, and under a second of the processor more than reading the file takes."""
    command = [sys.executable, "-c", LARGE, str(tmp_path / "large.caffemodel")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["bytes"] > 95e6
    assert found["bytes"] < found["peak"] < 3 * found["bytes"]
    assert found["seconds"] < 1
