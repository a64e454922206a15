"""cosdask's side of a forward pass: the TEST net on one batch that stays in memory."""

from __future__ import annotations

import cosdask
from benchmarks.cases import side_arguments
from benchmarks.inputs import net_message, one_batch
from benchmarks.measure import cores, report, time_steps
from cosdask import device


def main() -> None:
    """Measure and print."""
    options = side_arguments("forward passes of cosdask.Net")
    message = net_message(options.net, options.batch)
    losses = [layer for layer in message.layer if "Loss" in layer.type or layer.type == "Accuracy"]
    scores = losses[-1].bottom[0]
    net = cosdask.Net(message, phase="TEST", seed=1)
    batch = {name: blob for name, blob in one_batch(options.net, options.batch).items() if "label" not in name}
    run = device.compile_function(lambda params, given: net.apply(params, given, blobs=[scores])[0][scores].sum())
    found = [0.0]

    def forward(count: int) -> None:
        for _ in range(count):
            found[0] = float(run(net.params, batch))

    seconds = time_steps(forward, options.steps, options.chunk, options.warmup)
    report(seconds, threads=cores(), loss=found[0])


if __name__ == "__main__":
    main()
