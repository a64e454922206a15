"""Nets written in Python (issue 4, tools): what pycaffe's users write gives the prototxt that they expect."""

from __future__ import annotations

import pytest

import cosdask
from cosdask import layers as L
from cosdask import params as P
from cosdask.errors import NetError
from cosdask.proto import parse_net, to_text
from cosdask.proto.net_spec import to_proto

LENET = """
layer { name: "data" type: "MemoryData" top: "data" top: "label" include { phase: TRAIN }
  source_class: "com.yahoo.ml.caffe.LMDB"
  memory_data_param { source: "mnist_train_lmdb" batch_size: 64
    channels: 1 height: 28 width: 28 share_in_parallel: false }
  transform_param { scale: 0.00390625 } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  param { lr_mult: 1 } param { lr_mult: 2 }
  convolution_param { num_output: 20 kernel_size: 5 stride: 1 weight_filler { type: "xavier" } } }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
  pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "ip1" type: "InnerProduct" bottom: "pool1" top: "ip1" inner_product_param { num_output: 10 } }
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip1" bottom: "label" top: "loss" loss_param { ignore_label: 3 } }
layer { name: "Silence1" type: "Silence" bottom: "pool1" }
"""


def lenet() -> cosdask.NetSpec:
    n = cosdask.NetSpec()
    n.data, n.label = L.MemoryData(
        ntop=2,
        source_class="com.yahoo.ml.caffe.LMDB",
        memory_data_param=dict(
            source="mnist_train_lmdb", batch_size=64, channels=1, height=28, width=28, share_in_parallel=False
        ),
        include=dict(phase=0),
        transform_param=dict(scale=1 / 256),
    )
    n.conv1 = L.Convolution(
        n.data,
        num_output=20,
        kernel_size=5,
        stride=1,
        weight_filler=dict(type="xavier"),
        param=[dict(lr_mult=1), dict(lr_mult=2)],
    )
    n.pool1 = L.Pooling(n.conv1, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.ip1 = L.InnerProduct(n.pool1, num_output=10)
    n.relu1 = L.ReLU(n.ip1, in_place=True)
    n["loss"] = L.SoftmaxWithLoss(n.relu1, n.label, loss_param=dict(ignore_label=3))
    n.quiet = L.Silence(n.pool1, ntop=0)
    return n


def test_a_net_written_in_python_is_the_net_written_as_text() -> None:
    """NetworkDefinitionDemo: layer-level fields, nested messages, repeated fields, enum values, in-place layers."""
    message = lenet().to_proto()
    expected = parse_net(LENET)
    expected.layer[-1].name = "quiet"
    assert to_text(message) == to_text(expected)
    assert parse_net(str(message)) == expected


def test_blobs_without_a_name_are_numbered_by_type() -> None:
    """pycaffe: ``to_proto(top)`` names layers by their type, counted in the order in which they are written."""
    data = L.Input(input_param=dict(shape=dict(dim=[1, 2, 8, 8])))
    one, two = (
        L.Convolution(data, num_output=1, kernel_size=1),
        L.Convolution(data, num_output=1, kernel_size=[3, 3], pad=1),
    )
    message = to_proto(L.Eltwise(one, two, operation=P.Eltwise.MAX), L.Silence(two, ntop=0))
    assert [layer.name for layer in message.layer] == ["Input1", "Convolution1", "Convolution2", "Eltwise1", "Silence1"]
    assert message.layer[3].eltwise_param.operation == P.Eltwise.MAX
    assert cosdask.Net(message, input_shapes={"Input1": (1, 2, 3, 3)}).blob_shapes["Convolution1"] == (1, 1, 3, 3)


def test_a_spec_can_be_changed_before_it_is_written() -> None:
    """``update`` and ``del`` as in pycaffe; the second message has the changes, the first stays."""
    n = lenet()
    before = n.to_proto()
    n.update("ip1", dict(num_output=5, param=dict(name="shared")))
    del n.quiet
    after = n.to_proto()
    assert after.layer[3].inner_product_param.num_output == 5
    assert after.layer[3].param[0].name == "shared"
    assert len(after.layer) == len(before.layer) - 1


def test_nets_may_be_deep() -> None:
    """A chain of thousands of layers needs no deep recursion."""
    top = L.Input(shape=dict(dim=[1]))
    for _ in range(3000):
        top = L.ReLU(top)
    assert len(top.to_proto().layer) == 3001


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (
            lambda n: L.Convolution(n.ip1, num_outputs=3).to_proto(),
            r'no field "num_outputs". Did you mean "num_output"',
        ),
        (lambda n: L.Convolution(n.ip1, num_output="x").to_proto(), r"\(Convolution\): num_output cannot be 'x'"),
        (
            lambda n: L.Convolution(n.ip1, weight_filler=dict(tpye="x")).to_proto(),
            r'no field "tpye". Did you mean "type"',
        ),
        (lambda n: n.ip2, r'no blob "ip2" so far. Did you mean "ip1"'),
        (lambda n: L.ReLU(3), r"ReLU: input 0 is no top of a layer but a int"),
        (lambda n: L.ReLU(L.Split(n.ip1, ntop=2)), r"It has several tops: choose one"),
        (lambda n: setattr(n, "both", L.Split(n.ip1, ntop=2)), r"The call has 2 tops: give as many names"),
    ],
)
def test_mistakes_are_named(wrong: object, text: str) -> None:
    """A wrong field, value, blob or input is an error that says which, with the nearest name."""
    with pytest.raises(NetError, match=text):
        wrong(lenet())  # type: ignore[operator]
    assert not hasattr(lenet(), "nothing")
    with pytest.raises(AttributeError, match='Did you mean "Pooling"'):
        P.Poolin  # noqa: B018
