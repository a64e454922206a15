"""PyTorch's side: the same net and solver settings on one batch that stays in memory; it reads no data."""

from __future__ import annotations

import torch

from benchmarks.cases import side_arguments
from benchmarks.inputs import KINDS, net_message, one_batch
from benchmarks.measure import cores, report, time_steps
from benchmarks.torch_net import TorchNet


def main() -> None:
    """Measure and print."""
    options = side_arguments("steps of the same net in PyTorch")
    torch.set_num_threads(cores())
    torch.manual_seed(1)
    kind = KINDS[options.net]
    given = {name: torch.from_numpy(array.copy()) for name, array in one_batch(options.net, options.batch).items()}
    batch = {name: blob if name == "data" else blob.long() for name, blob in given.items()}
    net = TorchNet(net_message(options.net, options.batch), batch)
    trained = [weight for weight in net.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.01, momentum=0.9, weight_decay=kind.decay)
    losses = [0.0]

    def step(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            loss = net(batch)
            loss.backward()
            if kind.clip > 0:
                torch.nn.utils.clip_grad_norm_(trained, kind.clip)
            optimizer.step()
            losses[0] = float(loss.detach())

    def forward(count: int) -> None:
        with torch.no_grad():
            for _ in range(count):
                losses[0] = float(net(batch, scores=True).sum())

    if options.forward:
        net.eval()
    seconds = time_steps(forward if options.forward else step, options.steps, options.chunk, options.warmup)
    report(seconds, threads=torch.get_num_threads(), loss=losses[0])


if __name__ == "__main__":
    main()
