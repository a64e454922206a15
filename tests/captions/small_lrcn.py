"""A small pair of LRCN deploy nets, and a vocabulary for it."""

from __future__ import annotations

import functools

import numpy as np

from cosdask import Net
from cosdask.captions import Captioner, Vocab

WORDS = ("a", "dog", "cat", "sits", "runs", "here")
#: width of the features
WIDE = 5

IMAGE_NET = """
name: "image"
input: "data" input_shape { dim: 4 dim: 3 dim: 12 dim: 12 }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 4 kernel_size: 5
  stride: 3 weight_filler { type: "gaussian" std: 0.02 } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "fc8" type: "InnerProduct" bottom: "conv" top: "fc8" inner_product_param { num_output: 5
  weight_filler { type: "gaussian" std: 0.05 } } }
"""

WORD_NET = """
name: "words"
input: "cont_sentence" input_shape { dim: 1 dim: 4 }
input: "input_sentence" input_shape { dim: 1 dim: 4 }
input: "image_features" input_shape { dim: 4 dim: 5 }
layer { name: "embedding" type: "Embed" bottom: "input_sentence" top: "embedded" embed_param { input_dim: 8
  num_output: 6 bias_term: false weight_filler { type: "uniform" min: -1 max: 1 } } }
layer { name: "lstm1" type: "LSTM" bottom: "embedded" bottom: "cont_sentence" top: "lstm1"
  recurrent_param { num_output: 7 weight_filler { type: "uniform" min: -1 max: 1 } } }
layer { name: "lstm2" type: "LSTM" bottom: "lstm1" bottom: "cont_sentence" bottom: "image_features" top: "lstm2"
  recurrent_param { num_output: 7 weight_filler { type: "uniform" min: -1 max: 1 } } }
layer { name: "predict" type: "InnerProduct" bottom: "lstm2" top: "predict" inner_product_param { axis: 2
  num_output: 8 weight_filler { type: "uniform" min: -4 max: 4 } } }
layer { name: "probs" type: "Softmax" bottom: "predict" top: "probs" softmax_param { axis: 2 } }
"""


@functools.cache
def nets() -> tuple[Net, Net]:
    return Net.from_text(IMAGE_NET, seed=1), Net.from_text(WORD_NET, seed=3)


@functools.cache
def captioner(batch: int = 4) -> Captioner:
    image, words = nets()
    return Captioner(image, words, Vocab(WORDS), batch=batch)


def features(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, WIDE)).astype(np.float32)


def pictures(count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (20, 26, 3), dtype=np.uint8) for _ in range(count)]
