"""Prototxt: text to messages with errors that name file, line and column, and messages to text."""

from __future__ import annotations

import io
import re
from bisect import bisect_right
from collections.abc import Iterator
from itertools import islice
from typing import Any, TypeVar

from google.protobuf import text_format
from google.protobuf.descriptor import Descriptor, EnumDescriptor
from google.protobuf.message import Message

from cosdask.errors import ProtoError, did_you_mean
from cosdask.proto import caffe_pb2
from cosdask.proto.blocks import MAX_DEPTH, Block, find_blocks, line_starts, odd_escape

M = TypeVar("M", bound=Message)

MAX_TEXT_BYTES = 64 * 2**20

_PARSE: Any = text_format.ParseLines  # type: ignore[attr-defined]  # the type stubs do not know it

# protobuf's sentences (its errors carry nothing else that says what is wrong) and ours.
_UNKNOWN_FIELD = re.compile(r'Message type "(?P<type>[\w.]+)" has no field named "(?P<name>[^"]*)"')
_UNKNOWN_VALUE = re.compile(r'Enum type "(?P<type>[\w.]+)" has no value (named|with number) ')
_TWICE = re.compile(r'should not have multiple "(?P<name>\w+)" fields')
_EXPECTED = re.compile(r'Expected "(?P<token>[^"]+)"\.$')
_ODD_ESCAPE = "a backslash in a text starts an escape such as \\n; a plain one is written \\\\"
_OTHERS = (
    ("String missing ending quote", "a text without its closing quote"),
    ("Expected string", "a text in quotes is needed"),
    ("Couldn't parse integer", "a whole number is needed"),
    ("Value out of range", "the number is too large or too small for this field"),
    ("Couldn't parse float", "a number is needed"),
    ("Invalid octal float", "a number is needed"),
    ('Expected "true" or "false"', "true or false is needed"),
    ("Expected identifier", "the name of a field is needed"),
    ("does not have extensions", "the name of a field is needed, without brackets"),
    ("unicodeescape", _ODD_ESCAPE),
    ("hex digits", _ODD_ESCAPE),
    ("Message too deep", f"blocks are nested more than {MAX_DEPTH} deep"),
)
# Nothing but space and comments.
_REST = re.compile(r"(?:\s++|#[^\n]*+)*+")
_FOUND = re.compile(r'"[^"\n]{0,40}"?|[\w.+-]{1,40}|\S')
_FIELD_BEFORE = re.compile(r"([A-Za-z_]\w*)\s*:?\s*(\[[^\]]*)?$")
_STEP = re.compile(r"(\w+)\[(\d+)\]")
_SHORT_ENUM = 12
_LONG_NAME = 80
_INNERMOST = 3
# protobuf's parser needs 150 bytes for each blank of a line's longest run of blanks.
_LONG_LINE = 100_000
_BLANKS = re.compile(r"\s++")
_FILES = {"NetParameter": "a net", "SolverParameter": "a solver"}


def parse_text(text: str, message: M, path: str = "<text>") -> M:
    """Fills ``message`` from a prototxt.

    Args:
        text: the whole text, 64 MiB at most.
        message: an empty message of the kind expected.
        path: the file's name, for error messages.

    Returns:
        The same message, filled. It is not upgraded.

    Raises:
        ProtoError: ``path:line:column: ...`` with the layer and block it is in; unknown names come with the nearest
            known ones.

    Example:
        >>> parse_text('layer { convolution_param { kernal_size: 5 } }', caffe_pb2.NetParameter(), "net.prototxt")
        Traceback (most recent call last):
        ...
        cosdask.errors.ProtoError: net.prototxt:1:29: in a layer without a name, convolution_param: \
there is no field "kernal_size". Did you mean "kernel_size"...?
    """
    text = text.removeprefix("\ufeff")  # the mark that some editors put before UTF-8
    _check(text, path)
    try:
        _PARSE(_lines(text), message, descriptor_pool=caffe_pb2.POOL, max_recursion_depth=MAX_DEPTH)
    except text_format.ParseError as error:
        raise _our_error(error, text, message.DESCRIPTOR, path) from None
    if missing := missing_field(message):
        raise _error_at(text, _end_of(text, missing), f"{missing} must be given, and is missing here", path)
    return message


def _check(text: str, path: str) -> None:
    """Refuses what protobuf's parser would not, or only at a great cost."""
    if len(text) > MAX_TEXT_BYTES:
        raise ProtoError(f"{path}: {len(text):,} characters are more than the {MAX_TEXT_BYTES:,} accepted", path=path)
    for line, content in enumerate(_lines(text), start=1):
        if len(content) > _LONG_LINE and any(len(run[0]) > _LONG_LINE for run in _BLANKS.finditer(content)):
            raise ProtoError(f"{path}:{line}: more than {_LONG_LINE:,} blanks in a row", path=path, line=line)
    # protobuf's Python parser takes backslashes that its C++ parser, and so Caffe, refuses.
    if "\\" in text and (offset := odd_escape(text)) is not None:
        raise _error_at(text, offset, _ODD_ESCAPE, path)


def _lines(text: str) -> Iterator[str]:
    """The lines one by one: a list of millions of them takes many times the text's memory."""
    return (line.removesuffix("\n") for line in io.StringIO(text, newline="\n"))


def missing_field(message: Any) -> str:
    """The path of the first required field that is not set, such as ``layer[2].clip_param.max``, or an empty string.

    Example:
        >>> missing_field(caffe_pb2.NetParameter(layer=[{"clip_param": {"min": 0}}]))
        'layer[0].clip_param.max'
    """
    return "" if message.IsInitialized() else str(message.FindInitializationErrors()[0])


def to_text(message: Message) -> str:
    """A message as prototxt; reading it gives the same message, every float included.

    Example:
        >>> print(to_text(caffe_pb2.NetParameter(name="lenet")), end="")
        name: "lenet"
    """
    return text_format.MessageToString(message, as_utf8=True)


def _our_error(error: text_format.ParseError, text: str, root: Any, path: str) -> ProtoError:
    line, column = error.GetLine(), error.GetColumn()
    raw = str(error).removeprefix(f"{line}:{column} : ")
    if line is None or column is None:
        # Only nesting too deep comes without a place.
        blocks = find_blocks(text)
        offset = blocks[-1].start if blocks else 0
    else:
        offset = min(line_starts(text)[max(line, 1) - 1] + column - 1, len(text))
        raw = raw.removeprefix(f"'{next(islice(_lines(text), max(line, 1) - 1, None), '')}': ")
    return _error_at(text, offset, _unknown(raw, text, offset, root) or _misplaced(raw, text, offset), path)


def _error_at(text: str, offset: int, what: str, path: str) -> ProtoError:
    """An error with the place in every form: line and column (from 1), layer, and blocks around."""
    starts = line_starts(text)
    line = bisect_right(starts, offset)
    column = offset - starts[line - 1] + 1
    where, layer = _place(_around(text, offset))
    place: dict[str, object] = {"path": path, "line": line, "column": column}
    if layer:
        place["layer"] = layer
    return ProtoError(f"{path}:{line}:{column}: {where}{what}", **place)


def _end_of(text: str, missing: str) -> int:
    """The offset of the bracket before which a field is missing, such as ``layer[2].clip_param.max``."""
    step = _STEP.match(missing)
    inner = missing.split(".")[-2]
    blocks = find_blocks(text)
    layers = [block for block in blocks if step and block.parent is None and block.field == step[1]]
    if not step or len(layers) <= int(step[2]):
        return 0
    layer = layers[int(step[2])]
    ends = [block.end for block in blocks if block.field == inner and layer.start < block.start < layer.end]
    return (ends[0] if ends else layer.end) - 1


def _around(text: str, offset: int) -> list[Block]:
    """The blocks that a place lies in, outermost first."""
    return [block for block in find_blocks(text) if block.start < offset < block.end]


