"""Old fields of a net, brought to where they are today; all functions work in place."""

from __future__ import annotations

from cosdask.errors import ProtoError
from cosdask.proto import caffe_pb2

_V1 = caffe_pb2.V1LayerParameter
_DATA_PARAMS = {_V1.DATA: "data_param", _V1.IMAGE_DATA: "image_data_param", _V1.WINDOW_DATA: "window_data_param"}
_TRANSFORMS = ("scale", "mean_file", "crop_size", "mirror")
_AXES = 4  # input_dim lists number, channels, height and width of one input after the other


def move_transforms(net: caffe_pb2.NetParameter) -> None:
    """Moves scale, mean, crop and mirror of V1 data layers to ``transform_param``."""
    for layer in net.layers:
        if layer.type not in _DATA_PARAMS or not layer.HasField(_DATA_PARAMS[layer.type]):
            continue
        data = getattr(layer, _DATA_PARAMS[layer.type])
        for name in _TRANSFORMS:
            if data.HasField(name):
                setattr(layer.transform_param, name, getattr(data, name))
                data.ClearField(name)


def replace_inputs(net: caffe_pb2.NetParameter) -> None:
    """Puts one Input layer, named "input", in place of the net's ``input`` fields.

    Without any shape (as in a caffemodel) the fields are only dropped.

    Raises:
        ProtoError: the shapes are not as many as the inputs.
    """
    if not net.input:
        return
    shapes = _input_shapes(net)
    if shapes:
        first = caffe_pb2.LayerParameter(name="input", type="Input", top=net.input, input_param={"shape": shapes})
        net.layer.insert(0, first)
    for field in ("input", "input_shape", "input_dim"):
        net.ClearField(field)


def _input_shapes(net: caffe_pb2.NetParameter) -> list[caffe_pb2.BlobShape]:
    count = len(net.input)
    if net.input_shape:
        if len(net.input_shape) != count:
            raise ProtoError(f"{count} input but {len(net.input_shape)} input_shape: give each input one shape")
        return list(net.input_shape)
    if len(net.input_dim) not in (0, _AXES * count):
        raise ProtoError(
            f"{count} input but {len(net.input_dim)} input_dim: give each input {_AXES} of them"
            " (number, channels, height, width), or an input_shape"
        )
    starts = range(0, len(net.input_dim), _AXES)
    return [caffe_pb2.BlobShape(dim=net.input_dim[start : start + _AXES]) for start in starts]


def stop_batch_norm_learning(net: caffe_pb2.NetParameter) -> None:
    """Fixes the three sums of BatchNorm layers that list them as parameters: the solver must leave them alone."""
    for layer in net.layer:
        if layer.type == "BatchNorm" and len(layer.param) == 3:
            for spec in layer.param:
                spec.lr_mult = spec.decay_mult = 0.0
