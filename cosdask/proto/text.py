"""Prototxt: text to messages with errors that name file, line and column, and messages to text."""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import TypeVar

from google.protobuf import text_format
from google.protobuf.descriptor import Descriptor, EnumDescriptor
from google.protobuf.message import Message

from cosdask.errors import ProtoError, did_you_mean
from cosdask.proto import caffe_pb2
from cosdask.proto.blocks import MAX_DEPTH, Block, find_blocks, line_starts

M = TypeVar("M", bound=Message)

MAX_TEXT_BYTES = 64 * 2**20

# protobuf's sentences (its errors carry nothing else that says what is wrong) and ours.
_UNKNOWN_FIELD = re.compile(r'Message type "(?P<type>[\w.]+)" has no field named "(?P<name>[^"]*)"')
_UNKNOWN_VALUE = re.compile(r'Enum type "(?P<type>[\w.]+)" has no value (named|with number) ')
_TWICE = re.compile(r'should not have multiple "(?P<name>\w+)" fields')
_EXPECTED = re.compile(r'Expected "(?P<token>[^"]+)"\.$')
_WRONG_VALUES = (
    ("String missing ending quote", "a text without its closing quote"),
    ("Expected string", "a text in quotes is needed"),
    ("Couldn't parse integer", "a whole number is needed"),
    ("Value out of range", "the number is too large or too small for this field"),
    ("Couldn't parse float", "a number is needed"),
    ("Invalid octal float", "a number is needed"),
    ('Expected "true" or "false"', "true or false is needed"),
    ("Expected identifier or number", "the name of a field is needed"),
    ("Message too deep", f"blocks are nested more than {MAX_DEPTH} deep"),
)
_FOUND = re.compile(r'"[^"\n]{0,40}"?|[\w.+-]{1,40}|\S')
_FIELD_BEFORE = re.compile(r"([A-Za-z_]\w*)\s*:?\s*(\[[^\]]*)?$")
_SHORT_ENUM = 12
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
there is no field "kernal_size". Did you mean "kernel_size"?
    """
    if len(text) > MAX_TEXT_BYTES:
        raise ProtoError(f"{path}: {len(text):,} characters are more than the {MAX_TEXT_BYTES:,} accepted", path=path)
    text = text.removeprefix("\ufeff")  # the mark that some editors put before UTF-8
    try:
        text_format.Parse(text, message, descriptor_pool=caffe_pb2.POOL, max_recursion_depth=MAX_DEPTH)
    except text_format.ParseError as error:
        raise _our_error(error, text, message.DESCRIPTOR.name, path) from error
    return message


def to_text(message: Message) -> str:
    """A message as prototxt; reading it gives the same message, every float included.

    Example:
        >>> print(to_text(caffe_pb2.NetParameter(name="lenet")), end="")
        name: "lenet"
    """
    return text_format.MessageToString(message, as_utf8=True)


def _our_error(error: text_format.ParseError, text: str, root: str, path: str) -> ProtoError:
    line, column = error.GetLine(), error.GetColumn()
    raw = str(error)
    starts = line_starts(text)
    if line is None or column is None:
        # Only nesting too deep comes without a place.
        blocks = find_blocks(text)
        offset = blocks[-1].start if blocks else 0
        line = bisect_right(starts, offset)
        column = offset - starts[line - 1] + 1
    else:
        line = max(line, 1)
        offset = min(starts[line - 1] + column - 1, len(text))
        blocks = find_blocks(text)
    around = [block for block in blocks if block.start < offset < block.end]
    where, layer = _place(around)
    what = _unknown(raw, text, offset, root) or _misplaced(raw, text, offset, around, starts)
    place: dict[str, object] = {"path": path, "line": line, "column": column}
    if layer:
        place["layer"] = layer
    return ProtoError(f"{path}:{line}:{column}: {where}{what}", **place)


def _place(around: list[Block]) -> tuple[str, str]:
    """The layer and the blocks within it that a place lies in, in words, and the layer's name."""
    layer = next((block for block in around if block.is_layer), None)
    words = [block.field for block in around if layer is None or block.start > layer.start]
    if layer is not None:
        words.insert(0, f'in layer "{layer.name}"' if layer.name else "in a layer without a name")
    return (", ".join(words) + ": " if words else ""), (layer.name if layer is not None else "")


def _unknown(raw: str, text: str, offset: int, root: str) -> str:
    """The sentence for a name that does not exist, or an empty string where that is not what is wrong."""
    if found := _UNKNOWN_FIELD.search(raw):
        message = caffe_pb2.POOL.FindMessageTypeByName(found["type"])
        return f'there is no field "{found["name"]}".' + _field_hint(found["name"], message, root)
    if found := _UNKNOWN_VALUE.search(raw):
        enum = caffe_pb2.POOL.FindEnumTypeByName(found["type"])
        return f"{_field(text, offset)}there is no value {_found(text, offset)}.{_value_hint(text, offset, enum)}"
    return ""


def _field_hint(name: str, message: Descriptor, root: str) -> str:
    """The nearest names; else where a field of this name does belong."""
    if near := did_you_mean(name, message.fields_by_name):
        return near
    homes = [field.name for field in message.fields if field.message_type and name in field.message_type.fields_by_name]
    if homes:
        return f" It belongs in {' or '.join(homes[:4])}."
    if message.name == root and root in _FILES:
        for other, kind in _FILES.items():
            if name in caffe_pb2.POOL.FindMessageTypeByName(f"caffe.{other}").fields_by_name:
                return f" It is a field of {kind}; is this the file you meant?"
    return ""


def _value_hint(text: str, offset: int, enum: EnumDescriptor) -> str:
    word = _found(text, offset).strip('"')
    names = list(enum.values_by_name)
    if near := did_you_mean(word.upper(), names):
        return near
    return f" The values are {', '.join(names)}." if len(names) <= _SHORT_ENUM else ""


def _misplaced(raw: str, text: str, offset: int, around: list[Block], starts: list[int]) -> str:
    """The sentence for everything but unknown names."""
    if found := _TWICE.search(raw):
        return f"{found['name']} is given twice, and it may be there only once"
    if text[offset:].strip() == "" or (_EXPECTED.search(raw) and not text[_token_end(text, offset) :].strip()):
        if around:
            line = bisect_right(starts, around[-1].start)
            return f'the text ends, and the block "{around[-1].field}" opened at line {line} has no closing bracket'
        return "the text ends in the middle of a field"
    for sentence, ours in _WRONG_VALUES:
        if sentence in raw:
            return f"{_field(text, offset)}{ours}, and here is {_found(text, offset)}"
    if found := _EXPECTED.search(raw):
        return f"{_field(text, offset)}a {found['token']} is needed, and here is {_found(text, offset)}"
    return f"this cannot be read: {_found(text, offset)}"


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
    return token if token.startswith('"') else f'"{token}"'