def _place(around: list[Block]) -> tuple[str, str]:
    """The layer and the blocks within it that a place lies in, in words, and the layer's name."""
    layer = next((block for block in around if block.is_layer), None)
    inside = [block.field for block in around if block.field and (layer is None or block.start > layer.start)]
    words = inside[-_INNERMOST:]
    if layer is not None:
        words.insert(0, f'in layer "{layer.name[:_LONG_NAME]}"' if layer.name else "in a layer without a name")
    return (", ".join(words) + ": " if words else ""), (layer.name if layer is not None else "")


def _unknown(raw: str, text: str, offset: int, root: Any) -> str:
    """The sentence for a name that does not exist, or an empty string where that is not what is wrong."""
    if found := _UNKNOWN_FIELD.search(raw):
        message = root.file.pool.FindMessageTypeByName(found["type"])
        name = found["name"][:_LONG_NAME]
        return f'there is no field "{name}".{_field_hint(name, message, root)}'
    if found := _UNKNOWN_VALUE.search(raw):
        enum = root.file.pool.FindEnumTypeByName(found["type"])
        return f"{_field(text, offset)}there is no value {_found(text, offset)}.{_value_hint(text, offset, enum)}"
    return ""


def _field_hint(name: str, message: Descriptor, root: Any) -> str:
    """The nearest names; else where a field of this name does belong."""
    if near := did_you_mean(name, message.fields_by_name):
        return near
    if message == root and root.name in _FILES:
        for other, kind in _FILES.items():
            if name in caffe_pb2.DESCRIPTOR.message_types_by_name[other].fields_by_name:
                return f" It is a field of {kind}; is this the file you meant?"
    homes = [field.name for field in message.fields if field.message_type and name in field.message_type.fields_by_name]
    if homes:
        return f" It belongs in {' or '.join(homes[:4])}."
    return ""


def _value_hint(text: str, offset: int, enum: EnumDescriptor) -> str:
    found = _found(text, offset)
    word = found.strip('"')
    names = list(enum.values_by_name)
    if word in names and text.startswith(found, offset):
        return f" Write {word} without quotes."
    if near := did_you_mean(word.upper(), names):
        return near
    return f" The values are {', '.join(names)}." if len(names) <= _SHORT_ENUM else ""


def _misplaced(raw: str, text: str, offset: int) -> str:
    """The sentence for everything but unknown names."""
    if found := _TWICE.search(raw):
        return f"{found['name']} is given twice, and it may be there only once"
    if "Couldn't parse string" in raw or "surrogates" in raw:
        return "the text before this place is not UTF-8"
    expected = _EXPECTED.search(raw)
    # A missing bracket is reported at the last token, everything else behind it.
    after = _token_end(text, offset) if expected and expected["token"] in "}>" else offset
    if _REST.fullmatch(text, after):
        if around := _around(text, offset):
            line = bisect_right(line_starts(text), around[-1].start)
            return f'the text ends, and the block "{around[-1].field}" opened at line {line} has no closing bracket'
        return "the text ends in the middle of a field"
    for sentence, ours in _OTHERS:
        if sentence in raw:
            return f"{_field(text, offset)}{ours}, and here is {_found(text, offset)}"
    if expected:
        return f'{_field(text, offset)}"{expected["token"]}" is needed, and here is {_found(text, offset)}'
    return f"this cannot be read: {_found(text, offset)} ({raw[-200:]})"


def _field(text: str, offset: int) -> str:
    """The name of the field whose value should stand at a place, with a colon."""
    found = _FIELD_BEFORE.search(text[max(0, offset - 200) : offset])
    return f"{found[1]}: " if found else ""


def _token_end(text: str, offset: int) -> int:
    found = _FOUND.match(text, offset)
    return found.end() if found else offset


def _found(text: str, offset: int) -> str:
    """What stands at a place, in quotes."""
    token = text[offset : _token_end(text, offset)]
    if not token.isprintable():
        return ascii(token)
    return token if token.startswith('"') else f'"{token}"'
