"""What a rank loads before its first step: modules that only some runs need cost every restart."""

from __future__ import annotations

import subprocess
import sys

UNNEEDED = ("dask", "distributed", "duckdb", "h5py", "pandas", "pyarrow.compute", "pyarrow.orc", "pyarrow.parquet")


def test_a_rank_loads_no_module_that_only_some_runs_need() -> None:
    """Of an import that a rank does not need, users pay the time with every death."""
    code = f"import cosdask.parallel.trainer, sys; print(*[name for name in {UNNEEDED!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == []
