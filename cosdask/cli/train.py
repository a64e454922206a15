"""``cosdask train``: train a network on a cluster."""

from __future__ import annotations

from collections.abc import Sequence

from cosdask.cli import jobs

_ABOUT = """Train the network that a Caffe solver names, and save it.

With test_interval and test_iter in the solver, it is validated on the way. Beside the model, a folder <model>.run keeps
the history, so that --resume can go on after an interruption. Ctrl-C leaves a snapshot."""

_EXAMPLES = """  cosdask train --conf lenet_solver.prototxt --model out/lenet.caffemodel
  cosdask train --conf lenet_solver.prototxt --model out/lenet.caffemodel --cluster local[2] --resume
  cosdask train --conf my_solver.prototxt --model out/mine.caffemodel --weights published.caffemodel"""


def main(words: Sequence[str]) -> int:
    """Runs the verb with the words after it; returns the exit code."""
    flags = jobs.parser("train", _ABOUT, _EXAMPLES)
    flags.add_options(("conf", "model", "overwrite"), "files")
    flags.add_options(jobs.TRAINING, "training")
    flags.add_options(jobs.DATA, "data")
    flags.add_options((*jobs.WORKERS, "progress"), "workers")
    return jobs.run_job(*jobs.parse(flags, words, train=True))
