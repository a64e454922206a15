"""Small cases of the less common layer types, in the form of ``layer_table.py``."""

from __future__ import annotations

import numpy as np
from layer_table import Row, Shape

_IMAGE = (2, 4, 5, 6)


def _nothing(rng: np.random.Generator) -> list[np.ndarray]:
    """Bottoms of a layer without any."""
    return []


def _probabilities(rng: np.random.Generator) -> list[np.ndarray]:
    """Not too small: the curvature of the logarithm would spoil the differences."""
    return [rng.uniform(0.3, 1, (4, 5)).astype(np.float32), rng.integers(0, 5, 4).astype(np.float32)]


def _shape(kind: str, name: str, fields: str, *shapes: Shape, tops: int = 1) -> Row:
    names = " ".join(f'top: "top{number}"' for number in range(tops))
    parameter = {"ArgMax": "argmax", "Im2col": "convolution"}.get(kind, kind.lower())
    return Row(f"{kind}-{name}", f'type: "{kind}" {names} {parameter}_param {{ {fields} }}', shapes)


def _recurrent(kind: str, name: str, fields: str, *more: Shape, tops: int = 1) -> Row:
    names = " ".join(f'top: "top{number}"' for number in range(tops))
    text = f'type: "{kind}" {names} recurrent_param {{ num_output: 3 {fields} }}'
    # no gradient flows through exposed states: only the outputs are checked
    return Row(f"{kind}-{name}", text, ((4, 2, 3), (4, 2), *more), classes=((1, 2),), checked_tops=1)


def _loss(kind: str, name: str, fields: str, *shapes: Shape, position: int = 1, classes: int = 2) -> Row:
    return Row(f"{kind}-{name}", f'type: "{kind}" {fields}', shapes, classes=((position, classes),), checked_tops=1)


_STATE = (1, 2, 3)

