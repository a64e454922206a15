"""V1 nets (``layers { type: CONVOLUTION blobs_lr: 1 }``) to today's (``layer { type: "Convolution" }``)."""

from __future__ import annotations

from cosdask.errors import ProtoError
from cosdask.proto import caffe_pb2

_V1 = caffe_pb2.V1LayerParameter

# V1's numbers to today's names. NONE, the type of a layer without one, has no name.
TYPES = {
    _V1.NONE: "",
    _V1.ABSVAL: "AbsVal",
    _V1.ACCURACY: "Accuracy",
    _V1.ARGMAX: "ArgMax",
    _V1.BNLL: "BNLL",
    _V1.CONCAT: "Concat",
    _V1.CONTRASTIVE_LOSS: "ContrastiveLoss",
    _V1.CONVOLUTION: "Convolution",
    _V1.DATA: "Data",
    _V1.DECONVOLUTION: "Deconvolution",
    _V1.DROPOUT: "Dropout",
    _V1.DUMMY_DATA: "DummyData",
    _V1.ELTWISE: "Eltwise",
    _V1.EUCLIDEAN_LOSS: "EuclideanLoss",
    _V1.EXP: "Exp",
    _V1.FLATTEN: "Flatten",
    _V1.HDF5_DATA: "HDF5Data",
    _V1.HDF5_OUTPUT: "HDF5Output",
    _V1.HINGE_LOSS: "HingeLoss",
    _V1.IM2COL: "Im2col",
    _V1.IMAGE_DATA: "ImageData",
    _V1.INFOGAIN_LOSS: "InfogainLoss",
    _V1.INNER_PRODUCT: "InnerProduct",
    _V1.LRN: "LRN",
    _V1.MEMORY_DATA: "MemoryData",
    _V1.MULTINOMIAL_LOGISTIC_LOSS: "MultinomialLogisticLoss",
    _V1.MVN: "MVN",
    _V1.POOLING: "Pooling",
    _V1.POWER: "Power",
    _V1.RELU: "ReLU",
    _V1.SIGMOID: "Sigmoid",
    _V1.SIGMOID_CROSS_ENTROPY_LOSS: "SigmoidCrossEntropyLoss",
    _V1.SILENCE: "Silence",
    _V1.SLICE: "Slice",
    _V1.SOFTMAX: "Softmax",
    _V1.SOFTMAX_LOSS: "SoftmaxWithLoss",
    _V1.SPLIT: "Split",
    _V1.TANH: "TanH",
    _V1.THRESHOLD: "Threshold",
    _V1.WINDOW_DATA: "WindowData",
}

# Fields of the same name and type in both generations: everything but the type, the per-weight settings and V0's layer.
_SAME = sorted(
    {field.name for field in _V1.DESCRIPTOR.fields}
    - {"type", "param", "blob_share_mode", "blobs_lr", "weight_decay", "layer"}
)
_SHARE_MODES = {
    _V1.STRICT: caffe_pb2.ParamSpec.STRICT,
    _V1.PERMISSIVE: caffe_pb2.ParamSpec.PERMISSIVE,
}


def v1_to_v2(net: caffe_pb2.NetParameter) -> caffe_pb2.NetParameter:
    """A new net with each of ``layers`` as a ``layer``.

    Raises:
        ProtoError: the net has ``layer`` too.
    """
    if net.layer:
        raise ProtoError(
            f'the net has both "layers" (first: "{net.layers[0].name}") and "layer" (first: "{net.layer[0].name}"); '
            'write all of them as "layer"',
            layer=net.layer[0].name,
        )
    upgraded = caffe_pb2.NetParameter()
    upgraded.CopyFrom(net)
    del upgraded.layers[:]
    for old in net.layers:
        _upgrade_layer(old, upgraded.layer.add())
    return upgraded


def _upgrade_layer(old: caffe_pb2.V1LayerParameter, new: caffe_pb2.LayerParameter) -> None:
    for name in _SAME:
        value = getattr(old, name)
        if not old.DESCRIPTOR.fields_by_name[name].is_repeated:
            if old.HasField(name):
                _set(new, name, value)
        elif value:
            getattr(new, name).extend(value)
    if old.HasField("type"):
        new.type = TYPES[old.type]
    for position, name in enumerate(old.param):
        _spec(new, position).name = name
    for position, mode in enumerate(old.blob_share_mode):
        _spec(new, position).share_mode = _SHARE_MODES[mode]
    for position, rate in enumerate(old.blobs_lr):
        _spec(new, position).lr_mult = rate
    for position, decay in enumerate(old.weight_decay):
        _spec(new, position).decay_mult = decay


def _set(new: caffe_pb2.LayerParameter, name: str, value: object) -> None:
    if new.DESCRIPTOR.fields_by_name[name].message_type is None:
        setattr(new, name, value)
    else:
        getattr(new, name).CopyFrom(value)


def _spec(layer: caffe_pb2.LayerParameter, position: int) -> caffe_pb2.ParamSpec:
    """The settings of the layer's weight number ``position``, with empty ones put in before it where missing."""
    while len(layer.param) <= position:
        layer.param.add()
    return layer.param[position]
