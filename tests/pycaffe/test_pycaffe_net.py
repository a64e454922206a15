"""``caffe.Net``: real Caffe's numbers, blobs that may be written to, passes that begin and end anywhere."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

import cosdask.pycaffe as caffe
from cosdask.errors import DataError, NetError, WeightsError
from cosdask.proto import parse_net

#: one case for each way in which blobs, weights and gradients are tied together
GOLDEN = [
    "Net__inplace_branch",
    "Net__shared_params",
    "BatchNorm__train",
    "Convolution__group2",
    "LSTM__basic",
    "SoftmaxWithLoss__ignore_valid",
    "ContrastiveLoss",
]

CHAIN = """
name: "chain"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "squash" type: "Sigmoid" bottom: "ip1" top: "ip1" }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "prob" type: "Softmax" bottom: "ip2" top: "prob" }
"""

X = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)


def make(text: str = CHAIN, phase: int = caffe.TEST) -> caffe.Net:
    caffe.set_random_seed(7)
    return caffe.Net(parse_net(text), phase)


def assert_close(actual: np.ndarray, wanted: np.ndarray, name: str = "") -> None:
    np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("case", GOLDEN)
def test_blobs_and_gradients_are_caffes(case: str, golden: Path) -> None:
    """Invariant 1 through blobs: what Caffe left in ``data`` and ``diff`` of blobs and weights."""
    found = sorted((golden / "layers").glob(f"{case}*.npz"))
    with np.load(found[0], allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    net = caffe.Net(parse_net(str(arrays["prototxt"])), str(arrays["phase"]))
    for key, array in arrays.items():
        kind, _, name = key.partition("/")
        if kind == "in":
            net.blobs[name].data[...] = array
        elif kind == "param":
            layer, position = name.split("/")
            net.params[layer][int(position)].data[...] = array
    net.forward()
    for key, array in arrays.items():
        if key.startswith("outdiff/"):
            net.blobs[key[8:]].diff[...] = array
    net.backward()
    checked = set()
    for key, array in arrays.items():
        kind, _, name = key.partition("/")
        layer, _, position = name.rpartition("/")
        if kind in ("out", "indiff"):
            assert_close(net.blobs[name].data if kind == "out" else net.blobs[name].diff, array, key)
        elif kind in ("after", "paramdiff"):
            blob = net.params[layer][int(position)]
            assert_close(blob.data if kind == "after" else blob.diff, array, key)
        else:
            continue
        checked.add(kind)
    assert {"out", "paramdiff"} <= checked or {"out", "indiff"} <= checked


def test_what_is_written_counts_and_what_is_held_follows() -> None:
    """Net surgery: a write to ``data`` counts in the next forward, also later, and held arrays show new values."""
    net = make()
    weight, bias = (blob.data for blob in net.params["ip2"])
    prob = net.forward(data=X)["prob"]
    before = prob.copy()
    weight[...] = 0
    bias[:] = [0, 1, 0, 0, 0]
    net.forward()
    assert prob.argmax(1).tolist() == [1, 1] and not np.allclose(prob, before)
    bias[:] = [0, 0, 0, 9, 0]  # long after it was handed out, and after a forward pass has read it
    net.forward()
    assert prob.argmax(1).tolist() == [3, 3]
    net.params["ip2"][1].data[3] = 0
    assert_close(net.forward()["prob"], np.full((2, 5), 0.2))


def test_forward_from_and_to_any_layer_takes_up_what_blobs_hold() -> None:
    """``start`` goes on with the blob's contents; ``end`` stops there and returns its tops."""
    net = make()
    assert list(net.forward(data=X, end="ip1")) == ["ip1"]
    linear = net.blobs["ip1"].data.copy()
    assert not net.blobs["prob"].data.any()
    net.blobs["ip1"].data[...] = 0
    hidden = net.forward(start="squash", end="squash")["ip1"]
    assert_close(hidden, np.full((2, 4), 0.5))
    found = net.forward(start="ip2", blobs=["ip2"])
    wanted = 0.5 * net.params["ip2"][0].data.sum(1) + net.params["ip2"][1].data
    assert_close(found["ip2"], np.stack([wanted, wanted]))
    whole = net.forward(data=X, blobs=["ip1"])
    assert_close(whole["ip1"], 1 / (1 + np.exp(-linear)))


