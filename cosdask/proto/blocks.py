"""Where the ``{ }`` blocks of a prototxt lie: protobuf's own parser gives no positions."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from dataclasses import dataclass, field

# Deeper than any net, and what protobuf's binary reader takes.
MAX_DEPTH = 100

_TOKEN = re.compile(
    r"""
    \#[^\n]*+                        # a comment
    | (?P<text>"(?:[^"\\\n]|\\.)*+"? | '(?:[^'\\\n]|\\.)*+'?)
    | (?P<word>[A-Za-z_]\w*+)
    | (?P<open>[{<])
    | (?P<close>[}>])
    """,
    re.VERBOSE,
)
# Up to a backslash that protobuf has no meaning for (as in a Windows path).
_ODD_ESCAPE = re.compile(r"""(?:[^\\\n]|\\(?:[abfnrtvxXuU?'"\\]|[0-3]|[4-7][0-7]?(?![0-7])))*+\\(?=.)""")
_LINE_END = re.compile("\\n")
_LAYERS = ("layer", "layers")


@dataclass
class Block:
    """One ``field { ... }``: offsets of its name and behind its end, and the value of the ``name`` in it."""

    field: str
    start: int
    end: int
    parent: Block | None
    name: str = ""

    @property
    def is_layer(self) -> bool:
        """Whether it is a layer of a net; V0's inner ``layer { }`` is a part of one."""
        return self.field in _LAYERS and (self.parent is None or self.parent.field not in _LAYERS)


@dataclass
class _Scan:
    """The state of one pass over a text."""

    blocks: list[Block] = field(default_factory=list)
    current: Block | None = None
    depth: int = 0
    word: str = ""
    word_at: int = 0

    def open(self, size: int) -> None:
        self.current = Block(self.word, self.word_at, size, self.current)
        self.blocks.append(self.current)
        self.depth += 1
        self.word = ""

    def close(self, end: int) -> None:
        if self.current is not None:
            self.current.end = end
            self.word, self.word_at = self.current.field, end  # for the next one of a list: layer: [{ ... }, { ... }]
            self.current = self.current.parent
            self.depth -= 1

    def value(self, text: str) -> None:
        if self.word != "name" or self.current is None or self.current.name:
            return
        self.current.name = text.strip("\"'")
        outer = self.current.parent
        if self.current.field == "layer" and outer is not None and outer.field == "layers":
            outer.name = self.current.name


def find_blocks(text: str) -> list[Block]:
    """All blocks in the order of their starts.

    A damaged text gives what can be seen in it: a block left open ends with the text, and nothing is looked for below
    :data:`MAX_DEPTH`.
    """
    scan = _Scan()
    for token in _TOKEN.finditer(text):
        if token["word"]:
            scan.word, scan.word_at = token["word"], token.start()
        elif token["open"]:
            scan.open(len(text))
        elif token["close"]:
            scan.close(token.end())
        elif token["text"]:
            scan.value(token["text"])
        if scan.depth > MAX_DEPTH:
            break
    return scan.blocks


def layer_lines(text: str) -> dict[str, list[int]]:
    r"""The line numbers (from 1) of each layer's block, by the layer's name, in the order of the text.

    A name may come more than once (a TRAIN and a TEST data layer, say); layers without a name are under ``""``.

    Example:
        >>> layer_lines('name: "net"\nlayer { name: "a" }\nlayer {\n  name: "b"\n}')
        {'a': [2], 'b': [3]}
    """
    starts = line_starts(text)
    lines: dict[str, list[int]] = {}
    for block in find_blocks(text):
        if block.is_layer:
            lines.setdefault(block.name, []).append(bisect_right(starts, block.start))
    return lines


def odd_escape(text: str) -> int | None:
    """The offset of the first backslash in a quoted text that begins no escape, or None."""
    for token in _TOKEN.finditer(text):
        found = _ODD_ESCAPE.match(token["text"]) if token["text"] else None
        if found:
            return token.start() + found.end() - 1
    return None


def line_starts(text: str) -> array[int]:
    """The offset of each line's first character."""
    starts = array("q", [0])
    starts.extend(end.end() for end in _LINE_END.finditer(text))
    return starts
