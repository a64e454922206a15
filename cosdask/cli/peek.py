"""``cosdask peek``: the first rows of any source."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from cosdask.config import FlagParser
from cosdask.errors import ConfigError
from cosdask.storage import atomic_write, refuse_overwrite

_ABOUT = """Print the first rows of a data set: ids, labels, sizes. SOURCE is a path or URL in any format that cosdask
convert reads, a SequenceFile of any keys and values, or a net's or solver's prototxt, whose data layer is looked at."""

_EXAMPLES = """examples:
  cosdask peek mnist_train_lmdb --png digits.png
  cosdask peek lenet_memory_train_test.prototxt --phase TEST --rows 3
  cosdask peek hdfs:///data/train_seq"""


def main(words: Sequence[str]) -> int:
    """Runs the verb with the words after it; returns the exit code."""
    flags = FlagParser(
        prog="cosdask peek",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="cosdask peek SOURCE [flags]",
    )
    flags.add_argument("source", metavar="SOURCE", help="a data set, or a prototxt")
    flags.add_argument("--rows", default="10", metavar="N", help="rows to show (default 10)")
    flags.add_argument("--png", default="", metavar="FILE", help="write the rows' pictures to a PNG file")
    flags.add_argument("--from", default="", metavar="FORMAT", help="format; else by what the data look like")
    flags.add_argument("--phase", default="TRAIN", metavar="PHASE", help="of a prototxt: TRAIN (default) or TEST")
    flags.add_argument("--image-root", default="", metavar="DIR", help="folder that a list's files count from")
    flags.add_argument("--label-file", default="", metavar="FILE", help="labels of an idx file, where not beside it")
    flags.add_options(("overwrite",), "outputs")
    given = vars(flags.parse(words))
    if not given["rows"].isdecimal() or int(given["rows"]) < 1:
        raise ConfigError(f"flag --rows: {given['rows']!r} is not a whole number of at least 1", flag="rows")
    if given["png"]:
        refuse_overwrite(given["png"], bool(given.get("overwrite")))
    from cosdask.convert import peek

    found = peek(
        given["source"],
        int(given["rows"]),
        given["from"],
        given["phase"],
        pictures=bool(given["png"]),
        root=given["image_root"],
        labels=given["label_file"],
    )
    print(found)
    if given["png"]:
        atomic_write(given["png"], found.sheet())
        print(f"pictures: {given['png']}")
    return 0
