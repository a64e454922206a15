"""Captions for 100 images together and one by one: ``python -m benchmarks.captioning``.

The nets have LRCN's layers with random weights. Both sides run the same compiled loop and take turns; the ratio counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from cosdask import Net
from cosdask.captions import Captioner, Vocab

_IMAGE_NET = """
input: "data" input_shape {{ dim: 1 dim: 3 dim: 67 dim: 67 }}
layer {{ name: "conv1" type: "Convolution" bottom: "data" top: "conv1" convolution_param {{ num_output: 32
  kernel_size: 11 stride: 4 weight_filler {{ type: "gaussian" std: 0.001 }} }} }}
layer {{ name: "fc8" type: "InnerProduct" bottom: "conv1" top: "fc8" inner_product_param {{ num_output: {units}
  weight_filler {{ type: "xavier" }} }} }}
"""
_LSTM = """
layer {{ name: "{name}" type: "LSTM" {bottoms} top: "{name}" recurrent_param {{ num_output: {units}
  weight_filler {{ type: "uniform" min: -0.08 max: 0.08 }} }} }}
"""
_WORD_NET = """
input: "cont_sentence" input_shape {{ dim: 1 dim: 1 }}
input: "input_sentence" input_shape {{ dim: 1 dim: 1 }}
input: "image_features" input_shape {{ dim: 1 dim: {units} }}
layer {{ name: "embedding" type: "Embed" bottom: "input_sentence" top: "embedded" embed_param {{ num_output: {units}
  input_dim: {classes} bias_term: false weight_filler {{ type: "uniform" min: -0.08 max: 0.08 }} }} }}
{lstms}
layer {{ name: "predict" type: "InnerProduct" bottom: "lstm2" top: "predict" inner_product_param {{ axis: 2
  num_output: {classes} weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "probs" type: "Softmax" bottom: "predict" top: "probs" softmax_param {{ axis: 2 }} }}
"""


def captioner(units: int, classes: int, batch: int) -> Captioner:
    """Two nets of LRCN's kind, and a vocabulary of as many classes."""
    bottoms = {"lstm1": ("embedded", "cont_sentence"), "lstm2": ("lstm1", "cont_sentence", "image_features")}
    lstms = "".join(
        _LSTM.format(name=name, units=units, bottoms=" ".join(f'bottom: "{blob}"' for blob in read))
        for name, read in bottoms.items()
    )
    word_net = Net.from_text(_WORD_NET.format(units=units, classes=classes, lstms=lstms), seed=1)
    image_net = Net.from_text(_IMAGE_NET.format(units=units), seed=1)
    return Captioner(image_net, word_net, Vocab(f"w{n}" for n in range(classes - 2)), batch=batch)


def seconds(work: Callable[[], Any]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Measure and print one line of JSON."""
    parser = argparse.ArgumentParser(description="Captions for images together and one by one.")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--units", type=int, default=1000)
    parser.add_argument("--classes", type=int, default=8801)
    parser.add_argument("--longest", type=int, default=20)
    parser.add_argument("--repetitions", type=int, default=3)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 256, (given.images, 80, 80, 3), dtype=np.uint8))
    sides = {batch: captioner(given.units, given.classes, batch) for batch in (given.images, 1)}
    work = {
        given.images: lambda: sides[given.images].generate(images, longest=given.longest),
        1: lambda: [sides[1].generate([image], longest=given.longest) for image in images],
    }
    sides[given.images].generate(images, longest=given.longest)
    sides[1].generate(images[:1], longest=given.longest)
    times: dict[int, list[float]] = {batch: [] for batch in work}
    for _ in range(given.repetitions):
        for batch, run in work.items():
            times[batch].append(seconds(run))
    together, alone = (statistics.median(times[batch]) for batch in (given.images, 1))
    print(json.dumps({**vars(given), "together_s": together, "one_by_one_s": alone, "ratio": alone / together}))


if __name__ == "__main__":
    main()
