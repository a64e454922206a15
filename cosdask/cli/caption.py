"""``cosdask caption``: sentences for a table of images, with CaffeOnSpark's ImageCaption flags."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from cosdask.cli import clusters
from cosdask.config import Config, FlagParser
from cosdask.errors import ConfigError
from cosdask.storage import exists, missing, refuse_overwrite

_ABOUT = """Say what is on the images of a table: rows with id and prediction, in the table's order.

The two nets, one from an image to its features and one from a word to the next, share one file of weights. The table is
parquet with the columns id and data, as CocoDataSetConverter writes it."""

_EXAMPLES = """examples:
  cosdask caption -input embedded -model lrcn.caffemodel -imagenet lstm_deploy.prototxt \\
      -lstmnet lrcn_word_to_preds.deploy.prototxt -vocab vocab -output captions
  cosdask caption ... --beam 5 --legacy-vocab

Flags work with one dash or two."""

_FILES = {
    "input": "parquet table with id and data",
    "model": "weights of both nets",
    "imagenet": "prototxt from an image to features",
    "lstmnet": "prototxt of one step from a word to the next one",
    "vocab": "vocabulary: a file or a folder of parts",
    "output": "folder for the rows",
}


def main(words: Sequence[str]) -> int:
    """Runs the verb with the words after it; returns the exit code."""
    given = vars(_parser().parse(words))
    config = Config(**{name: given.pop(name) for name in ("overwrite", "outputFormat", "clusterSize") if name in given})
    for name, text in _FILES.items():
        if not given[name]:
            raise ConfigError(f"no {name}: give the {text} with -{name}", option=name)
        if name != "output" and not exists(given[name]):
            raise missing(given[name])
    refuse_overwrite(given["output"], config.overwrite)
    with clusters.connect(given["cluster"], config):
        rows = _caption(given, config)
    print(f"captions: {given['output']} ({rows} rows)")
    return 0


def _caption(given: dict[str, Any], config: Config) -> int:
    import dask.dataframe as dd

    from cosdask.captions import Captioner, Vocab
    from cosdask.convert.inputs import absolute
    from cosdask.data import write_table

    captioner = Captioner(
        given["imagenet"],
        given["lstmnet"],
        Vocab.load(given["vocab"], legacy=given["legacy_vocab"]),
        weights=absolute(given["model"]),
        features=given["feature_blob"],
        batch=given["batch"],
    )
    frame = dd.read_parquet(absolute(given["input"]), columns=["id", "data"], dtype_backend="pyarrow")
    found = captioner.predictions(
        frame, beam=given["beam"], temperature=given["temperature"], longest=given["longest"], seed=given["seed"]
    )
    return write_table(found, absolute(given["output"]), config.outputFormat, config.overwrite)


def _parser() -> FlagParser:
    flags = FlagParser(
        prog="cosdask caption",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="cosdask caption [flags]",
    )
    files = flags.add_argument_group("files")
    for name, text in _FILES.items():
        files.add_argument(f"--{name}", default="", metavar="URI", help=text)
    flags.add_options(("outputFormat", "overwrite"), "output")
    how = flags.add_argument_group("sentences")
    how.add_argument("--beam", type=int, default=1, metavar="N", help="beginnings kept (default 1: the likeliest word)")
    how.add_argument(
        "--temperature", type=float, default=float("inf"), metavar="X", help="1 draws words by their probability"
    )
    how.add_argument("--longest", type=int, default=50, metavar="N", help="most words (default 50)")
    how.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws (default 0)")
    how.add_argument("--batch", type=int, default=16, metavar="N", help="images at a time (default 16)")
    how.add_argument("--feature-blob", default="fc8", metavar="BLOB", help="blob of the image net (default fc8)")
    how.add_argument(
        "--legacy-vocab", action="store_true", help="number words as models trained with CaffeOnSpark's last version do"
    )
    flags.add_argument("--cluster", default="local", metavar="WHERE", help=clusters.HELP)
    flags.add_options(("clusterSize",), "workers")
    return flags
