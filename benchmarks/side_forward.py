"""cosdask's side of a forward pass: the TEST net on one batch that stays in memory."""

from __future__ import annotations

import numpy as np

import cosdask
from benchmarks.cases import side_arguments
from benchmarks.inputs import KINDS, net_message
from benchmarks.measure import cores, report, time_steps
from cosdask import device


def main() -> None:
    """Measure and print."""
    options = side_arguments("forward passes of cosdask.Net")
    kind = KINDS[options.net]
    message = net_message(options.net, options.batch)
    losses = [layer for layer in message.layer if "Loss" in layer.type or layer.type == "Accuracy"]
    scores = losses[-1].bottom[0]
    net = cosdask.Net(message, phase="TEST", seed=1)
    images = np.random.default_rng(1).random((options.batch, kind.channels, kind.size, kind.size), np.float32)
    run = device.compile_function(
        lambda params, data: net.apply(params, {"data": data}, blobs=[scores])[0][scores].sum()
    )
    found = [0.0]

    def forward(count: int) -> None:
        for _ in range(count):
            found[0] = float(run(net.params, images))

    seconds = time_steps(forward, options.steps, options.chunk, options.warmup)
    report(seconds, threads=cores(), loss=found[0])


if __name__ == "__main__":
    main()