def test_backward_from_any_blob_and_in_place() -> None:
    """``backward(start=...)`` begins with the diff of an inner blob; values replaced in place do not disturb it."""
    net = make()
    net.forward(data=X)
    net.blobs["ip2"].diff[...] = 0
    net.blobs["ip2"].diff[0, 2] = 1
    grads = net.backward(start="ip2", diffs=["ip1"])
    w1, w2 = net.params["ip1"][0].data, net.params["ip2"][0].data
    hidden = net.blobs["ip1"].data
    linear_diff = np.zeros((2, 4), np.float32)
    linear_diff[0] = w2[2] * hidden[0] * (1 - hidden[0])
    assert_close(grads["ip1"], linear_diff)
    assert_close(grads["data"], linear_diff @ w1)
    assert_close(net.params["ip1"][0].diff, linear_diff.T @ X)
    # down to a layer, and no further: what lies below keeps what it had
    net.blobs["data"].diff[...] = 3
    found = net.backward(start="ip2", end="squash")
    assert list(found) == ["ip1"] and (net.blobs["data"].diff == 3).all()
    assert_close(found["ip1"], linear_diff)


def test_weight_gradients_add_up_until_cleared() -> None:
    """Caffe's rule for ``params[...].diff``, which users who call backward themselves rely on."""
    net = make()
    net.forward(data=X)
    top = np.eye(2, 5, dtype=np.float32)
    net.backward(prob=top)
    once = net.params["ip2"][0].diff.copy()
    net.backward(prob=top)
    assert once.any()
    assert_close(net.params["ip2"][0].diff, 2 * once)
    net.clear_param_diffs()
    assert not net.params["ip2"][0].diff.any()
    assert_close(net.params["ip2"][0].diff, 0 * once)


def test_dropout_goes_back_by_the_mask_of_its_last_forward() -> None:
    """A random layer's backward belongs to its own forward, also when it works in place."""
    net = make(CHAIN.replace('"Sigmoid"', '"Dropout"'), caffe.TRAIN)
    net.forward(data=X)
    first = net.blobs["ip1"].data.copy()
    net.blobs["ip2"].diff[...] = 1
    net.backward(start="ip2")
    mask = net.blobs["ip1"].data != 0
    assert_close(net.blobs["ip1"].diff, 2 * mask * net.params["ip2"][0].data.sum(0))
    net.forward()
    assert not np.array_equal(net.blobs["ip1"].data, first), "each pass draws anew"


def test_blobs_layers_and_names_are_listed_as_in_caffe() -> None:
    """Order and kind of ``blobs``, ``params``, ``layers``; Split layers stand where Caffe puts them."""
    text = CHAIN + 'layer { name: "top" type: "ArgMax" bottom: "ip2" top: "top" }'
    net = make(text)
    split = "ip2_ip2_0_split"
    assert list(net.blobs) == ["data", "ip1", "ip2", f"{split}_0", f"{split}_1", "prob", "top"]
    assert list(net._layer_names) == ["data", "ip1", "squash", "ip2", split, "prob", "top"]
    assert [layer.type for layer in net.layers][:3] == ["Input", "InnerProduct", "Sigmoid"]
    assert [blob.shape for blob in net.params["ip1"]] == [(4, 3), (4,)] == [b.shape for b in net.layers[1].blobs]
    assert net.inputs == ["data"] and net.outputs == ["prob", "top"]
    assert net.top_names["squash"] == ["ip1"] == net.bottom_names["squash"]
    assert net.layer_dict["prob"].type == "Softmax"
    blob = net.blobs["data"]
    assert (blob.num, blob.channels, blob.height, blob.width, blob.count) == (2, 3, 1, 1, 6)
    assert net.blobs["data"].data.dtype == np.float32 == net.params["ip1"][0].diff.dtype


