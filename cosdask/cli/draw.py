"""``cosdask draw``: a net as a picture."""

from __future__ import annotations

from collections.abc import Sequence

from cosdask.cli.tools import chosen_net, tool_parser
from cosdask.errors import DataError, StorageError
from cosdask.storage import refuse_overwrite

_ABOUT = """Draw a net as boxes and arrows, into an SVG, PNG or PDF file; no other program is needed. Shapes stand
beside the arrows where they are known: from the net itself, from its data, or from --input-shape."""

_EXAMPLES = """  cosdask draw lenet.prototxt lenet.svg
  cosdask draw train_val.prototxt net.png --phase TRAIN --input-shape data=1,3,224,224 --input-shape label=1"""


def main(words: Sequence[str]) -> int:
    """Runs the verb with the words after it; returns the exit code."""
    flags = tool_parser("draw", _ABOUT, _EXAMPLES, "TEST", file="where the picture goes: .svg, .png or .pdf")
    flags.add_argument("--sideways", action="store_true", help="from left to right instead of downwards")
    flags.add_options(("overwrite",), "files")
    given = flags.parse(words)
    choice = chosen_net(given)
    refuse_overwrite(given.file, getattr(given, "overwrite", False))
    from cosdask.view import draw_net

    message = choice.message()
    try:
        shapes = dict(choice.open(seed=0).blob_shapes)
    except (DataError, StorageError):
        shapes = {}  # a picture needs no data
    draw_net(message.layer, given.file, shapes, title=message.name, sideways=given.sideways)
    print(f"picture: {given.file}")
    return 0
