"""PyTorch's side: the same net and solver settings on one batch that stays in memory; it reads no data."""

from __future__ import annotations

import torch

from benchmarks.cases import side_arguments
from benchmarks.inputs import KINDS, net_message
from benchmarks.measure import cores, report, time_steps
from benchmarks.torch_net import TorchNet


def main() -> None:
    """Measure and print."""
    options = side_arguments("steps of the same net in PyTorch")
    torch.set_num_threads(cores())
    torch.manual_seed(1)
    kind = KINDS[options.net]
    images = torch.rand(options.batch, kind.channels, kind.size, kind.size)
    labels = torch.arange(options.batch) % kind.classes
    net = TorchNet(net_message(options.net, options.batch), images)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=0.0005)
    losses = [0.0]

    def step(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            loss = net(images, labels)
            loss.backward()
            optimizer.step()
            losses[0] = float(loss.detach())

    def forward(count: int) -> None:
        with torch.no_grad():
            for _ in range(count):
                losses[0] = float(net(images).sum())

    if options.forward:
        net.eval()
    seconds = time_steps(forward if options.forward else step, options.steps, options.chunk, options.warmup)
    report(seconds, threads=torch.get_num_threads(), loss=losses[0])


if __name__ == "__main__":
    main()