def test_reshape_follows_the_inputs_and_each_shape_compiles_once() -> None:
    """Another batch size by ``reshape``; going back to a shape, or other values, compile nothing."""
    net = make()
    one = net.forward(data=X)["prob"].copy()
    net.blobs["data"].reshape(5, 3)
    net.reshape()
    assert net.blobs["prob"].shape == (5, 5) and net.blobs["prob"].diff.shape == (5, 5)
    net.blobs["data"].data[:2] = X
    assert_close(net.forward()["prob"][:2], one)
    net.blobs["data"].reshape(2, 3)
    assert_close(net.forward(data=X)["prob"], one)
    net.forward(data=2 * X)
    (_, built) = net._runs._spans["forward", 0, 4]
    assert sorted(shapes[0] for shapes in built) == [(2, 3), (5, 3)]
    assert [span._function._cache_size() for span in built.values()] == [1, 1]


def test_forward_all_takes_any_number_of_rows() -> None:
    """Rows are cut into the net's batches; the filled-up rest does not come back."""
    net = make()
    rows = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    found = net.forward_all(data=rows, blobs=["ip2"])
    assert found["prob"].shape == (5, 5) == found["ip2"].shape
    assert_close(found["prob"][4], net.forward(data=np.stack([rows[4], rows[0]]))["prob"][0])
    tops = np.ones((5, 5), np.float32)
    values, grads = net.forward_backward_all(data=rows, prob=tops, diffs=["ip2"])
    assert values["prob"].shape == (5, 5) and grads["data"].shape == (5, 3) and grads["ip2"].shape == (5, 5)


@pytest.mark.parametrize("name", ["w.caffemodel", "w.caffemodel.h5"])
def test_weights_are_saved_loaded_and_shared(name: str, tmp_path: Path) -> None:
    """``save``, both constructors, ``copy_from`` and ``share_with`` bring weights over by layer name."""
    net, path, model = make(), str(tmp_path / name), str(tmp_path / "net.prototxt")
    Path(model).write_text(CHAIN)
    net.params["ip1"][0].data[...] = 0.25
    net.save(path)
    for other in (
        caffe.Net(model, path, caffe.TEST),
        caffe.Net(model, caffe.TEST, weights=path),
        caffe.Net(model, path, phase=1),
    ):
        assert (other.params["ip1"][0].data == 0.25).all()
        assert_close(other.forward(data=X)["prob"], net.forward(data=X)["prob"])
    held = other.params["ip1"][0].data
    held[...] = 5
    other.copy_from(path)
    assert (held == 0.25).all(), "an array that was handed out shows what was loaded"
    twin = caffe.Net(model, caffe.TEST)
    twin.share_with(net)
    net.params["ip1"][0].data[...] = -1
    assert (twin.params["ip1"][0].data == -1).all()
    assert_close(twin.forward(data=X)["prob"], net.forward(data=X)["prob"])
    if name.endswith(".h5"):
        twin.load_hdf5(path)
        assert (net.params["ip1"][0].data == 0.25).all()
    else:
        with pytest.raises(WeightsError, match=r"\.h5"):
            twin.save_hdf5(path)


