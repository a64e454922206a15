"""Paths and URLs, atomic writes, the run folder."""

from cosdask.storage.atomic import atomic_output, atomic_write, refuse_overwrite
from cosdask.storage.paths import (
    FileStamp,
    describe_file,
    exists,
    filesystem,
    is_folder,
    join,
    local_path,
    missing,
    parent,
    read_bytes,
    read_text,
    remove,
    resolve,
    stamp,
)
from cosdask.storage.ranges import RangeFile, merged_ranges
from cosdask.storage.runfolder import RunFolder, Snapshot, run_folder_for

__all__ = [
    "FileStamp",
    "RangeFile",
    "RunFolder",
    "Snapshot",
    "atomic_output",
    "atomic_write",
    "describe_file",
    "exists",
    "filesystem",
    "is_folder",
    "join",
    "local_path",
    "merged_ranges",
    "missing",
    "parent",
    "read_bytes",
    "read_text",
    "refuse_overwrite",
    "remove",
    "resolve",
    "run_folder_for",
    "stamp",
]
