"""``cosdask run``: CaffeOnSpark's command line."""

from __future__ import annotations

from collections.abc import Sequence

from cosdask.cli import jobs

_ABOUT = """Train, test and extract features with CaffeOnSpark's flags, spelled as there.

Give one or more of -train, -test and -features. Training comes first; then features, or else the test, with the
model that was trained."""

_EXAMPLES = """  cosdask run -conf lenet_memory_solver.prototxt -train -test -model out/lenet.caffemodel \\
      -output out/result
  cosdask run -conf lenet_memory_solver.prototxt -features ip1,ip2 -label label -model out/lenet.caffemodel \\
      -output out/features -outputFormat parquet"""

#: Where CaffeOnSpark puts results when -output is not given.
_DEFAULT_OUTPUT = "output"


def main(words: Sequence[str]) -> int:
    """Runs the verb with the words after it; returns the exit code."""
    flags = jobs.parser("run", _ABOUT, _EXAMPLES)
    flags.add_options(("train", "test", "features"), "what to do")
    flags.add_options(("conf", "model", "output", "outputFormat", "label", "overwrite"), "files")
    flags.add_options(jobs.TRAINING, "training")
    flags.add_options(jobs.DATA, "data")
    flags.add_options((*jobs.WORKERS, "progress"), "workers")
    config, cluster = jobs.parse(flags, words)
    if not config.output and (config.test or config.features):
        config.output = _DEFAULT_OUTPUT
    return jobs.run_job(config, cluster)
