"""Long texts on their way through the scheduler: packed, and still text."""

from __future__ import annotations

import base64
import zlib


def pack(text: str) -> str:
    """A text in fewer characters: zlib's, in base64.

    Example:
        >>> unpack(pack("cosdask" * 100)) == "cosdask" * 100, len(pack("cosdask" * 100)) < 100
        (True, True)
    """
    return base64.b64encode(zlib.compress(text.encode(), level=1)).decode()


def unpack(packed: str) -> str:
    """The text that :func:`pack` packed."""
    return zlib.decompress(base64.b64decode(packed)).decode()
