"""upgrade_net and upgrade_solver: files of every age, as Caffe's own upgrade makes them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from cosdask.errors import ProtoError
from cosdask.proto import (
    caffe_pb2,
    parse_net,
    parse_solver,
    parse_text,
    read_net,
    read_solver,
    upgrade_net,
    upgrade_solver,
)
from cosdask.proto.upgrade import v0, v1


def _v0(layers: str) -> caffe_pb2.NetParameter:
    return parse_net(f'input: "data" input_dim: [1, 3, 8, 8] {layers}')


@pytest.mark.parametrize("case", ["batchnorm_old", "v0", "v1", "v1_data_transform"])
def test_golden_nets(golden: Path, case: str) -> None:
    """Invariant 1: the message is equal to the one that Caffe's upgrade tool wrote."""
    wanted = (golden / "upgrade" / f"{case}.upgraded.prototxt").read_text()
    assert read_net(golden / "upgrade" / f"{case}.prototxt") == parse_text(wanted, caffe_pb2.NetParameter())


def test_golden_solver(golden: Path) -> None:
    """Invariant 1: the same for a solver."""
    wanted = (golden / "upgrade" / "solver_old.upgraded.prototxt").read_text()
    assert read_solver(golden / "upgrade" / "solver_old.prototxt") == parse_text(wanted, caffe_pb2.SolverParameter())


def test_upgrading_twice_changes_nothing_more(golden: Path) -> None:
    """A net may come through several doors; the message handed in stays as it is."""
    for file in sorted((golden / "upgrade").glob("*.prototxt")):
        if "solver" in file.name:
            continue
        old = parse_text(file.read_text(), caffe_pb2.NetParameter())
        before = old.SerializeToString(deterministic=True)
        once = upgrade_net(old)
        assert upgrade_net(once) == once
        assert old.SerializeToString(deterministic=True) == before


def test_every_v1_type_has_a_name() -> None:
    """No enum value may fall through; the names differ from each other."""
    assert set(v1.TYPES) == set(caffe_pb2.V1LayerParameter.LayerType.values())
    assert len(set(v1.TYPES.values())) == len(v1.TYPES)


def test_every_v0_field_has_a_place() -> None:
    """No field of V0's flat message may be forgotten; two of them no type of V0 ever read."""
    known = {*v0._FIELDS, *v0._LAYER_FIELDS, *v0._TRANSFORM_FIELDS, "type", "hdf5_output_param"}
    assert known | {"new_num", "new_channels"} == {field.name for field in caffe_pb2.V0LayerParameter.DESCRIPTOR.fields}


def test_v0_fields_of_data_layers() -> None:
    """Sources, batches and detection windows go to the layer's own message, pixels' treatment to transform_param."""
    net = parse_net(
        """layers { top: "a" layer { name: "i" type: "images" source: "l.txt" batchsize: 2 shuffle_images: true
                                  new_height: 9 new_width: 8 rand_skip: 3
                                  scale: 0.5 meanfile: "m" cropsize: 4 mirror: true } }
        layers { top: "b" layer { name: "w" type: "window_data" source: "w.txt" det_fg_threshold: 0.6
                                  det_bg_threshold: 0.4 det_fg_fraction: 0.2 det_context_pad: 1
                                  det_crop_mode: "square" } }
        layers { bottom: "a" layer { name: "h" type: "hdf5_output" hdf5_output_param { file_name: "o" } } }"""
    )
    images, windows, output = net.layer
    assert images.type == "ImageData"
    assert images.image_data_param == caffe_pb2.ImageDataParameter(
        source="l.txt", batch_size=2, shuffle=True, new_height=9, new_width=8, rand_skip=3
    )
    assert images.transform_param == caffe_pb2.TransformationParameter(
        scale=0.5, mean_file="m", crop_size=4, mirror=True
    )
    assert windows.window_data_param == caffe_pb2.WindowDataParameter(
        source="w.txt", fg_threshold=0.6, bg_threshold=0.4, fg_fraction=0.2, context_pad=1, crop_mode="square"
    )
    assert output.hdf5_output_param.file_name == "o"


def test_v0_pooling_takes_its_own_window() -> None:
    """Pad, kernel and stride are single values of pooling, and lists of convolution."""
    net = _v0(
        'layers { layer { name: "p" type: "pool" pool: AVE kernelsize: 3 stride: 2 pad: 1 } bottom: "data" top: "p" }'
    )
    assert net.layer[1].pooling_param == caffe_pb2.PoolingParameter(pool="AVE", kernel_size=3, stride=2, pad=1)


def test_weights_come_along() -> None:
    """Old caffemodels keep their blobs."""
    blob = caffe_pb2.BlobProto(num=1, channels=1, height=1, width=2, data=[1.0, 2.0])
    v0_layer = {"name": "c", "type": "conv", "blobs": [blob]}
    for layers in ([{"layer": v0_layer}], [{"name": "c", "type": "CONVOLUTION", "blobs": [blob]}]):
        upgraded = upgrade_net(caffe_pb2.NetParameter(layers=layers))
        assert upgraded.layer[0].type == "Convolution"
        assert list(upgraded.layer[0].blobs) == [blob]


