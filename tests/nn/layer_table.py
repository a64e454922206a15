"""Small cases of every layer type of the core families; ``test_layer_contract.py`` checks the same things of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """One case.

    Args:
        name: of the case.
        text: a LayerParameter in prototxt, without name and bottoms; a top is added where none is given.
        shapes: Caffe's shapes of the bottoms.
        phases: in which it is checked.
        classes: for bottoms that hold class ids, {position: number of classes}.
        bottoms: makes the bottoms where distinct numbers a few hundredths apart will not do.
        checked_tops: the first so many tops are differentiated (losses: one; tops without gradient: none).
        positive: all values of the bottoms are above 0.
    """

    name: str
    text: str
    shapes: tuple[Shape, ...]
    phases: tuple[str, ...] = ("TRAIN", "TEST")
    classes: tuple[tuple[int, int], ...] = ()
    bottoms: Callable[[np.random.Generator], list[np.ndarray]] | None = None
    checked_tops: int | None = None
    positive: bool = False


def _conv(name: str, fields: str, *shapes: Shape, kind: str = "Convolution") -> Row:
    return Row(f"{kind}-{name}", f'type: "{kind}" convolution_param {{ {fields} }}', shapes, ("TRAIN",))


def _pool(name: str, fields: str, shape: Shape, **more: object) -> Row:
    return Row(f"Pooling-{name}", f'type: "Pooling" pooling_param {{ {fields} }}', (shape,), **more)  # type: ignore[arg-type]


def _loss(name: str, fields: str, scores: Shape, labels: Shape, axis: int = 1, tops: str = "") -> Row:
    text = f'type: "SoftmaxWithLoss" softmax_param {{ axis: {axis} }} {tops} {fields}'
    return Row(f"SoftmaxWithLoss-{name}", text, (scores, labels), classes=((1, scores[axis]),), checked_tops=1)


def _accuracy(name: str, fields: str, scores: Shape, labels: Shape, axis: int = 1) -> Row:
    text = f'type: "Accuracy" accuracy_param {{ axis: {axis} {fields} }}'
    text += ' top: "share" top: "each"' if name == "per_class" else ""
    return Row(f"Accuracy-{name}", text, (scores, labels), ("TEST",), ((1, scores[axis]),), checked_tops=0)


_IMAGE = (2, 4, 5, 6)
_TWO_TOPS = 'top: "top" top: "second" '

LAYERS: list[Row] = [
    _conv("k3", "num_output: 3 kernel_size: 3 pad: 1", _IMAGE),
    _conv("rect_stride", "num_output: 3 kernel_h: 2 kernel_w: 3 stride_h: 2 stride_w: 1 pad_h: 0 pad_w: 2", _IMAGE),
    _conv("group2_nobias", "num_output: 6 kernel_size: 2 group: 2 bias_term: false", _IMAGE),
    _conv("depthwise_times2", "num_output: 8 kernel_size: 3 group: 4 stride: 2 pad: 1 dilation: 2", _IMAGE),
    _conv("1x1_stride2", "num_output: 3 kernel_size: 1 stride: 2", _IMAGE),
    Row(
        "Convolution-two_bottoms",
        'type: "Convolution" top: "a" top: "b" convolution_param { num_output: 2 kernel_size: 2 }',
        ((1, 2, 3, 3), (1, 2, 3, 3)),
    ),
    _conv("1d_axis2", "num_output: 2 kernel_size: 3 axis: 2 group: 2", (2, 2, 4, 5)),
    _conv("3d", "num_output: 2 kernel_size: 2 stride: 2", (1, 2, 3, 4, 5)),
    _conv("window_sticks_out", "num_output: 2 kernel_size: 3 stride: 2", (1, 2, 2, 2)),
    _conv("k3_s2", "num_output: 2 kernel_size: 3 stride: 2 pad: 1", (1, 2, 3, 4), kind="Deconvolution"),
    _conv("group_dilated", "num_output: 4 kernel_size: 2 dilation: 2 group: 2", (1, 4, 3, 3), kind="Deconvolution"),
    _conv("1d", "num_output: 2 kernel_size: 3 stride: 2 group: 2", (1, 4, 5), kind="Deconvolution"),
    _pool("max", "kernel_size: 3 stride: 2", _IMAGE),
    _pool("max_pad_clipped", "kernel_size: 3 stride: 3 pad: 1", (1, 2, 7, 8)),
    _pool("max_large_window", "kernel_size: 8 stride: 1", (1, 2, 9, 9)),
    _pool("max_global", "global_pooling: true", _IMAGE),
    Row(
        "Pooling-max_places", _TWO_TOPS + 'type: "Pooling" pooling_param { kernel_size: 2 }', (_IMAGE,), checked_tops=1
    ),
    _pool("ave_pad_floor", "pool: AVE kernel_size: 3 stride: 2 pad: 1 round_mode: FLOOR", _IMAGE),
    _pool("ave_large_window", "pool: AVE kernel_size: 8 stride: 3 pad: 2", (1, 2, 9, 9)),
    _pool("ave_global", "pool: AVE global_pooling: true", _IMAGE),
    _pool("stochastic", "pool: STOCHASTIC kernel_size: 2 stride: 2", (1, 2, 4, 6), positive=True, checked_tops=0),
    Row("LRN-across", 'type: "LRN" lrn_param { local_size: 3 alpha: 0.7 beta: 0.75 k: 2 }', (_IMAGE,)),
    Row("LRN-wide", 'type: "LRN" lrn_param { local_size: 17 alpha: 0.7 beta: 0.6 }', ((1, 20, 2, 2),), ("TRAIN",)),
    Row("LRN-within", 'type: "LRN" lrn_param { local_size: 3 alpha: 0.7 norm_region: WITHIN_CHANNEL }', (_IMAGE,)),
    Row("InnerProduct-plain", 'type: "InnerProduct" inner_product_param { num_output: 3 }', ((3, 2, 4),)),
    Row(
        "InnerProduct-axis_transposed",
        'type: "InnerProduct" inner_product_param { num_output: 3 axis: -1 transpose: true bias_term: false }',
        ((3, 2, 4),),
    ),
    Row("ReLU-plain", 'type: "ReLU"', (_IMAGE,)),
    Row("ReLU-leaky", 'type: "ReLU" relu_param { negative_slope: 0.2 }', ((3, 4),)),
    Row("Sigmoid", 'type: "Sigmoid"', ((3, 4),)),
    Row("TanH", 'type: "TanH"', ((3, 4),)),
    Row("Power-square", 'type: "Power" power_param { power: 2 scale: 0.5 shift: 1 }', ((3, 4),)),
    Row("Power-root", 'type: "Power" power_param { power: 0.5 shift: 0.3 }', ((3, 4),), positive=True),
    Row("Power-zero", 'type: "Power" power_param { power: 0 }', ((3, 4),)),
    Row("Dropout", 'type: "Dropout" dropout_param { dropout_ratio: 0.4 }', (_IMAGE,)),
    Row("Softmax-channels", 'type: "Softmax"', (_IMAGE,)),
    Row("Softmax-last_axis", 'type: "Softmax" softmax_param { axis: -1 }', ((2, 3, 4),)),
    _loss("rows", "", (4, 5), (4,)),
    _loss("image_labels", "loss_param { ignore_label: 2 }", (2, 3, 2, 2), (2, 1, 2, 2)),
    _loss("labels_n111", "loss_param { normalization: FULL }", (4, 5), (4, 1, 1, 1)),
    _loss("labels_along_channels", "loss_param { normalization: NONE }", (2, 3, 2, 2), (2, 2, 2, 1)),
    _loss("axis2_probabilities", "loss_param { normalize: false }", (2, 3, 4), (2, 3), axis=2, tops=_TWO_TOPS),
    Row("EuclideanLoss", 'type: "EuclideanLoss"', ((3, 4), (3, 2, 2))),
    _accuracy("rows", "top_k: 2", (6, 4), (6,)),
    _accuracy("image_ignore", "ignore_label: 1", (2, 3, 2, 2), (2, 2, 2)),
    _accuracy("per_class", "", (6, 4), (6, 1, 1, 1)),
    Row("BatchNorm-image", 'type: "BatchNorm"', (_IMAGE,)),
    Row("BatchNorm-rows", 'type: "BatchNorm"', ((6, 3),)),
    Row("BatchNorm-one_axis", 'type: "BatchNorm" batch_norm_param { use_global_stats: false }', ((7,),)),
    Row("Scale-channels", 'type: "Scale" scale_param { bias_term: true }', (_IMAGE,)),
    Row("Scale-all_axes", 'type: "Scale" scale_param { axis: 0 num_axes: -1 bias_term: true }', ((2, 3, 4),)),
    Row("Scale-scalar", 'type: "Scale" scale_param { num_axes: 0 }', ((2, 3),)),
    Row("Scale-second_bottom", 'type: "Scale" scale_param { axis: 0 bias_term: true }', ((2, 3, 4), (2, 3))),
    Row("Bias-channels", 'type: "Bias"', (_IMAGE,)),
    Row("Bias-second_bottom", 'type: "Bias" bias_param { axis: 1 }', (_IMAGE, (4,))),
    Row("Bias-scalar_bottom", 'type: "Bias"', ((2, 3), ())),
    Row("Concat-channels", 'type: "Concat"', (_IMAGE, (2, 1, 5, 6))),
    Row("Concat-old_field", 'type: "Concat" concat_param { concat_dim: 0 }', ((2, 3), (1, 3))),
    Row("Eltwise-sum", 'type: "Eltwise" eltwise_param { coeff: 1 coeff: -0.5 }', (_IMAGE, _IMAGE)),
    Row("Eltwise-product", 'type: "Eltwise" eltwise_param { operation: PROD }', ((2, 3),) * 3),
    Row("Eltwise-maximum", 'type: "Eltwise" eltwise_param { operation: MAX }', ((2, 3),) * 3),
    Row("Flatten", 'type: "Flatten"', (_IMAGE,)),
    Row("Split", 'type: "Split" ' + _TWO_TOPS, (_IMAGE,)),
    Row("HDF5Output", 'type: "HDF5Output" hdf5_output_param { file_name: "x.h5" }', (_IMAGE, (2,)), checked_tops=0),
    Row("Silence", 'type: "Silence"', (_IMAGE, (2,)), checked_tops=0),
]
