"""``cosdask mean``: the mean image of a data set."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from cosdask.cli import clusters
from cosdask.cli.bars import RowBar
from cosdask.config import Config, FlagParser
from cosdask.storage import refuse_overwrite

_ABOUT = """Write the mean image of a data set as a binaryproto file, for transform_param { mean_file: "..." }, and
print the mean of each channel, for mean_value. Images must have one size; encoded ones are decoded."""

_EXAMPLES = """examples:
  cosdask mean cifar10_train_lmdb mean.binaryproto
  cosdask mean hdfs:///data/train.parquet mean.binaryproto --cluster yarn"""


def main(words: Sequence[str]) -> int:
    """Runs the verb with the words after it; returns the exit code."""
    flags = FlagParser(
        prog="cosdask mean",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="cosdask mean INPUT [OUTPUT] [flags]",
    )
    flags.add_argument("input", metavar="INPUT", help="data set in any format that cosdask convert reads")
    flags.add_argument("output", metavar="OUTPUT", nargs="?", default="", help="binaryproto file to write")
    flags.add_argument("--from", default="", metavar="FORMAT", help="format of INPUT; else by what it looks like")
    flags.add_options(("overwrite",), "outputs")
    flags.add_options(("clusterSize", "progress"), "workers")
    flags.add_argument("--cluster", default="local", metavar="WHERE", help=clusters.HELP)
    given = vars(flags.parse(words))
    own = {name: given[name] for name in ("overwrite", "clusterSize", "progress") if name in given}
    return run(given["input"], given["from"], given["output"], Config(**own), given["cluster"])


def run(name: str, kind: str, output: str, config: Config, cluster: str) -> int:
    """Adds up on a cluster, writes and prints the mean; returns the exit code."""
    if output:
        refuse_overwrite(output, config.overwrite)
    from cosdask.convert import mean_image, open_input, write_mean

    rows = open_input(name, kind)
    with clusters.connect(cluster, config) as client, RowBar(config.progress, "adding up") as bar:
        mean = mean_image(rows, client, bar)
    if output:
        write_mean(output, mean)
        print(f"{output}: the mean of {rows.rows} images, {' x '.join(map(str, mean.shape))}")
    for channel, values in enumerate(mean):
        print(f"mean_value channel [{channel}]: {float(values.mean(dtype='float64')):.6g}")
    return 0
