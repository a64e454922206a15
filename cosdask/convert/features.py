"""Features of a net as databases: what Caffe's own extract_features does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from cosdask.convert.job import Progress
from cosdask.convert.rows import row_schema
from cosdask.convert.stores import STORE_KINDS
from cosdask.convert.work import WorkFolder
from cosdask.data import get_source
from cosdask.errors import ConfigError, NetError, did_you_mean
from cosdask.nn.net import Net
from cosdask.storage import join, local_path, refuse_overwrite, take_name

_AXES = 4
#: Digits of the keys that Caffe's tool writes.
_DIGITS = 10


def extract_features(
    weights: str,
    net: str,
    blobs: Sequence[str],
    outputs: Sequence[str],
    batches: int,
    kind: str = "lmdb",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> int:
    """Run a net over the batches of its TEST data layer and write blobs as Datums of floats.

    Keys are the rows' numbers in ten digits; the data wrap round when more batches are asked for than there are.

    Args:
        weights: the trained model.
        net: the prototxt.
        blobs: names of blobs with a row a sample.
        outputs: a database for each blob, on a local disk.
        batches: how many batches of the data layer to run.
        kind: ``"lmdb"`` or ``"leveldb"``.
        overwrite: replace databases that are there.
        progress: called with the batches done and all batches.

    Returns:
        Rows of each database.

    Raises:
        ConfigError: not as many outputs as blobs, or settings that cannot work.
        NetError: the net lacks a blob, or it has more than four axes.
        StorageError: an output is there already.
    """
    if len(blobs) != len(outputs) or not blobs:
        raise ConfigError(f"{len(blobs)} blobs and {len(outputs)} databases for them; one each is needed")
    if kind not in ("lmdb", "leveldb"):
        raise ConfigError(f'db_type "{kind}": lmdb and leveldb are possible')
    if batches < 1:
        raise ConfigError(f"{batches} mini-batches; at least one is needed")
    for output in outputs:
        if local_path(output) is None:
            raise ConfigError(f"{output}: databases of features are written to local disks")
        refuse_overwrite(output, overwrite)
    opened = Net(net, phase="TEST", weights=weights)
    for blob in blobs:
        if blob not in opened.blob_shapes:
            raise NetError(f'{net}: no blob "{blob}".{did_you_mean(blob, opened.blob_shapes)}', blob=blob)
        if not 1 <= len(opened.blob_shapes[blob]) <= _AXES:
            raise NetError(f'blob "{blob}" has the shape {opened.blob_shapes[blob]}; 1 to 4 axes fit into a Datum')
    works = [WorkFolder(output) for output in outputs]
    for work in works:
        work.remove()
    stores = [STORE_KINDS[kind](_folder(work), _DIGITS) for work in works]
    rows = 0
    try:
        feed = get_source(opened, "TEST").batches()
        for number in range(batches):
            found = opened.forward(next(feed), blobs=list(blobs))
            for blob, store in zip(blobs, stores, strict=True):
                store.put(rows, _rows(found[blob]))
            rows += len(found[blobs[0]])
            if progress is not None:
                progress(number + 1, batches)
    finally:
        for store in stores:
            store.close()
    for work in works:
        take_name(join(work.url, "store"), work.output)
        work.remove()
    return rows


def _folder(work: WorkFolder) -> Any:
    here = local_path(work.url)
    assert here is not None
    return here / "store"


def _rows(blob: np.ndarray) -> pa.RecordBatch:
    """A blob's samples as rows of floats; missing axes are 1, as in Caffe's old blobs."""
    shape = (*blob.shape, *(1,) * (_AXES - blob.ndim))
    _, channels, height, width = shape
    pixels = np.asarray(blob, np.float32).reshape(shape).transpose(0, 2, 3, 1)
    sizes = {"channels": channels, "height": height, "width": width}
    rows = [
        {"id": "", "label": "0", **sizes, "encoded": False, "data": None, "float_data": image.ravel()}
        for image in pixels
    ]
    return pa.RecordBatch.from_pylist(rows, row_schema(floats=True))