def test_data_layers_read_their_files_in_forward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each forward takes the next batch, round and round; a span that begins after the data keeps the batch."""
    monkeypatch.chdir(tmp_path)
    with h5py.File("rows.h5", "w") as file:
        file["x"], file["y"] = np.arange(10, dtype=np.float32).reshape(5, 2), np.arange(5, dtype=np.float32)
    Path("list.txt").write_text("rows.h5\n")
    Path("net.prototxt").write_text(
        'layer { name: "in" type: "HDF5Data" top: "x" top: "y" hdf5_data_param { source: "list.txt" batch_size: 2 } }'
        'layer { name: "double" type: "Power" bottom: "x" top: "xx" power_param { scale: 2 } }'
    )
    net = caffe.Net("net.prototxt", caffe.TRAIN)
    assert net.inputs == [] and net.outputs == ["xx", "y"]
    seen = [net.forward()["y"].tolist() for _ in range(3)]
    assert seen == [[0, 1], [2, 3], [4, 0]]
    assert net.blobs["xx"].data.tolist() == [[16, 18], [0, 2]]
    net.forward(start="double")
    assert net.blobs["y"].data.tolist() == [4, 0]


def test_memory_data_takes_arrays() -> None:
    """``set_input_arrays`` feeds a MemoryData layer in batches, round and round; other sizes are refused."""
    net = make(
        'layer { name: "m" type: "MemoryData" top: "d" top: "l" '
        "memory_data_param { batch_size: 2 channels: 1 height: 2 width: 2 } }"
        'layer { name: "p" type: "Power" bottom: "d" top: "p" power_param { shift: 1 } }'
    )
    with pytest.raises(DataError, match="set_input_arrays"):
        net.forward()
    rows = np.arange(16, dtype=np.float32).reshape(4, 1, 2, 2)
    with pytest.raises(DataError, match="a multiple of 2 rows"):
        net.set_input_arrays(rows[:3], np.zeros(3))
    net.set_input_arrays(rows, np.arange(4))
    assert [net.forward()["p"][0, 0, 0, 0] for _ in range(3)] == [1, 9, 1]
    assert net.blobs["l"].data.ravel().tolist() == [0, 1]


def test_recurrent_state_goes_on_between_calls_and_backward_starts_where_forward_did() -> None:
    """A sequence fed in two halves gives the same as in one piece, and so do its gradients at the second half."""
    text = """
    layer { name: "x" type: "Input" top: "x" input_param { shape { dim: %d dim: 1 dim: 2 } } }
    layer { name: "c" type: "Input" top: "c" input_param { shape { dim: %d dim: 1 } } }
    layer { name: "rnn" type: "RNN" bottom: "x" bottom: "c" top: "h"
      recurrent_param { num_output: 2 weight_filler { type: "xavier" } bias_filler { type: "constant" } } }
    """
    whole, half = make(text % (4, 4)), make(text % (2, 2))
    half.share_with(whole)
    x = np.random.default_rng(1).standard_normal((4, 1, 2)).astype(np.float32)
    cont = np.array([0, 1, 1, 1], np.float32).reshape(4, 1)
    wanted = whole.forward(x=x, c=cont)["h"]
    parts = [half.forward(x=x[i : i + 2], c=cont[i : i + 2])["h"].copy() for i in (0, 2)]
    assert_close(np.concatenate(parts), wanted)
    top = np.zeros((4, 1, 2), np.float32)
    top[3] = 1
    assert_close(half.backward(h=top[2:])["x"], whole.backward(h=top)["x"][2:])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda net: net.forward(dta=X), "inputs are data"),
        (lambda net: net.forward(data=X[:1]), "reshape"),
        (lambda net: net.forward(data=np.zeros((2, 4))), r"\(2, 4\) does not fit \(2, 3\)"),
        (lambda net: net.forward(start="ip"), 'no layer "ip".* "ip1"'),
        (lambda net: net.forward(blobs=["pro"]), 'no blob "pro".*"prob"'),
        (lambda net: net.backward(ip2=X), "outputs are prob"),
        (lambda net: net.blobs["data"].reshape(0, 3), "sizes are 1 or more"),
        (lambda net: caffe.Net(parse_net(CHAIN)), "needs a phase"),
        (lambda net: caffe.Net(parse_net(CHAIN), 7), "phase 7"),
    ],
)
def test_mistakes_are_named(call: object, words: str) -> None:
    """Invariant 8: what was wrong, and the names that there are."""
    with pytest.raises(NetError, match=words):
        call(make())  # type: ignore[operator]