LAYERS: list[Row] = [
    Row("AbsVal", 'type: "AbsVal"', (_IMAGE,)),
    Row("BNLL", 'type: "BNLL"', (_IMAGE,)),
    Row("Clip", 'type: "Clip" clip_param { min: -0.5 max: 0.7 }', (_IMAGE,)),
    Row("ELU", 'type: "ELU" elu_param { alpha: 0.6 }', (_IMAGE,)),
    Row("Exp-natural", 'type: "Exp" exp_param { scale: 0.5 }', ((3, 4),)),
    Row("Exp-base2", 'type: "Exp" exp_param { base: 2 scale: 0.5 shift: -1 }', ((3, 4),)),
    Row("Log-natural", 'type: "Log" log_param { shift: 1 }', ((3, 4),), positive=True),
    Row("Log-base2", 'type: "Log" log_param { base: 2 scale: 0.5 shift: 0.7 }', ((3, 4),), positive=True),
    Row("PReLU-image", 'type: "PReLU"', (_IMAGE,)),
    Row("PReLU-rows", 'type: "PReLU"', ((3, 4),)),
    Row("PReLU-three_axes", 'type: "PReLU"', ((2, 3, 4),)),
    Row("PReLU-shared", 'type: "PReLU" prelu_param { channel_shared: true }', ((2, 3, 4),)),
    Row("Swish", 'type: "Swish" swish_param { beta: 1.3 }', (_IMAGE,)),
    Row("Threshold", 'type: "Threshold" threshold_param { threshold: 0.3 }', (_IMAGE,), checked_tops=0),
    _shape("Crop", "image", "offset: 1 offset: 2", _IMAGE, (1, 1, 3, 4)),
    _shape("Crop", "rows", "axis: 0", (3, 4), (2, 3)),
    _shape("Reshape", "infer", "shape { dim: 0 dim: -1 dim: 3 }", _IMAGE),
    _shape("Reshape", "inside", "axis: 1 num_axes: 2 shape { dim: 20 }", _IMAGE),
    _shape("Slice", "channels", "slice_point: 1", _IMAGE, tops=2),
    _shape("Slice", "rows", "axis: 0", (3, 4), tops=3),
    _shape("Tile", "channels", "tiles: 2", _IMAGE),
    _shape("Tile", "last_axis", "axis: -1 tiles: 3", (2, 3)),
    Row("ArgMax-rows", 'type: "ArgMax" argmax_param { top_k: 2 out_max_val: true }', (_IMAGE,), checked_tops=0),
    Row("ArgMax-axis", 'type: "ArgMax" argmax_param { axis: 1 }', (_IMAGE,), checked_tops=0),
    Row("BatchReindex", 'type: "BatchReindex"', ((3, 2, 2), (5,)), classes=((1, 3),)),
    # how many rows it gives depends on the data, so the contract of compiled layers is not its own; no phases here,
    # test_selection.py holds it to what it promises instead
    Row("Filter", 'type: "Filter"', ((4, 3), (4,)), phases=()),
    _shape("Reduction", "sum", "", (2, 3)),
    _shape("Reduction", "asum", "operation: ASUM axis: 1 coeff: 0.5", _IMAGE),
    _shape("Reduction", "sumsq", "operation: SUMSQ axis: -1", (2, 3, 4)),
    _shape("Reduction", "mean", "operation: MEAN axis: 2 coeff: -2", _IMAGE),
    _shape("Im2col", "dilated", "kernel_h: 2 kernel_w: 3 pad: 1 stride: 2 dilation: 1 dilation: 2", (1, 2, 5, 6)),
    _shape("Im2col", "1d", "kernel_size: 2 axis: 1", (2, 3, 4)),
    _shape("MVN", "channels", "", (2, 2, 3, 4)),
    _shape("MVN", "across", "across_channels: true", (2, 3, 4)),
    _shape("MVN", "mean_only", "normalize_variance: false", (2, 2, 3, 4)),
    _shape("SPP", "one_level", "pyramid_height: 1", (1, 2, 5, 6)),
    _shape("SPP", "three_levels", "pyramid_height: 3 pool: AVE", (1, 2, 8, 9)),
    Row(
        "SPP-stochastic",
        'type: "SPP" spp_param { pyramid_height: 2 pool: STOCHASTIC }',
        ((1, 2, 4, 6),),
        checked_tops=0,
        positive=True,
    ),
    Row("Parameter", 'type: "Parameter" parameter_param { shape { dim: 2 dim: 3 } }', (), bottoms=_nothing),
    Row(
        "DummyData-random",
        'type: "DummyData" dummy_data_param { num: 2 channels: 3 height: 1 width: 1 data_filler { type: "uniform" } }',
        (),
        bottoms=_nothing,
        checked_tops=0,
    ),
    Row("DummyData-zeros", 'type: "DummyData" dummy_data_param { shape {} }', (), bottoms=_nothing, checked_tops=0),
    Row("Embed", 'type: "Embed" embed_param { num_output: 3 input_dim: 4 }', ((2, 3),), classes=((0, 4),)),
    Row(
        "Embed-nobias",
        'type: "Embed" embed_param { num_output: 3 input_dim: 4 bias_term: false }',
        ((5,),),
        classes=((0, 4),),
    ),
    _loss("HingeLoss", "L1", "", (4, 5), (4,), classes=5),
    _loss("HingeLoss", "L2", "hinge_loss_param { norm: L2 }", (4, 5), (4, 1, 1, 1), classes=5),
    Row(
        "MultinomialLogisticLoss",
        'type: "MultinomialLogisticLoss"',
        ((4, 5), (4,)),
        bottoms=_probabilities,
        checked_tops=1,
    ),
    _loss("InfogainLoss", "rows", "", (4, 3), (4,), (1, 1, 3, 3), classes=3),
    _loss(
        "InfogainLoss",
        "axis2_ignore",
        'top: "loss" top: "p" infogain_loss_param { axis: 2 } loss_param { ignore_label: 1 }',
        (2, 4, 3),
        (2, 4),
        (3, 3),
        classes=3,
    ),
    _loss("SigmoidCrossEntropyLoss", "batch", "", (4, 3), (4, 3)),
    _loss(
        "SigmoidCrossEntropyLoss",
        "ignore",
        "loss_param { ignore_label: 0 normalization: VALID }",
        (2, 3, 2, 2),
        (2, 3, 2, 2),
    ),
    _loss("ContrastiveLoss", "margin", "", (6, 3), (6, 3), (6,), position=2),
    _loss(
        "ContrastiveLoss",
        "legacy",
        "contrastive_loss_param { margin: 6 legacy_version: true }",
        (6, 3),
        (6, 3, 1, 1),
        (6, 1),
        position=2,
    ),
    Row(
        "Python-in_numpy",
        'type: "Python" python_param { module: "my_python_layers" layer: "Doubled" }',
        ((2, 3),),
    ),
    _recurrent("LSTM", "plain", ""),
    _recurrent("LSTM", "static", "", (2, 4)),
    _recurrent("LSTM", "exposed", "expose_hidden: true", _STATE, _STATE, tops=3),
    _recurrent("RNN", "plain", ""),
    _recurrent("RNN", "static_exposed", "expose_hidden: true", (2, 4), _STATE, tops=2),
    Row(
        "LSTMUnit",
        'type: "LSTMUnit" top: "c" top: "h"',
        ((1, 2, 3), (1, 2, 12), (1, 2)),
        classes=((2, 2),),
    ),
]
