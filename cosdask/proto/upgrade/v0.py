"""V0 nets (``layers { layer { type: "conv" kernelsize: 5 } }``) to V1.

V0 kept the settings of all types in one flat message, and padding in layers of their own.
"""

from __future__ import annotations

import logging

from google.protobuf.message import Message

from cosdask.errors import ProtoError, did_you_mean
from cosdask.proto import caffe_pb2

_LOG = logging.getLogger(__name__)
_V1 = caffe_pb2.V1LayerParameter

TYPES = {
    "accuracy": _V1.ACCURACY,
    "bnll": _V1.BNLL,
    "concat": _V1.CONCAT,
    "conv": _V1.CONVOLUTION,
    "data": _V1.DATA,
    "dropout": _V1.DROPOUT,
    "euclidean_loss": _V1.EUCLIDEAN_LOSS,
    "flatten": _V1.FLATTEN,
    "hdf5_data": _V1.HDF5_DATA,
    "hdf5_output": _V1.HDF5_OUTPUT,
    "im2col": _V1.IM2COL,
    "images": _V1.IMAGE_DATA,
    "infogain_loss": _V1.INFOGAIN_LOSS,
    "innerproduct": _V1.INNER_PRODUCT,
    "lrn": _V1.LRN,
    "multinomial_logistic_loss": _V1.MULTINOMIAL_LOGISTIC_LOSS,
    "pool": _V1.POOLING,
    "relu": _V1.RELU,
    "sigmoid": _V1.SIGMOID,
    "softmax": _V1.SOFTMAX,
    "softmax_loss": _V1.SOFTMAX_LOSS,
    "split": _V1.SPLIT,
    "tanh": _V1.TANH,
    "window_data": _V1.WINDOW_DATA,
}

# Which message of V1 holds a type's settings.
_PARAMS = {
    "concat": "concat_param",
    "conv": "convolution_param",
    "data": "data_param",
    "dropout": "dropout_param",
    "hdf5_data": "hdf5_data_param",
    "images": "image_data_param",
    "infogain_loss": "infogain_loss_param",
    "innerproduct": "inner_product_param",
    "lrn": "lrn_param",
    "pool": "pooling_param",
    "window_data": "window_data_param",
}

_WEIGHTED = ("conv", "innerproduct")
_WINDOWED = ("conv", "pool")
_SOURCED = ("data", "hdf5_data", "images", "window_data", "infogain_loss")
_BATCHED = ("data", "hdf5_data", "images", "window_data")
_WINDOW_DATA = ("window_data",)

# V0's field: (its name in the type's own message, the types that know it).
_FIELDS = {
    "num_output": ("num_output", _WEIGHTED),
    "biasterm": ("bias_term", _WEIGHTED),
    "weight_filler": ("weight_filler", _WEIGHTED),
    "bias_filler": ("bias_filler", _WEIGHTED),
    "pad": ("pad", _WINDOWED),
    "kernelsize": ("kernel_size", _WINDOWED),
    "group": ("group", ("conv",)),
    "stride": ("stride", _WINDOWED),
    "pool": ("pool", ("pool",)),
    "dropout_ratio": ("dropout_ratio", ("dropout",)),
    "local_size": ("local_size", ("lrn",)),
    "alpha": ("alpha", ("lrn",)),
    "beta": ("beta", ("lrn",)),
    "k": ("k", ("lrn",)),
    "source": ("source", _SOURCED),
    "batchsize": ("batch_size", _BATCHED),
    "rand_skip": ("rand_skip", ("data", "images")),
    "shuffle_images": ("shuffle", ("images",)),
    "new_height": ("new_height", ("images",)),
    "new_width": ("new_width", ("images",)),
    "concat_dim": ("concat_dim", ("concat",)),
    "det_fg_threshold": ("fg_threshold", _WINDOW_DATA),
    "det_bg_threshold": ("bg_threshold", _WINDOW_DATA),
    "det_fg_fraction": ("fg_fraction", _WINDOW_DATA),
    "det_context_pad": ("context_pad", _WINDOW_DATA),
    "det_crop_mode": ("crop_mode", _WINDOW_DATA),
}

# V0's fields that any type may carry, and where they went: in V1's layer itself, and in its transform_param.
_LAYER_FIELDS = ("name", "blobs", "blobs_lr", "weight_decay")
_TRANSFORM_FIELDS = {"scale": "scale", "meanfile": "mean_file", "cropsize": "crop_size", "mirror": "mirror"}


