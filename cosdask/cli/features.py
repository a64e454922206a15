"""``cosdask features``: write blobs of a trained model for every row."""

from __future__ import annotations

from collections.abc import Sequence

from cosdask.cli import jobs
from cosdask.errors import ConfigError

_ABOUT = """Run a trained model over every row of its TEST data and write the blobs asked for.

The output is a directory of part files with a row a sample: SampleID, the blobs in the order given, and the label last
where --label names it."""

_EXAMPLES = """  cosdask features --conf lenet_solver.prototxt --model out/lenet.caffemodel --features ip1 \\
      --label label --output out/features --output-format parquet"""


def main(words: Sequence[str]) -> int:
    """Runs the verb with the words after it; returns the exit code."""
    flags = jobs.parser("features", _ABOUT, _EXAMPLES)
    flags.add_options(("features", "label"), "what to write")
    flags.add_options(("conf", "model", "output", "outputFormat", "overwrite"), "files")
    flags.add_options(jobs.DATA, "data")
    flags.add_options((*jobs.WORKERS, "progress"), "workers")
    config, cluster = jobs.parse(flags, words)
    if not config.features:
        raise ConfigError("no blobs to extract: give their names with --features ip1,ip2", option="features")
    if not config.output:
        raise ConfigError("no place for the features: name a directory with --output DIR", option="output")
    return jobs.run_job(config, cluster)
