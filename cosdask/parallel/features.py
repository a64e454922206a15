"""Features: blobs of the TEST net for every row, as a lazy dask dataframe."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from cosdask.data import Segment, Skips, Source, take
from cosdask.data.skips import LISTED, in_words
from cosdask.errors import DataError, NetError, did_you_mean
from cosdask.nn.net import Net
from cosdask.nn.partition import CELL, cells, forward_rows
from cosdask.parallel.evaluate import Evaluation
from cosdask.parallel.frame_input import given_source

_LOG = logging.getLogger(__name__)
#: partitions a worker, so that uneven workers even out
_SHARE = 4


def features(evaluation: Evaluation, blobs: Sequence[str], workers: int) -> Any:
    """A lazy dask dataframe: ``SampleID``, then a column a blob; nothing is computed before it is asked for.

    Partitions are whole batches, so only the last batch of all is short.
    """
    import dask.dataframe as dd

    batches = -(-evaluation.rows // evaluation.batch)
    size = evaluation.batch * max(1, -(-batches // (_SHARE * workers)))
    ranges = [(start, min(start + size, evaluation.rows)) for start in range(0, evaluation.rows, size)]
    return dd.from_map(
        feature_rows,
        ranges,
        evaluation=evaluation,
        blobs=tuple(blobs),
        meta=_frame([], _no_rows(blobs), blobs),
        label="cosdask-features",
    )


def features_of_frame(evaluation: Evaluation, frame: Any, blobs: Sequence[str]) -> Any:
    """The same over a dask dataframe's own partitions, each where it lies, in the dataframe's order."""
    meta = _frame([], _no_rows(blobs), blobs)
    return frame.map_partitions(feature_frame, evaluation, tuple(blobs), meta=meta)


def check_blobs(evaluation: Evaluation, blobs: Sequence[str]) -> Evaluation:
    """On a worker: refuse blobs that the net lacks, with the nearest names."""
    net, _, _ = evaluation.open()
    for blob in blobs:
        if blob not in net.blob_shapes:
            raise NetError(f'the net makes no blob "{blob}".{did_you_mean(blob, net.blob_shapes)}')
    return evaluation


def feature_rows(rows: tuple[int, int], evaluation: Evaluation, blobs: tuple[str, ...]) -> pd.DataFrame:
    """On a worker: the features of rows ``start`` to ``stop``.

    Raises:
        DataError: where other than ``stop - start`` rows came out.
    """
    net, source, _ = evaluation.open()
    return _features(net, source, *rows, blobs)


def feature_frame(frame: pd.DataFrame, evaluation: Evaluation, blobs: tuple[str, ...]) -> pd.DataFrame:
    """On a worker: the features of one partition of a dataframe.

    Raises:
        DataError: rows that cannot be read.
    """
    net, _, _ = evaluation.open()
    if not len(frame):
        return _frame([], _no_rows(blobs), blobs)
    return _features(net, given_source(json.loads(evaluation.spec), frame), 0, len(frame), blobs)


def _features(net: Net, source: Source, start: int, stop: int, blobs: Sequence[str]) -> pd.DataFrame:
    ids: list[str] = []
    parts: list[list[np.ndarray]] = []
    skips = Skips()
    for names, raw in take(source, [Segment(0, start, stop)], source.batch_size, skips=skips):
        inputs = {top: np.asarray(array) for top, array in source.finish(raw).items()}
        parts.append(forward_rows(net, inputs, blobs, len(names)))
        ids.extend(names)
    if skips.count:
        _LOG.warning("%s", in_words(skips.count, skips.rows, shown=LISTED))
    if len(ids) + skips.count != stop - start:
        raise DataError(f"rows {start} to {stop} were asked for, {len(ids)} came out; did the data change meanwhile?")
    if not parts:
        return _frame([], _no_rows(blobs), blobs)
    return _frame(ids, [np.concatenate([part[i] for part in parts]) for i in range(len(blobs))], blobs)


def _no_rows(blobs: Sequence[str]) -> list[np.ndarray]:
    return [np.zeros((0, 1), np.float32) for _ in blobs]


def _frame(ids: list[str], matrices: list[np.ndarray], blobs: Sequence[str]) -> pd.DataFrame:
    columns: dict[str, Any] = {"SampleID": pd.array(ids, dtype=pd.ArrowDtype(pa.string()))}
    for blob, matrix in zip(blobs, matrices, strict=True):
        columns[blob] = pd.array(cells(matrix), dtype=CELL) if len(ids) else pd.Series([], dtype=CELL)
    return pd.DataFrame(columns)