def v0_to_v1(net: caffe_pb2.NetParameter) -> caffe_pb2.NetParameter:
    """A new net whose ``layers`` are all V1's; those that already were stay.

    Raises:
        ProtoError: an unknown type, or a padding layer that neither a convolution nor a pooling follows.
    """
    upgraded = fold_padding(net)
    for layer in upgraded.layers:
        if layer.HasField("layer"):
            _upgrade_layer(layer)
    return upgraded


def fold_padding(net: caffe_pb2.NetParameter) -> caffe_pb2.NetParameter:
    """A new V0 net without "padding" layers: their ``pad`` goes into the convolutions and poolings that read them.

    Raises:
        ProtoError: another type reads a padding layer, or either has more than one blob; a blob that no layer makes.
    """
    folded = caffe_pb2.NetParameter()
    folded.CopyFrom(net)
    del folded.layers[:]
    makers: dict[str, caffe_pb2.V1LayerParameter | None] = dict.fromkeys(net.input)
    for layer in net.layers:
        kept = caffe_pb2.V1LayerParameter()
        kept.CopyFrom(layer)
        for position, bottom in enumerate(layer.bottom):
            if bottom not in makers:
                near = did_you_mean(bottom, makers)
                raise _error(layer, f'it reads "{bottom}", which no layer before it makes.{near}')
            maker = makers[bottom]
            if maker is not None and maker.layer.type == "padding":
                _check_padding(maker, layer)
                kept.layer.pad = maker.layer.pad
                kept.bottom[position] = maker.bottom[0]
        if layer.layer.type != "padding":
            folded.layers.append(kept)
        makers.update(dict.fromkeys(layer.top, layer))
    return folded


def _check_padding(padding: caffe_pb2.V1LayerParameter, reader: caffe_pb2.V1LayerParameter) -> None:
    if reader.layer.type not in _WINDOWED:
        raise _error(reader, f'it reads padding layer "{padding.layer.name}", which only "conv" and "pool" layers can')
    if len(reader.bottom) != 1:
        raise _error(reader, f"it reads a padding layer and must have 1 bottom, not {len(reader.bottom)}")
    if len(padding.bottom) != 1 or len(padding.top) != 1:
        raise _error(padding, "a padding layer has 1 bottom and 1 top")


def _upgrade_layer(layer: caffe_pb2.V1LayerParameter) -> None:
    """Writes the settings of V0's inner layer where V1 has them, in place."""
    old = layer.layer
    if old.HasField("type"):
        if old.type not in TYPES:
            raise _error(layer, f'there is no V0 type "{old.type}".{did_you_mean(old.type, TYPES)}')
        layer.type = TYPES[old.type]
    for field, value in old.ListFields():
        _move(layer, field.name, value)
    layer.ClearField("layer")


def _move(layer: caffe_pb2.V1LayerParameter, name: str, value: object) -> None:
    kind = layer.layer.type
    if name == "type":
        return
    if name in _LAYER_FIELDS:
        _store(layer, name, value)
    elif name in _TRANSFORM_FIELDS:
        _store(layer.transform_param, _TRANSFORM_FIELDS[name], value)
    elif name == "hdf5_output_param" and kind == "hdf5_output":
        layer.hdf5_output_param.CopyFrom(layer.layer.hdf5_output_param)
    elif name in _FIELDS and kind in _FIELDS[name][1]:
        _store(getattr(layer, _PARAMS[kind]), _FIELDS[name][0], value)
    else:
        _LOG.warning('layer "%s": V0 type "%s" has no use for %s; left out, as in Caffe', layer.layer.name, kind, name)


def _store(message: Message, name: str, value: object) -> None:
    """Sets, copies or (where the newer field is repeated) appends a value."""
    field = message.DESCRIPTOR.fields_by_name[name]
    if field.is_repeated:
        values = getattr(message, name)
        values.extend([value] if isinstance(value, int) else value)
    elif field.message_type is not None:
        getattr(message, name).CopyFrom(value)
    else:
        setattr(message, name, value)


def _error(layer: caffe_pb2.V1LayerParameter, what: str) -> ProtoError:
    return ProtoError(f'layer "{layer.layer.name}": {what}', layer=layer.layer.name)
