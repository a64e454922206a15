"""Tables as folders of part files: extracted features, embedded captions."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from cosdask.errors import DataError, StorageError
from cosdask.storage import absolute, atomic_output, make_folder, names_in, refuse_overwrite, remove_all, take_name

if TYPE_CHECKING:
    import pandas as pd

#: Rows turned into JSON at a time: bounds the memory that the text of wide features takes.
_JSON_ROWS = 256


def write_table(frame: Any, url: str, form: str = "json", overwrite: bool = False) -> int:
    """Writes a lazy dask dataframe as a directory of part files, each partition by the worker that has it.

    The directory appears when all parts are written; what was there before stays until then.

    Args:
        frame: ``dask.dataframe`` with columns of text, numbers, 1-D float32 arrays, or of any Arrow type.
        url: URL of the directory, or local path on a disk that all workers see.
        form: "parquet", or "json": an object a line, float32 with the digits that it needs, bytes in base64 as Spark
            writes them.
        overwrite: replace a directory that is there.

    Returns:
        The number of rows written.

    Raises:
        StorageError: the directory is there and may not be replaced, or cannot be written; or parts are missing from
            it, as where workers on other machines wrote them to disks of their own.
        DataError: a column holds neither numbers, text nor arrays of numbers.
    """
    from dask.base import compute
    from dask.delayed import delayed

    # workers have working directories of their own
    url = absolute(url)
    refuse_overwrite(url, overwrite)
    beside = f"{url.rstrip('/')}.{uuid.uuid4().hex[:8]}.part"
    write = delayed(write_part)
    parts = {f"part-{i:05d}.{form}": part for i, part in enumerate(frame.to_delayed())}
    try:
        rows = sum(compute(*(write(part, f"{beside}/{name}") for name, part in parts.items())))
        make_folder(beside)
        _check_parts(url, set(parts) - names_in(beside), len(parts))
        take_name(beside, url)
    finally:
        remove_all(beside)
    return int(rows)


def _check_parts(url: str, missing: set[str], count: int) -> None:
    if missing:
        raise StorageError(
            f"{url}: {len(missing)} of {count} part files did not arrive, {min(missing)} among them: workers wrote to "
            "disks that this machine does not see. Name a place that all see, by URL (hdfs://, s3://) or on shared "
            "storage (file://).",
            path=url,
        )


def write_part(frame: pd.DataFrame, url: str) -> int:
    """Writes one partition to a ``.parquet`` or ``.json`` file; returns its number of rows."""
    table = as_table(frame)
    with atomic_output(url) as file:
        # loaded where they are needed: a rank, which writes no tables, begins sooner without them
        if url.endswith(".parquet"):
            import pyarrow.parquet as pq

            pq.write_table(table, file)
        else:
            from cosdask.data.json_lines import json_lines

            for start in range(0, table.num_rows, _JSON_ROWS):
                file.write(json_lines(table.slice(start, _JSON_ROWS)))
    return table.num_rows


def as_table(frame: pd.DataFrame) -> pa.Table:
    """A partition as an Arrow table without pandas metadata, which other readers (and pandas itself) stumble over.

    Columns of arrays become lists of float32 also where a partition has no rows to show what it holds.
    """
    columns = {}
    for name in frame.columns:
        values = frame[name]
        try:
            # As pandas sees it, a number that is none would be a gap, also inside of arrays.
            columns[str(name)] = pa.array(values, type=_arrow_type(values), from_pandas=False)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            message = f'column "{name}" holds neither text, numbers nor arrays of numbers: {error}'
            raise DataError(message, column=str(name)) from error
    return pa.table(columns)


def _arrow_type(values: pd.Series) -> pa.DataType | None:
    """The type to write; None lets Arrow take the one the column has."""
    import pandas as pd

    if isinstance(values.dtype, pd.ArrowDtype):
        return values.dtype.pyarrow_dtype
    if values.name == "SampleID" or isinstance(values.dtype, pd.StringDtype):
        return pa.string()
    return pa.list_(pa.float32()) if values.dtype == object else None
