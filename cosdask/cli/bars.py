"""Progress of work that is counted in rows: a bar, lines, or JSON."""

from __future__ import annotations

import json
import sys
import time
from types import TracebackType
from typing import Any

from cosdask.view.progress import in_notebook

#: Seconds between two lines.
_EVERY = 10.0


class RowBar:
    """Shows how many of all rows are done, on standard error.

    Args:
        display: "bar", "lines", "json" (an object a line), "none", or "auto": a bar in terminals and notebooks, lines
            elsewhere.
        what: what is being done.
        unit: what is counted.
    """

    def __init__(self, display: str, what: str, unit: str = "rows") -> None:
        if display == "auto":
            display = "bar" if in_notebook() or sys.stderr.isatty() else "lines"
        self.display, self.what, self.unit = display, what, unit
        self._bar: Any = None
        self._next = time.monotonic() + _EVERY

    def __enter__(self) -> RowBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, done: int, total: int) -> None:
        """Shows that ``done`` of ``total`` are done."""
        if self.display == "bar":
            self._move(done, total)
        elif self.display == "json":
            print(json.dumps({"event": "rows", "done": done, "total": total}), file=sys.stderr, flush=True)
        elif self.display == "lines" and (done == total or time.monotonic() >= self._next):
            self._next = time.monotonic() + _EVERY
            print(f"{self.what}: {done:,} of {total:,} {self.unit}", file=sys.stderr, flush=True)

    def _move(self, done: int, total: int) -> None:
        if self._bar is None:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=total, initial=done, desc=self.what, unit=f" {self.unit}", dynamic_ncols=True)
        self._bar.update(done - self._bar.n)
