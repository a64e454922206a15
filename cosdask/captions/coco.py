"""Captions in COCO's JSON as rows."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import pandas as pd
import pyarrow as pa

from cosdask.errors import DataError, did_you_mean
from cosdask.storage import FileStamp, read_text, stamp

__all__ = ["coco_captions"]

#: Most bytes of a captions file; those of COCO 2014 have 67 MB.
_LIMIT = 2 << 30
#: Rows of a partition.
_ROWS = 2000

_IMAGES = pa.schema(
    [
        ("id", pa.int64()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("file", pa.string()),
        ("url", pa.string()),
    ]
)
_CAPTIONS = _IMAGES.append(pa.field("caption", pa.string()))


def coco_captions(url: str | os.PathLike[str], partitions: int | None = None) -> Any:
    """A captions file of COCO as a dask dataframe, a row a caption, in the file's order.

    Args:
        url: the JSON file: ``images`` (``id``, ``height``, ``width``, ``file_name``, where they are there
            ``flickr_url`` and ``coco_url``) and ``annotations`` (``id``, ``image_id``, ``caption``).
        partitions: how many; by default one for each 2,000 rows.

    Returns:
        ``id`` (of the caption), ``height``, ``width``, ``file``, ``url`` and ``caption``. A file without annotations,
        such as that of COCO's test images, gives a row an image: ``id`` is the image's, and there is no ``caption``.
        An entry without a url has an empty one.

    Raises:
        StorageError: missing or too large.
        DataError: no JSON of this kind, with the place; a caption of an image that is not listed.
    """
    import dask.dataframe as dd

    place, seen = os.fspath(url), stamp(url)
    table = _table(place, seen)
    count = min(partitions or -(-table.num_rows // _ROWS), table.num_rows)
    if not count:
        raise DataError(f"{place}: it lists no images and no captions", path=place)
    ranges = [(table.num_rows * k // count, table.num_rows * (k + 1) // count) for k in range(count)]
    meta = _frame(table.schema.empty_table())
    return dd.from_map(_rows, ranges, place=place, seen=seen, meta=meta, label="cosdask-coco")


def _rows(rows: tuple[int, int], place: str, seen: FileStamp) -> pd.DataFrame:
    start, stop = rows
    return _frame(_table(place, seen).slice(start, stop - start))


def _frame(table: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas(types_mapper=pd.ArrowDtype)
    return frame


@lru_cache(maxsize=2)
def _table(place: str, seen: FileStamp) -> pa.Table:
    """The rows of a file; a process that makes several of its partitions parses it once."""
    if stamp(place) != seen:
        raise DataError(f"{place}: has changed since the dataframe was made", path=place)
    try:
        document = json.loads(read_text(place, _LIMIT))
    except json.JSONDecodeError as error:
        raise DataError(f"{place}:{error.lineno}: no JSON: {error.msg}", path=place, line=error.lineno) from error
    except RecursionError as error:
        raise DataError(f"{place}: no captions file: its JSON is nested too deeply", path=place) from error
    images = {
        _key(entry, "id", place, f"images[{i}]"): entry for i, entry in enumerate(_list(document, "images", place))
    }
    if "annotations" not in document:
        return _build([_image_row(image, "coco_url", place) for image in images.values()], _IMAGES, place)
    rows = []
    for number, entry in enumerate(_list(document, "annotations", place)):
        where = f"annotations[{number}]"
        image = images.get(_key(entry, "image_id", place, where))
        if image is None:
            raise DataError(
                f"{place}: {where} is a caption of image {entry['image_id']}, which is not listed", path=place
            )
        row = _image_row(image, "flickr_url", place)
        rows.append({**row, "id": _key(entry, "id", place, where), "caption": _key(entry, "caption", place, where)})
    return _build(rows, _CAPTIONS, place)


def _build(rows: list[dict[str, Any]], schema: pa.Schema, place: str) -> pa.Table:
    try:
        return pa.Table.from_pylist(rows, schema)
    except (pa.ArrowException, OverflowError) as error:
        raise DataError(f"{place}: no captions file of COCO's kind: {error}", path=place) from error


def _list(document: Any, name: str, place: str) -> list[Any]:
    found = document.get(name) if isinstance(document, Mapping) else None
    if not isinstance(found, list):
        there = list(document)[:8] if isinstance(document, Mapping) else []
        has = f"; it has {', '.join(map(repr, there))}.{did_you_mean(name, there)}" if there else "."
        raise DataError(f'{place}: no captions file of COCO\'s kind: there is no list "{name}"{has}', path=place)
    return found


def _key(entry: Any, name: str, place: str, where: str) -> Any:
    if not isinstance(entry, Mapping) or isinstance(entry.get(name), dict | list | None):
        raise DataError(f'{place}: {where} has no "{name}"', path=place)
    return entry[name]


def _image_row(image: Mapping[str, Any], url: str, place: str) -> dict[str, Any]:
    return {
        "id": image["id"],
        "height": image.get("height"),
        "width": image.get("width"),
        "file": _key(image, "file_name", place, f"image {image['id']}"),
        "url": image.get(url) or "",
    }
