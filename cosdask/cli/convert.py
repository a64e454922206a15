"""``cosdask convert``: data sets from one format to another, and the older tools by their names."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from cosdask.cli import clusters, old_tools
from cosdask.cli.bars import RowBar
from cosdask.config import Config, FlagParser
from cosdask.errors import ConfigError

_ABOUT = """Write a data set in another format: rows with an image and a label each, in their order, every row once.

Formats: lmdb, leveldb, sequence (Hadoop SequenceFile), parquet, json, orc, hdf5, idx (MNIST), cifar10; to read also csv
and a list of image files (a line `file label` each). What INPUT is shows by itself; --from says it where it does not.
OUTPUT is a folder of part files, a database, or (idx, cifar10) files. Work that is broken off goes on when the same
command is given again."""

_EXAMPLES = """examples:
  cosdask convert mnist_train_lmdb mnist_train.parquet --to parquet
  cosdask convert train.txt train_lmdb --to lmdb --image-root images/ --resize-height 256 --resize-width 256
  cosdask convert train_lmdb hdfs:///data/train_seq --to sequence --compression block --codec snappy --cluster yarn
  cosdask convert train-images-idx3-ubyte.gz mnist_lmdb --to lmdb

older tools, with their own flags (cosdask convert NAME --help):
  {tools}"""

_ENDINGS = {
    ".parquet": "parquet", ".json": "json", ".orc": "orc", ".h5": "hdf5", ".hdf5": "hdf5", ".seq": "sequence",
    "lmdb": "lmdb", "leveldb": "leveldb",
}  # fmt: skip


def main(words: Sequence[str]) -> int:
    """Runs the verb with the words after it; returns the exit code."""
    if words and (tool := old_tools.find(words[0])) is not None:
        return tool(words[1:])
    given = vars(_parser().parse(words))
    cluster = given.pop("cluster")
    options = {
        name: given.pop(name) for name in ("overwrite", "progress", "on_bad_rows", "clusterSize") if name in given
    }
    config = Config(**options)
    from cosdask.convert import Form, Pictures, open_input

    skip = config.on_bad_rows == "skip"
    kind = given["to"] or _kind_of(given["output"])
    pictures = Pictures(
        height=_whole(given["resize_height"], "resize-height"),
        width=_whole(given["resize_width"], "resize-width"),
        gray=given["gray"],
        color=given["color"],
        encode=given["encode"],
        decode=given["decode"],
    )
    form = Form(compression=given["compression"], codec=given["codec"])
    settings: dict[str, Any] = {}
    if given["shuffle"]:
        settings["shuffle"] = _whole(given["seed"], "seed")
    if given["ids"]:
        settings["ids"] = True
    if skip:
        settings["skip"] = True
    rows = open_input(given["input"], given["from"], labels=given["label_file"], root=given["image_root"], **settings)
    parts = _whole(given["parts"], "parts") or None
    return run(rows, given["output"], kind, config, cluster, form=form, pictures=pictures, parts=parts, skip=skip)


def run(rows: Any, output: str, kind: str, config: Config, cluster: str, **settings: Any) -> int:
    """Converts on a cluster and says what was done; returns the exit code."""
    from cosdask.convert import convert
    from cosdask.convert.inputs import absolute

    with clusters.connect(cluster, config) as client, RowBar(config.progress, "converting") as bar:
        done = convert(
            rows, absolute(output), kind, overwrite=config.overwrite, client=client, progress=bar, **settings
        )
    for text in done.skipped:
        print(f"cosdask: left out: {text}", file=sys.stderr)
    kept = f", {done.kept} of {done.parts} parts were there already" if done.kept else ""
    left = f", {done.left} left out" if done.left else ""
    print(f"{output}: {done.rows} rows{left}{kept}")
    return 0


def _kind_of(output: str) -> str:
    found = [kind for ending, kind in _ENDINGS.items() if output.rstrip("/").endswith(ending)]
    if not found:
        raise ConfigError(
            f"{output}: in which format? Give it with --to, one of lmdb, parquet, sequence, ...", flag="to"
        )
    return found[-1]


def _whole(word: str, flag: str) -> int:
    if not word.isdecimal():
        raise ConfigError(f"flag --{flag}: {word!r} is not a whole number", flag=flag)
    return int(word)


def _parser() -> FlagParser:
    flags = FlagParser(
        prog="cosdask convert",
        description=_ABOUT,
        epilog=_EXAMPLES.format(tools=", ".join(old_tools.TOOLS)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="cosdask convert INPUT OUTPUT --to FORMAT [flags]",
    )
    flags.add_argument("input", metavar="INPUT", help="data set to read: a path or URL")
    flags.add_argument("output", metavar="OUTPUT", help="data set to write: a path or URL")
    flags.add_argument("--to", default="", metavar="FORMAT", help="format to write; else by OUTPUT's ending")
    flags.add_argument("--from", default="", metavar="FORMAT", help="format to read; else by what INPUT looks like")
    reading = flags.add_argument_group("reading")
    reading.add_argument("--image-root", default="", metavar="DIR", help="folder that a list's files count from")
    reading.add_argument("--ids", action="store_true", help="a list's lines end in an id: file label id")
    reading.add_argument("--label-file", default="", metavar="FILE", help="labels of an idx file, where not beside it")
    reading.add_argument("--shuffle", action="store_true", help="put a list's lines into a random order")
    reading.add_argument("--seed", default="0", metavar="N", help="random seed of --shuffle (default 0)")
    flags.add_options(("on_bad_rows",), "rows that cannot be read")
    images = flags.add_argument_group("images")
    images.add_argument("--resize-height", default="0", metavar="N", help="new height, with --resize-width")
    images.add_argument("--resize-width", default="0", metavar="N", help="new width, with --resize-height")
    images.add_argument("--gray", action="store_true", help="one channel")
    images.add_argument("--color", action="store_true", help="three channels")
    images.add_argument(
        "--encode", default="", metavar="FORMAT", help="store encoded images: png, jpg, bmp, tiff, webp"
    )
    images.add_argument("--decode", action="store_true", help="store pixels")
    writing = flags.add_argument_group("writing")
    writing.add_argument("--parts", default="0", metavar="N", help="parts to cut the work (and the folder) into")
    writing.add_argument(
        "--compression", default="none", metavar="WORD", help="of SequenceFiles: none (default), record, block"
    )
    writing.add_argument(
        "--codec", default="default", metavar="WORD", help="of compression: default, deflate, gzip, bzip2, snappy, zstd"
    )
    flags.add_options(("overwrite",), "outputs")
    flags.add_options(("clusterSize", "progress"), "workers")
    flags.add_argument("--cluster", default="local", metavar="WHERE", help=clusters.HELP)
    return flags
