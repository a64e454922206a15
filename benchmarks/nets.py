"""GoogLeNet, ResNet-50 and LRCN as Caffe nets, written in Python: their TRAIN nets, without data layers' sources.

Architectures: Szegedy et al., 2015 (arXiv:1409.4842), with both auxiliary classifiers; He et al., 2016
(arXiv:1512.03385), the 50-layer net with bottlenecks and a BatchNorm and Scale after each convolution; Donahue et al.,
2015 (arXiv:1411.4389), the factored variant with two LSTMs over CaffeNet, whose convolutions stay as they are.
"""

from __future__ import annotations

from typing import Any

from cosdask.proto import caffe_pb2
from cosdask.proto.net_spec import NetSpec
from cosdask.proto.net_spec import layers as L

_XAVIER = {"type": "xavier"}
_MSRA = {"type": "msra"}
_NEAR_ZERO = {"type": "uniform", "min": -0.08, "max": 0.08}
#: LRCN: words of a sentence, classes, units
WORDS, CLASSES, _UNITS = 21, 8801, 1000
#: outputs of each inception module: 1x1; 3x3's reduction and 3x3; 5x5's reduction and 5x5; the pool's projection
_INCEPTIONS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
DATA_FRAME = "com.yahoo.ml.caffe.DataFrameSource"
#: blocks of each stage and their inner width
_STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))


def _data(net: NetSpec, batch: int, size: int) -> None:
    net.data, net.label = L.MemoryData(
        ntop=2,
        source_class="com.yahoo.ml.caffe.LMDB",
        memory_data_param={"batch_size": batch, "channels": 3, "height": size, "width": size},
    )


def googlenet(batch: int) -> caffe_pb2.NetParameter:
    """GoogLeNet on 224x224 images, with its three losses."""
    net = NetSpec()
    _data(net, batch, 224)

    def conv(name: str, bottom: Any, outputs: int, kernel: int, stride: int = 1) -> Any:
        net[name] = L.Convolution(
            bottom, num_output=outputs, kernel_size=kernel, stride=stride, pad=kernel // 2, weight_filler=_XAVIER
        )
        net[f"{name}_relu"] = L.ReLU(net[name], in_place=True)
        return net[f"{name}_relu"]

    def pool(name: str, bottom: Any, stride: int = 2, pad: int = 0) -> Any:
        net[name] = L.Pooling(bottom, pool=0, kernel_size=3, stride=stride, pad=pad)
        return net[name]

    def inception(name: str, bottom: Any) -> Any:
        one, low3, three, low5, five, projection = _INCEPTIONS[name]
        branches = [
            conv(f"{name}_1x1", bottom, one, 1),
            conv(f"{name}_3x3", conv(f"{name}_3x3_reduce", bottom, low3, 1), three, 3),
            conv(f"{name}_5x5", conv(f"{name}_5x5_reduce", bottom, low5, 1), five, 5),
            conv(f"{name}_proj", pool(f"{name}_pool", bottom, stride=1, pad=1), projection, 1),
        ]
        net[name] = L.Concat(*branches)
        return net[name]

    def auxiliary(name: str, bottom: Any) -> None:
        net[f"{name}_pool"] = L.Pooling(bottom, pool=1, kernel_size=5, stride=3)
        low = conv(f"{name}_conv", net[f"{name}_pool"], 128, 1)
        net[f"{name}_fc"] = L.InnerProduct(low, num_output=1024, weight_filler=_XAVIER)
        net[f"{name}_fc_relu"] = L.ReLU(net[f"{name}_fc"], in_place=True)
        net[f"{name}_drop"] = L.Dropout(net[f"{name}_fc_relu"], dropout_ratio=0.7, in_place=True)
        net[f"{name}_classes"] = L.InnerProduct(net[f"{name}_drop"], num_output=1000, weight_filler=_XAVIER)
        net[name] = L.SoftmaxWithLoss(net[f"{name}_classes"], net.label, loss_weight=0.3)

    net.norm1 = L.LRN(pool("pool1", conv("conv1", net.data, 64, 7, 2)), local_size=5, alpha=1e-4, beta=0.75)
    net.norm2 = L.LRN(
        conv("conv2", conv("conv2_reduce", net.norm1, 64, 1), 192, 3), local_size=5, alpha=1e-4, beta=0.75
    )
    top = pool("pool3", inception("3b", inception("3a", pool("pool2", net.norm2))))
    top = inception("4a", top)
    auxiliary("loss1", top)
    top = inception("4d", inception("4c", inception("4b", top)))
    auxiliary("loss2", top)
    top = inception("5b", inception("5a", pool("pool4", inception("4e", top))))
    net.pool5 = L.Pooling(top, pool=1, global_pooling=True)
    net.drop5 = L.Dropout(net.pool5, dropout_ratio=0.4, in_place=True)
    net.classes = L.InnerProduct(net.drop5, num_output=1000, weight_filler=_XAVIER)
    net.loss = L.SoftmaxWithLoss(net.classes, net.label)
    return net.to_proto()


