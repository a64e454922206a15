"""On which hosts the bytes of a file lie: HDFS tells it over HTTP, other filesystems do not."""

from __future__ import annotations

from dataclasses import dataclass

from cosdask.storage.hadoop import default_filesystem, http_addresses, real_url, split_url
from cosdask.storage.webhdfs import WebHdfsClient

#: seconds for an answer: a run starts without it, too
_PATIENCE = 5.0


@dataclass(frozen=True)
class BytePlace:
    """Bytes ``start`` to ``stop`` (excluded) of a file and the hosts that have a copy: their names and addresses."""

    start: int
    stop: int
    hosts: frozenset[str]


def byte_places(url: str) -> list[BytePlace]:
    """Where a file's blocks lie, in order; none for files that do not lie in HDFS.

    Raises:
        StorageError: a mount table that has no place for the name.
        OSError: the NameNode does not say it over HTTP.
    """
    if not url.startswith(("hdfs://", "viewfs://", "webhdfs://", "swebhdfs://")):
        return []
    scheme, authority, path = split_url(real_url(url))
    if scheme in ("webhdfs", "swebhdfs") and ":" in authority:
        addresses = [f"{'https' if scheme == 'swebhdfs' else 'http'}://{authority}"]
    else:
        addresses = http_addresses(authority or split_url(default_filesystem())[1])
    answer = WebHdfsClient(addresses, silence=_PATIENCE).ask("GETFILEBLOCKLOCATIONS", path)
    try:
        blocks = answer["BlockLocations"]["BlockLocation"]
        return [
            BytePlace(
                int(block["offset"]),
                int(block["offset"]) + int(block["length"]),
                frozenset([*block["hosts"], *(name.rpartition(":")[0] for name in block["names"])]),
            )
            for block in blocks
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise OSError(f"{addresses[0]}: its answer names no blocks' places ({error!r})") from error
