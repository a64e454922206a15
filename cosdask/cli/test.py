"""``cosdask test``: test a trained model."""

from __future__ import annotations

from collections.abc import Sequence

from cosdask.cli import jobs

_ABOUT = """Test a trained model: the mean of each output of the TEST net over every row of its data, each row once.

The results are printed, a line an output, and written to --output where that is given."""

_EXAMPLES = """  cosdask test --conf lenet_solver.prototxt --model out/lenet.caffemodel
  cosdask test --conf lenet_solver.prototxt --model out/lenet.caffemodel --output out/result.txt"""


def main(words: Sequence[str]) -> int:
    """Runs the verb with the words after it; returns the exit code."""
    flags = jobs.parser("test", _ABOUT, _EXAMPLES)
    flags.add_options(("conf", "model", "output", "overwrite"), "files")
    flags.add_options(jobs.DATA, "data")
    flags.add_options((*jobs.WORKERS, "progress"), "workers")
    return jobs.run_job(*jobs.parse(flags, words, test=True))
