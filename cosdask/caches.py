"""Where cosdask keeps what it would otherwise work out again: indexes of rows, and compiled programs."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """A folder of the cache; it need not be there yet.

    ``COSDASK_CACHE_DIR`` names the cache, else it is ``cosdask`` in the user's cache folder.

    Example:
        >>> cache_folder("programs").name
        'programs'
    """
    named = os.environ.get("COSDASK_CACHE_DIR")
    users = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(named or os.path.join(users, "cosdask")) / name


def prune(folder: Path, limit: int) -> None:
    """Delete the oldest files of a folder until at most ``limit`` bytes are left; others may do the same meanwhile."""
    entries = []
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            with contextlib.suppress(OSError):
                found = entry.stat()
                entries.append((found.st_mtime, found.st_size, entry.path))
    left = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if left <= limit:
            return
        with contextlib.suppress(OSError):
            os.unlink(path)
        left -= size
