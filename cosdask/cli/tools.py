"""What ``show``, ``time`` and ``draw`` share: which net a prototxt means, and opening it without its data."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cosdask.cli.nets import is_solver, solver_net
from cosdask.config import FlagParser
from cosdask.errors import ConfigError, DataError, StorageError
from cosdask.nn import Net, allow_python_layers
from cosdask.proto import caffe_pb2, filter_net, read_net
from cosdask.storage import parent

PHASES = ("TRAIN", "TEST")


@dataclass(frozen=True)
class NetChoice:
    """The net that a command line names."""

    where: str | caffe_pb2.NetParameter
    folder: str | None
    phase: str
    level: int
    stages: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]

    def message(self) -> caffe_pb2.NetParameter:
        """The layers of the phase, unbuilt."""
        whole = self.where if isinstance(self.where, caffe_pb2.NetParameter) else read_net(self.where)
        return filter_net(whole, self.phase, self.level, self.stages)

    def open(self, seed: int | None = None) -> Net:
        """The net, built.

        Raises:
            DataError, StorageError: shapes come from data that is not here; the text says how to state them.
            ProtoError, NetError: as of :class:`cosdask.Net`.
        """
        try:
            return Net(
                self.where,
                phase=self.phase,
                level=self.level,
                stages=self.stages,
                input_shapes=self.shapes,
                seed=seed,
                folder=self.folder,
            )
        except (DataError, StorageError) as error:
            fed = [top for layer in self.message().layer if not layer.bottom for top in layer.top]
            example = " ".join(f"--input-shape {top}={'10,3,227,227' if top == fed[0] else '10'}" for top in fed)
            error.args = (f"{error.message} Without the data, state the shapes, such as {example}",)
            raise


def tool_parser(verb: str, about: str, examples: str, phase: str, **words: Any) -> FlagParser:
    """A parser with the flags that choose a net.

    Args:
        verb: the verb's name.
        about: what it does.
        examples: command lines.
        phase: the default phase.
        **words: further positional words, name and help.
    """
    flags = FlagParser(
        prog=f"cosdask {verb}",
        description=about,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=f"cosdask {verb} NET{''.join(f' {name.upper()}' for name in words)} [flags]",
    )
    flags.add_argument("net", metavar="NET", help="prototxt of a net or a solver")
    for name, text in words.items():
        flags.add_argument(name, metavar=name.upper(), help=text)
    flags.add_argument("--phase", default=phase, metavar="WORD", help=f"TRAIN or TEST (default {phase})")
    flags.add_argument("--level", default="0", metavar="N", help="level of the net's state")
    flags.add_argument("--stage", default="", metavar="NAMES", help="stages of the net's state, separated by commas")
    flags.add_argument(
        "--input-shape",
        action="append",
        default=[],
        metavar="BLOB=SHAPE",
        help="shape of an input, such as data=10,3,227,227; may be given again",
    )
    flags.add_options(("allow_modules",), "Python layers")
    return flags


def chosen_net(given: argparse.Namespace) -> NetChoice:
    """The net that the parsed flags choose.

    Raises:
        ConfigError: a phase, level or shape that is none.
        ProtoError, StorageError: the prototxt cannot be read.
    """
    phase = given.phase.upper()
    if phase not in PHASES:
        raise ConfigError(f'flag --phase: "{given.phase}" is neither TRAIN nor TEST', flag="phase")
    level = _whole(given.level, "level")
    stages = tuple(name.strip() for name in given.stage.split(",") if name.strip())
    shapes = dict(_shape(word) for word in given.input_shape)
    if modules := getattr(given, "allow_modules", ""):
        allow_python_layers([name.strip() for name in modules.split(",") if name.strip()])
    if not is_solver(given.net):
        return NetChoice(given.net, parent(given.net), phase, level, stages, shapes)
    found = solver_net(given.net, phase)
    return NetChoice(found.where, found.folder, phase, level or found.state_level, (*found.stages, *stages), shapes)


def _shape(word: str) -> tuple[str, tuple[int, ...]]:
    name, _, sizes = word.partition("=")
    try:
        shape = tuple(int(size) for size in sizes.split(",")) if sizes else ()
    except ValueError:
        shape = ()
    if not name or not shape or min(shape) < 1:
        raise ConfigError(
            f'flag --input-shape: "{word}" is not BLOB=SHAPE, such as data=10,3,227,227', flag="input-shape"
        )
    return name, shape


def _whole(word: str, flag: str, least: int = 0) -> int:
    if not word.isdecimal() or int(word) < least:
        raise ConfigError(f"flag --{flag}: {word!r} is not a whole number of at least {least}", flag=flag)
    return int(word)


def positive(word: str, flag: str) -> int:
    """A flag's number of 1 or more.

    Raises:
        ConfigError: it is none.
    """
    return _whole(word, flag, 1)


def aligned(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Rows of words as columns; the columns in ``right`` end at the same place.

    Example:
        >>> print(aligned([["layer", "weights"], ["ip", "16"]], right=[1]), end="")
        layer  weights
        ip          16
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        words = [
            word.rjust(w) if i in right else word.ljust(w) for i, (word, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(words).rstrip() + "\n")
    return "".join(lines)
