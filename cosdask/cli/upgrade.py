"""``cosdask upgrade``: an old prototxt or caffemodel, written in today's form."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from cosdask.cli.nets import is_solver
from cosdask.config import FlagParser
from cosdask.errors import ConfigError
from cosdask.proto import caffe_pb2, read_binary, read_net, read_solver, to_text, upgrade_net
from cosdask.storage import atomic_write, refuse_overwrite

_ABOUT = """Write a net or solver of any age in today's form, as Caffe's upgrade tools do: old layer types and fields,
data transformations, inputs, BatchNorm's parameters, solver types. A .caffemodel stays binary and keeps its weights.
cosdask reads old files as they are; this is for other programs, and for people."""

_EXAMPLES = """  cosdask upgrade old_train_val.prototxt train_val.prototxt
  cosdask upgrade old_solver.prototxt solver.prototxt
  cosdask upgrade old.caffemodel new.caffemodel"""


def main(words: Sequence[str]) -> int:
    """Runs the verb with the words after it; returns the exit code."""
    flags = FlagParser(
        prog="cosdask upgrade",
        description=_ABOUT,
        epilog=f"examples:\n{_EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="cosdask upgrade OLD NEW [flags]",
    )
    flags.add_argument("old", metavar="OLD", help="prototxt of a net or a solver, or a .caffemodel")
    flags.add_argument("new", metavar="NEW", help="where the new file goes")
    flags.add_options(("overwrite",), "files")
    given = flags.parse(words)
    refuse_overwrite(given.new, getattr(given, "overwrite", False))
    kind, data = upgraded(given.old)
    atomic_write(given.new, data)
    print(f"{kind}: {given.new}")
    return 0


def upgraded(path: str) -> tuple[str, str | bytes]:
    """What kind of file it is, and its content in today's form.

    Raises:
        ProtoError, StorageError: it cannot be read or upgraded.
        ConfigError: a file in HDF5, which has no older form.
    """
    if path.endswith(".h5"):
        raise ConfigError(f"{path}: an HDF5 file; there is no older form of it to upgrade from")
    if path.endswith(".caffemodel"):
        net = upgrade_net(read_binary(path, caffe_pb2.NetParameter()))
        return "caffemodel", net.SerializeToString(deterministic=True)
    if is_solver(path):
        return "solver", to_text(read_solver(path))
    return "net", to_text(read_net(path))
