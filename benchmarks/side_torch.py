"""PyTorch's side: the same net and solver settings on one batch that stays in memory; it reads no data."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.cases import side_arguments
from benchmarks.measure import cores, report, time_steps


def lenet() -> tuple[Any, tuple[int, int, int]]:
    """LeNet as in prototxt/lenet_memory_train_test.prototxt, and its input's shape."""
    layers = [
        nn.Conv2d(1, 20, 5),
        nn.MaxPool2d(2, 2),
        nn.Conv2d(20, 50, 5),
        nn.MaxPool2d(2, 2),
        nn.Flatten(),
        nn.Linear(800, 500),
        nn.ReLU(inplace=True),
        nn.Linear(500, 10),
    ]
    return nn.Sequential(*layers), (1, 28, 28)


def caffenet() -> tuple[Any, tuple[int, int, int]]:
    """CaffeNet as in prototxt/bvlc_reference_net.prototxt, and its input's shape."""

    def normalized_pool() -> list[Any]:
        return [nn.MaxPool2d(3, 2, ceil_mode=True), nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75)]

    def relu() -> Any:
        return nn.ReLU(inplace=True)

    layers = [
        *(nn.Conv2d(3, 96, 11, 4), relu(), *normalized_pool()),
        *(nn.Conv2d(96, 256, 5, padding=2, groups=2), relu(), *normalized_pool()),
        *(nn.Conv2d(256, 384, 3, padding=1), relu()),
        *(nn.Conv2d(384, 384, 3, padding=1, groups=2), relu()),
        *(nn.Conv2d(384, 256, 3, padding=1, groups=2), relu(), nn.MaxPool2d(3, 2, ceil_mode=True)),
        *(nn.Flatten(), nn.Linear(9216, 4096), relu(), nn.Dropout(0.5)),
        *(nn.Linear(4096, 4096), relu(), nn.Dropout(0.5), nn.Linear(4096, 1000)),
    ]
    return nn.Sequential(*layers), (3, 227, 227)


def main() -> None:
    """Measure and print."""
    options = side_arguments("steps of the same net in PyTorch")
    torch.set_num_threads(cores())
    torch.manual_seed(1)
    net, shape = {"lenet": lenet, "caffenet": caffenet}[options.net]()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=0.0005)
    images = torch.rand(options.batch, *shape)
    labels = torch.arange(options.batch) % 10
    losses = [0.0]

    def step(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(images), labels)
            loss.backward()
            optimizer.step()
            losses[0] = float(loss.detach())

    seconds = time_steps(step, options.steps, options.chunk, options.warmup)
    report(seconds, threads=torch.get_num_threads(), loss=losses[0])


if __name__ == "__main__":
    main()