def resnet50(batch: int) -> caffe_pb2.NetParameter:
    """ResNet-50 on 224x224 images."""
    net = NetSpec()
    _data(net, batch, 224)

    def conv(name: str, bottom: Any, outputs: int, kernel: int, stride: int = 1, relu: bool = True) -> Any:
        net[name] = L.Convolution(
            bottom,
            num_output=outputs,
            kernel_size=kernel,
            stride=stride,
            pad=kernel // 2,
            bias_term=False,
            weight_filler=_MSRA,
        )
        net[f"{name}_bn"] = L.BatchNorm(net[name], in_place=True)
        net[f"{name}_scale"] = L.Scale(net[f"{name}_bn"], bias_term=True, in_place=True)
        if relu:
            net[f"{name}_relu"] = L.ReLU(net[f"{name}_scale"], in_place=True)
            return net[f"{name}_relu"]
        return net[f"{name}_scale"]

    def bottleneck(name: str, bottom: Any, width: int, stride: int, first: bool) -> Any:
        short = conv(f"{name}_short", bottom, 4 * width, 1, stride, relu=False) if first else bottom
        inner = conv(f"{name}_b", conv(f"{name}_a", bottom, width, 1, stride), width, 3)
        net[name] = L.Eltwise(short, conv(f"{name}_c", inner, 4 * width, 1, relu=False))
        net[f"{name}_relu"] = L.ReLU(net[name], in_place=True)
        return net[f"{name}_relu"]

    net.pool1 = L.Pooling(conv("conv1", net.data, 64, 7, 2), pool=0, kernel_size=3, stride=2)
    top: Any = net.pool1
    for stage, (blocks, width) in enumerate(_STAGES, start=2):
        for block in range(blocks):
            stride = 2 if block == 0 and stage > 2 else 1
            top = bottleneck(f"res{stage}_{block}", top, width, stride, first=block == 0)
    net.pool5 = L.Pooling(top, pool=1, global_pooling=True)
    net.classes = L.InnerProduct(net.pool5, num_output=1000, weight_filler=_MSRA)
    net.loss = L.SoftmaxWithLoss(net.classes, net.label)
    return net.to_proto()


def lrcn(batch: int) -> caffe_pb2.NetParameter:
    """LRCN on 227x227 images and sentences of 21 words: the layers that CaffeOnSpark's solver chooses."""
    net = NetSpec()
    image = {"name": "data", "type": "ENCODED_IMAGE", "channels": 3, "height": 256, "width": 256}
    image |= {"out_channels": 3, "out_height": 227, "out_width": 227}
    image["transform_param"] = {"crop_size": 227, "mean_value": [104, 117, 123]}
    words = {"type": "INT_ARRAY", "channels": WORDS, "sample_num_axes": 1, "transpose": True}
    names = ("cont_sentence", "input_sentence", "target_sentence")
    tops = [image, *({"name": name, **words} for name in names)]
    net.data, net.cont_sentence, net.input_sentence, net.target_sentence = L.CoSData(
        ntop=4, source_class=DATA_FRAME, cos_data_param={"batch_size": batch, "top": tops}
    )

    def conv(name: str, bottom: Any, outputs: int, kernel: int, stride: int = 1, group: int = 1) -> Any:
        net[name] = L.Convolution(
            bottom,
            num_output=outputs,
            kernel_size=kernel,
            stride=stride,
            pad=0 if stride > 1 else kernel // 2,
            group=group,
            weight_filler=_XAVIER,
            param=[{"lr_mult": 0}, {"lr_mult": 0}],
        )
        net[f"{name}_relu"] = L.ReLU(net[name], in_place=True)
        return net[f"{name}_relu"]

    def pool(name: str, bottom: Any) -> Any:
        net[name] = L.Pooling(bottom, pool=0, kernel_size=3, stride=2)
        return net[name]

    def full(name: str, bottom: Any, outputs: int, multiplier: float) -> Any:
        net[name] = L.InnerProduct(
            bottom, num_output=outputs, weight_filler=_XAVIER, param=[{"lr_mult": multiplier}, {"lr_mult": multiplier}]
        )
        return net[name]

    net.norm1 = L.LRN(pool("pool1", conv("conv1", net.data, 96, 11, 4)), local_size=5, alpha=1e-4, beta=0.75)
    net.norm2 = L.LRN(pool("pool2", conv("conv2", net.norm1, 256, 5, group=2)), local_size=5, alpha=1e-4, beta=0.75)
    top = conv("conv4", conv("conv3", net.norm2, 384, 3), 384, 3, group=2)
    top = pool("pool5", conv("conv5", top, 256, 3, group=2))
    for name in ("fc6", "fc7"):
        net[f"{name}_relu"] = L.ReLU(full(name, top, 4096, 0), in_place=True)
        top = net[f"{name}_drop"] = L.Dropout(net[f"{name}_relu"], dropout_ratio=0.5, in_place=True)
    full("fc8", top, _UNITS, 0.1)
    net.embedding = L.Embed(
        net.input_sentence, input_dim=CLASSES, num_output=_UNITS, bias_term=False, weight_filler=_NEAR_ZERO
    )
    lstm = {"num_output": _UNITS, "weight_filler": _NEAR_ZERO}
    net.lstm1 = L.LSTM(net.embedding, net.cont_sentence, recurrent_param=lstm)
    net.lstm2 = L.LSTM(net.lstm1, net.cont_sentence, net.fc8, recurrent_param=lstm)
    net.predict = L.InnerProduct(net.lstm2, num_output=CLASSES, axis=2, weight_filler=_NEAR_ZERO)
    net.loss = L.SoftmaxWithLoss(
        net.predict, net.target_sentence, loss_weight=20, softmax_param={"axis": 2}, loss_param={"ignore_label": -1}
    )
    return net.to_proto()
