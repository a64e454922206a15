"""On a Dask worker: its dataframe partitions as Arrow files beside it, and slices of them for other workers.

These functions run as short tasks before ranks start; what they give back is small but for :func:`read_slice`, whose
rows go from worker to worker.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from distributed import get_worker

from cosdask.data import arrow_table
from cosdask.data.staged import read_rows, write_rows
from cosdask.errors import DataError

#: seconds that rows stay without a sign of their client, which gives one a minute: it may have died
FORGOTTEN = 900.0
_forgetting: dict[Path, threading.Timer] = {}
_lock = threading.Lock()


def folder_of(stage: str, worker: Any) -> Path:
    """Where a worker keeps the files of a stage; gone with the worker at the latest."""
    return Path(worker.local_directory) / f"cosdask-rows-{stage}"


def keep_stage(stage: str, dask_worker: Any = None) -> bool:
    """The client is there and wants its rows; False where this worker has none of them (any more)."""
    return _keep(folder_of(stage, dask_worker))


def _keep(folder: Path) -> bool:
    """Wait anew for the next sign of a folder's client; False where there is no such folder."""
    with _lock:
        if not folder.exists():
            return False
        if folder in _forgetting:
            _forgetting[folder].cancel()
        timer = _forgetting[folder] = threading.Timer(FORGOTTEN, lambda: _forget(folder, timer))
        timer.daemon = True
        timer.start()
        return True


def _forget(folder: Path, due: threading.Timer | None = None) -> None:
    """Remove a folder; where its timer says so, only if there was no sign of life since."""
    gone = folder.with_name(f"{folder.name}-gone")
    with _lock:
        if due is not None and _forgetting.get(folder) is not due:
            return
        timer = _forgetting.pop(folder, None)
        # at once, so that nobody takes half of it for whole
        with contextlib.suppress(FileNotFoundError):
            folder.rename(gone)
    if timer is not None:
        timer.cancel()
    shutil.rmtree(gone, ignore_errors=True)


def write_part(frame: pd.DataFrame, stage: str, part: int) -> dict[str, Any]:
    """Write one partition as an Arrow file.

    Returns:
        ``address`` of this worker, ``path``, ``rows``, ``bytes``.

    Raises:
        DataError: Dask has turned a column into text, or a column holds what Arrow cannot.
    """
    try:
        table = arrow_table(frame)
    except DataError as error:
        raise DataError(f"partition {part} of the dataframe: {error.message}", **error.where, part=part) from error
    folder = folder_of(stage, get_worker())
    path = folder / f"{part:06d}.arrow"
    write_rows(str(path), table)
    _keep(folder)
    return {"address": get_worker().address, "path": str(path), "rows": table.num_rows, "bytes": table.nbytes}


def read_slice(path: str, start: int, stop: int, after: object = None) -> pa.Table | None:
    """Rows of a file of this worker, to be sent to another; None where the file is not here any more.

    ``after`` is what another task gave: this one waits for it.
    """
    if not Path(path).exists():
        return None
    return pa.Table.from_batches(list(read_rows(path, start, stop - start)))


def write_slice(rows: pa.Table | None, stage: str, part: int, start: int) -> dict[str, Any] | None:
    """Write rows that came from another worker: those of ``part`` from row ``start`` on."""
    if rows is None:
        return None
    stop = start + rows.num_rows
    folder = folder_of(stage, get_worker())
    path = folder / f"{part:06d}-{start}-{stop}.arrow"
    write_rows(str(path), rows)
    _keep(folder)
    return {"address": get_worker().address, "path": str(path), "start": start, "stop": stop}


def remove_stage(stage: str, dask_worker: Any = None) -> None:
    """Remove a stage's files from this worker, if there are any."""
    _forget(folder_of(stage, dask_worker))