def test_inputs_without_shapes_are_dropped() -> None:
    """As in a caffemodel written by a deploy net: there is nothing to make an Input layer of."""
    assert parse_net('input: "data" layer { name: "a" }') == parse_net('layer { name: "a" }')


def test_several_inputs_share_one_layer() -> None:
    """One Input layer makes all of them, with their shapes in order."""
    net = parse_net('input: "a" input: "b" input_dim: [1, 2, 3, 4, 5, 6, 7, 8]')
    assert list(net.layer[0].top) == ["a", "b"]
    assert [list(shape.dim) for shape in net.layer[0].input_param.shape] == [[1, 2, 3, 4], [5, 6, 7, 8]]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('input: "a" input_dim: [1, 2, 3]', "1 input but 3 input_dim"),
        ('input: "a" input: "b" input_shape { dim: 1 }', "2 input but 1 input_shape"),
        ('layer { name: "new" }\nlayers { name: "old" type: RELU }', 'net.prototxt:1: .*"old".*"new"'),
        (
            '\nlayers { layer { name: "c" type: "convv" } }',
            'net.prototxt:2: layer "c": there is no V0 type "convv".*"conv"',
        ),
        ('layers { layer { name: "c" type: "conv" } bottom: "dta" }', 'reads "dta", which no layer before it makes'),
    ],
)
def test_what_cannot_be_upgraded_is_said_with_file_and_line(text: str, sentence: str) -> None:
    """Invariant 8: the layer's line is in the message."""
    with pytest.raises(ProtoError, match=sentence):
        parse_net(text, "net.prototxt")


@pytest.mark.parametrize(
    ("padding", "reader", "sentence"),
    [
        ('bottom: "data" top: "p"', 'layer { name: "r" type: "relu" } bottom: "p"', 'only "conv" and "pool" layers'),
        ('bottom: "data" top: "p"', 'layer { name: "c" type: "conv" } bottom: "p" bottom: "data"', "1 bottom"),
        ('bottom: "data" top: "p" top: "q"', 'layer { name: "c" type: "conv" } bottom: "p"', "1 top"),
    ],
)
def test_padding_goes_into_one_convolution(padding: str, reader: str, sentence: str) -> None:
    """Caffe's checks on padding layers."""
    with pytest.raises(ProtoError, match=sentence):
        _v0(f'layers {{ layer {{ name: "p" type: "padding" pad: 2 }} {padding} }} layers {{ {reader} top: "y" }}')


@pytest.mark.parametrize("kind", ["conv", "pool"])
def test_padding_goes_into_convolutions_and_poolings(kind: str) -> None:
    """Caffe's UpgradeV0PaddingLayers: both types take it."""
    net = _v0(
        'layers { layer { name: "p" type: "padding" pad: 2 } bottom: "data" top: "p" } '
        f'layers {{ layer {{ name: "r" type: "{kind}" kernelsize: 3 }} bottom: "p" top: "y" }}'
    )
    reader = net.layer[1]
    assert reader.bottom == ["data"]
    assert (reader.convolution_param.pad or reader.pooling_param.pad) in ([2], 2)


def test_a_v0_field_that_the_type_does_not_know_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Caffe leaves it out and goes on, so do we; it is not silent."""
    with caplog.at_level(logging.WARNING, logger="cosdask"):
        net = _v0('layers { layer { name: "r" type: "relu" num_output: 3 } bottom: "data" top: "r" }')
    assert net.layer[1] == caffe_pb2.LayerParameter(name="r", type="ReLU", bottom=["data"], top=["r"])
    assert 'layer "r"' in caplog.text and "num_output" in caplog.text


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("SGD", "SGD"),
        ("NESTEROV", "Nesterov"),
        ("ADAGRAD", "AdaGrad"),
        ("RMSPROP", "RMSProp"),
        ("ADADELTA", "AdaDelta"),
        ("ADAM", "Adam"),
    ],
)
def test_solver_types(old: str, new: str) -> None:
    """Each enum value has its name, by name and by number."""
    number = caffe_pb2.SolverParameter.SolverType.Value(old)
    for text in (f"solver_type: {old}", f"solver_type: {number}"):
        assert parse_solver(text) == caffe_pb2.SolverParameter(type=new)


def test_solver_with_both_types_is_refused() -> None:
    """Caffe refuses it too."""
    with pytest.raises(ProtoError, match="both type"):
        parse_solver('type: "SGD" solver_type: SGD')


def test_nets_inside_a_solver_are_upgraded() -> None:
    """A consolidated solver holds its nets, which may be as old as any."""
    old = caffe_pb2.NetParameter(layers=[{"name": "r", "type": "RELU"}])
    solver = upgrade_solver(caffe_pb2.SolverParameter(net_param=old, train_net_param=old, test_net_param=[old, old]))
    for net in (solver.net_param, solver.train_net_param, *solver.test_net_param):
        assert net.layer[0].type == "ReLU" and not net.layers
