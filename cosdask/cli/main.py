"""The command ``cosdask``: picks the verb, and turns errors into one message and an exit code."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from importlib import metadata

from cosdask.errors import ConfigError, CosdaskError, did_you_mean

#: What each verb is for; its module in this package has the verb's name and a ``main(words) -> int``.
VERBS = {
    "run": "train, test and extract features with CaffeOnSpark's flags",
    "train": "train a network on a cluster",
    "test": "test a trained model over every row of its TEST data",
    "features": "write blobs of a trained model for every row of its TEST data",
    "submit": "run a command as an application of YARN's, driver and all",
    "apps": "list cosdask's applications on YARN",
    "watch": "follow what a submitted command prints",
    "logs": "print what an application's containers printed",
    "kill": "end an application on YARN",
    "doctor": "say what would keep a run from working here",
    "package": "pack this environment for YARN's containers",
    "sandbox": "a small real Hadoop on this machine, for trying everything",
    "predict": "classify image files with a trained model",
    "caption": "say what is on the images of a table, with a trained LRCN net",
    "show": "show a net's layers, shapes, weights and memory in a table",
    "time": "time a net's layers, forward and backward",
    "draw": "draw a net into an SVG, PNG or PDF file",
    "upgrade": "write an old prototxt or caffemodel in today's form",
    "convert": "write a data set in another format: LMDB, SequenceFile, parquet, HDF5, ...",
    "mean": "write the mean image of a data set",
    "peek": "show the first rows of a data set",
    "demo": "train, test and use LeNet on 5,000 real digits",
}

DONE, FAILED, WRONG_USE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143

_HELP = """usage: cosdask VERB [flags]

Train, test and run Caffe networks on a Dask cluster, from your own prototxt files.

verbs:
{verbs}

Try it:
  cosdask demo                     trains LeNet on real digits in about a minute
  cosdask train --conf lenet_solver.prototxt --model out/lenet.caffemodel
  cosdask predict digit.png --net lenet_train_test.prototxt --model out/lenet.caffemodel

Every verb explains its flags:  cosdask train --help
Flags work with one dash or two, as in CaffeOnSpark (-clusterSize) or in lower case (--cluster-size).
Anywhere: --debug shows where in the code an error came from; COSDASK_DEBUG=1 does the same.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the words after ``cosdask``; those of this process when None.

    Returns:
        The exit code: 0 done, 1 failed, 2 wrong use, 130 interrupted (Ctrl-C), 143 told to end (SIGTERM).
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words or os.environ.get("COSDASK_DEBUG", "") not in ("", "0")
    words = [word for word in words if word != "--debug"]
    told = threading.Event()
    try:
        with _sigterm_interrupts(told):
            return _dispatch(words)
    except SystemExit as leaving:
        # argparse leaves this way after printing a verb's help.
        return leaving.code if isinstance(leaving.code, int) else DONE
    except KeyboardInterrupt as stopped:
        what, code = ("told to end (SIGTERM)", TERMINATED) if told.is_set() else ("interrupted", INTERRUPTED)
        _say(f"{what}: {stopped}" if str(stopped) else what, debug)
        return code
    except BrokenPipeError:
        # The reader of standard output left, as `head` does; point it elsewhere so that the exit is quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except ConfigError as error:
        _say(f"error: {error.message}", debug)
        return WRONG_USE
    except CosdaskError as error:
        _say(f"error: {error.message}", debug)
        return FAILED


@contextlib.contextmanager
def _sigterm_interrupts(told: threading.Event) -> Iterator[None]:
    """Meanwhile SIGTERM, by which batch systems and containers end a command, does what Ctrl-C does.

    Args:
        told: is set where it came.
    """

    def interrupt(number: int, frame: object) -> None:
        told.set()
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _dispatch(words: Sequence[str]) -> int:
    if not words or words[0] in ("-h", "-help", "--help", "help"):
        print(help_text(), end="")
        return DONE if words else WRONG_USE
    verb = words[0]
    if verb in ("--version", "-version"):
        print(f"cosdask {_version()}")
        return DONE
    if verb.startswith("-"):
        raise ConfigError(
            f"{verb} stands where a verb belongs; CaffeOnSpark's flags follow run: cosdask run {verb} ..."
        )
    if verb not in VERBS:
        hint = did_you_mean(verb, VERBS) or f" There are {', '.join(VERBS)}."
        raise ConfigError(f'unknown verb "{verb}".{hint} See cosdask --help', verb=verb)
    # A verb loads what it needs: help and wrong flags answer at once, without loading JAX.
    module = importlib.import_module(f"cosdask.cli.{verb}")
    return int(module.main(words[1:]))


def _version() -> str:
    try:
        return metadata.version("cosdask")
    except metadata.PackageNotFoundError:
        return "(version unknown: run from source files that were not installed)"


def help_text() -> str:
    """What ``cosdask --help`` prints."""
    width = max(map(len, VERBS))
    return _HELP.format(verbs="\n".join(f"  {verb:{width}}  {text}" for verb, text in VERBS.items()))


def _say(message: str, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    print(f"cosdask: {message}", file=sys.stderr)
