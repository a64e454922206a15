"""``cosdask show``: a net as a table."""

from __future__ import annotations

from collections.abc import Sequence

from cosdask.cli.tools import aligned, chosen_net, tool_parser
from cosdask.nn.cost import LayerCost, layer_costs

_ABOUT = """Show a net's layers in a table: type, shapes of the blobs they make, weights, multiply-accumulates of one
forward pass, and memory of blobs and weights in float32."""

_EXAMPLES = """  cosdask show lenet_train_test.prototxt
  cosdask show solver.prototxt --phase TRAIN
  cosdask show train_val.prototxt --input-shape data=1,3,227,227 --input-shape label=1"""


def main(words: Sequence[str]) -> int:
    """Runs the verb with the words after it; returns the exit code."""
    choice = chosen_net(tool_parser("show", _ABOUT, _EXAMPLES, "TEST").parse(words))
    net = choice.open(seed=0)
    costs = layer_costs(net)
    print(f"{net.name or 'net'} ({net.phase})\n")
    print(cost_table(costs), end="")
    print(f"\ninputs: {', '.join(net.inputs) or 'none'}; outputs: {', '.join(net.outputs) or 'none'}")
    return 0


def cost_table(costs: Sequence[LayerCost]) -> str:
    """The table, its last line the sums.

    Example:
        >>> print(cost_table([LayerCost("ip", "InnerProduct", ("x",), {"ip": (2, 4)}, 16, 24, 96)]), end="")
        layer  type          top        weights  MACs  memory
        ip     InnerProduct  2 x 4           16    24    96 B
        total                                16    24    96 B
    """
    rows = [["layer", "type", "top", "weights", "MACs", "memory"]]
    for line in costs:
        shapes = [" x ".join(map(str, shape)) or "scalar" for shape in line.tops.values()]
        rows.append(
            [line.name, line.type, "; ".join(shapes), _number(line.weights), _number(line.macs), size(line.memory)]
        )
    sums = (sum(line.weights for line in costs), sum(line.macs for line in costs), sum(line.memory for line in costs))
    rows.append(["total", "", "", f"{sums[0]:,}", f"{sums[1]:,}", size(sums[2])])
    return aligned(rows, right=(3, 4, 5))


def _number(value: int) -> str:
    return f"{value:,}" if value else ""


def size(count: int) -> str:
    """Bytes in words.

    Example:
        >>> size(96), size(3 << 20)
        ('96 B', '3.0 MiB')
    """
    amount, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
