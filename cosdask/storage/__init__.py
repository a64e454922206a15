"""Paths and URLs, atomic writes, the run folder."""

from cosdask.storage.atomic import (
    atomic_output,
    atomic_write,
    make_folder,
    refuse_overwrite,
    remove_all,
    remove_parts,
    take_name,
)
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
    "make_folder",
    "merged_ranges",
    "missing",
    "parent",
    "read_bytes",
    "read_text",
    "refuse_overwrite",
    "remove",
    "remove_all",
    "remove_parts",
    "resolve",
    "run_folder_for",
    "stamp",
    "take_name",
]
