"""Whole files: nets and solvers read, and brought to today's form."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import Message

from cosdask.errors import ProtoError
from cosdask.proto import caffe_pb2
from cosdask.proto.blocks import layer_lines
from cosdask.proto.text import MAX_TEXT_BYTES, parse_text
from cosdask.proto.upgrade import upgrade_net, upgrade_solver
from cosdask.storage import parent, read_bytes, resolve

M = TypeVar("M", bound=Message)
PathLike = str | os.PathLike[str]


def read_net(path_or_url: PathLike) -> caffe_pb2.NetParameter:
    """A network from a prototxt of any age, upgraded; all phases' layers are in it.

    Raises:
        ProtoError: ``path:line:column: ...`` for a damaged text, ``path:line: ...`` for a layer that cannot be
            upgraded.
        StorageError: missing, unreadable or larger than 64 MiB.
    """
    return parse_net(read_prototxt(path_or_url), os.fspath(path_or_url))


def read_solver(path_or_url: PathLike) -> caffe_pb2.SolverParameter:
    """A solver from a prototxt of any age, upgraded. The net that it names is not read.

    Raises:
        ProtoError: as :func:`read_net`.
        StorageError: as :func:`read_net`.
    """
    return parse_solver(read_prototxt(path_or_url), os.fspath(path_or_url))


def parse_net(text: str, path: str = "<text>") -> caffe_pb2.NetParameter:
    """A network from the text of a prototxt of any age, upgraded; ``path`` is for error messages.

    Raises:
        ProtoError: as :func:`read_net`.

    Example:
        >>> parse_net('layers { name: "fc" type: INNER_PRODUCT }').layer[0].type
        'InnerProduct'
    """
    return _upgraded(upgrade_net, parse_text(text, caffe_pb2.NetParameter(), path), text, path)


def parse_solver(text: str, path: str = "<text>") -> caffe_pb2.SolverParameter:
    """A solver from the text of a prototxt of any age, upgraded; ``path`` is for error messages.

    Raises:
        ProtoError: as :func:`read_net`.

    Example:
        >>> parse_solver("base_lr: 0.1 solver_type: NESTEROV").type
        'Nesterov'
    """
    return _upgraded(upgrade_solver, parse_text(text, caffe_pb2.SolverParameter(), path), text, path)


def initial_weights(param: caffe_pb2.SolverParameter, path: str | None) -> list[str]:
    """The weights files that a solver names, where they lead to; each entry may name several, separated by commas.

    Args:
        param: the solver's message.
        path: its file, beside which the weights may lie; None where there is none.

    Example:
        >>> initial_weights(parse_solver('weights: "/w/a, /w/b" weights: "/w/c"'), None)
        ['/w/a', '/w/b', '/w/c']
    """
    folder = parent(path) if path else None
    named = [name.strip() for entry in param.weights for name in entry.split(",")]
    return [resolve(name, folder) for name in named if name]


def read_prototxt(path_or_url: PathLike) -> str:
    """The text of a prototxt.

    Raises:
        ProtoError: a binary file.
        StorageError: missing, unreadable or larger than 64 MiB.
    """
    path = os.fspath(path_or_url)
    data = read_bytes(path, MAX_TEXT_BYTES)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _binary(path, error.start) from error
    if "\0" in text:
        raise _binary(path, data.index(b"\0"))
    return text


def _binary(path: str, offset: int) -> ProtoError:
    return ProtoError(
        f"{path}: not a text (byte {offset:,} is not UTF-8); it looks like a binary file, such as a caffemodel, and a"
        " prototxt is needed here",
        path=path,
        offset=offset,
    )


def _upgraded(upgrade: Callable[[M], M], message: M, text: str, path: str) -> M:
    """The message upgraded; an error gets file and line."""
    try:
        return upgrade(message)
    except ProtoError as error:
        place = {"path": path, **error.where}
        lines = layer_lines(text).get(error.where.get("layer", ""), [])
        if lines:
            place["line"] = lines[0]
        line = f":{lines[0]}" if lines else ""
        raise ProtoError(f"{path}{line}: {error.message}", **place) from None
