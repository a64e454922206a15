"""The errors cosdask raises, in one small tree.

Every message says what was wrong, where it was (file and line, layer, row, or rank and host) and what to do about it.
The places are also kept as attributes in :attr:`CosdaskError.where`, so that programs need not read the text.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable
from typing import Any


class CosdaskError(Exception):
    """Base of all errors raised by cosdask.

    Args:
        message: the whole text, place and remedy included.
        **where: the place in parts, such as ``path=``, ``line=``, ``layer=``, ``row=``, ``rank=``, ``host=``.

    Example:
        >>> error = CosdaskError('layer "conv1": no filler', layer="conv1")
        >>> error.where["layer"]
        'conv1'
    """

    def __init__(self, message: str, **where: Any) -> None:
        super().__init__(message)
        self.where: dict[str, Any] = where

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors travel from workers. tblib, through which Dask sends them, cannot build those that are two kinds of
        # built-in error at once (DeadlineError); left to itself they come as a plain Exception.
        return _rebuilt, (type(self), self.args, self.where)

    @property
    def message(self) -> str:
        """The whole text."""
        return str(self.args[0]) if self.args else ""


def _rebuilt(kind: type[CosdaskError], arguments: tuple[str, ...], where: dict[str, Any]) -> CosdaskError:
    return kind(*arguments, **where)


class ConfigError(CosdaskError, ValueError):
    """An option, a flag or a combination of them that cannot work."""


class ProtoError(CosdaskError, ValueError):
    """A prototxt or binary protobuf file that cannot be read."""


class NetError(CosdaskError, ValueError):
    """A network that cannot be built or run: a layer's settings, shapes or connections."""


class WeightsError(CosdaskError, ValueError):
    """A weights or solver-state file that does not fit the network."""


class SolverError(CosdaskError, ValueError):
    """Solver settings that cannot work, or a training that went wrong (a loss that is not a number)."""


class DataError(CosdaskError, ValueError):
    """A data source, or a row in it, that cannot be read."""


class StorageError(CosdaskError, OSError):
    """A path that is missing, not visible, not writable, or already there."""


class GroupError(CosdaskError, RuntimeError):
    """Something went wrong in the group of ranks; names rank, host and step."""


class ClusterError(CosdaskError, RuntimeError):
    """Workers could not be had, or were lost for good: what YARN or a container said."""


class RankError(GroupError):
    """A rank ended with an error that would come again; carries the rank's own message."""


class DeadlineError(GroupError, TimeoutError):
    """A wait reached its deadline; names who is missing, where, and at which step."""


#: what the system says where a disk or quota is full, a disk fails, or there is no room for memory, processes or files
_MAY_PASS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE)


def may_pass(error: BaseException) -> bool:
    """Whether an error comes of a machine that is full or fails just now, so that another try may do better.

    That is where the error says so itself (``may_pass`` in its places), and where the system, Python or JAX was
    refused room.

    Example:
        >>> may_pass(OSError(errno.ENOSPC, "No space left on device")), may_pass(KeyError("x"))
        (True, False)
    """
    if isinstance(error, CosdaskError):
        return bool(error.where.get("may_pass")) or _was_refused(error.__cause__)
    return _was_refused(error) or isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def _was_refused(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in _MAY_PASS


def did_you_mean(name: str, known: Iterable[str], count: int = 3) -> str:
    """A sentence that names the known words nearest to ``name``, or an empty string.

    Example:
        >>> did_you_mean("kernal_size", ["kernel_size", "stride"])
        ' Did you mean "kernel_size"?'
    """
    near = difflib.get_close_matches(name, list(known), n=count, cutoff=0.6)
    if not near:
        return ""
    quoted = [f'"{word}"' for word in near]
    choice = quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + " or " + quoted[-1]
    return f" Did you mean {choice}?"
