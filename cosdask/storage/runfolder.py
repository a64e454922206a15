"""The run folder: all that resuming, watching and reporting need, beside the model, on any filesystem.

Files: ``run.json`` (what the run is), ``events-00000.jsonl`` and on (what happened; a new part for each process that
writes), ``validation.csv``, ``snapshots.json`` (the whole snapshots), ``report.html`` (all of it, for people).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any, NotRequired, TypedDict

from cosdask.errors import StorageError
from cosdask.storage.atomic import atomic_write
from cosdask.storage.paths import PathLike, exists, filesystem, join, local_path, read_bytes, read_text

if TYPE_CHECKING:
    import pandas as pd

_EVENT_PART = re.compile(r"events-(\d{5,})\.jsonl$")
_FILES = ("run.json", "validation.csv", "snapshots.json", "report.html")
#: Remote files cannot be appended to: this many events make one part there.
_REMOTE_PART = 200
#: or those of this many seconds
_REMOTE_SECONDS = 10.0


class Snapshot(TypedDict):
    """One whole snapshot; ``sizes`` (bytes) and ``hashes`` are keyed ``"model"`` and ``"state"``.

    ``automatic`` ones are the run's own checkpoints, which come and go; the others are the user's.
    """

    model: str
    state: str
    iteration: int
    sizes: dict[str, int]
    hashes: dict[str, str]
    automatic: NotRequired[bool]


def run_folder_for(model_url: PathLike) -> str:
    """The run folder's place: ``<model stem>.run`` beside the model.

    Example:
        >>> run_folder_for("out/lenet.caffemodel"), run_folder_for("hdfs://nn/m.caffemodel.h5")
        ('out/lenet.run', 'hdfs://nn/m.run')
    """
    name = os.fspath(model_url)
    for ending in (".h5", ".caffemodel"):
        name = name.removesuffix(ending)
    return name + ".run"


def _place(url: str) -> str:
    """The one name, among several, of a place: the kind of its filesystem, and its path there with links followed."""
    here = local_path(url)
    if here is not None:
        return f"file:{os.path.realpath(here)}"
    fs, path = filesystem(url)
    return f"{type(fs).__name__}:{path}"


class RunFolder:
    """Reads and writes one run folder; made on the first write.

    Args:
        url: the folder, local or a URL.
    """

    def __init__(self, url: PathLike) -> None:
        self.url = os.fspath(url)
        self._events: IO[str] | None = None
        self._waiting: list[str] = []
        self._sent = time.monotonic()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def reset(self, needed: Iterable[str] = ()) -> None:
        """Forget what an earlier run of the same model left here; its snapshots' files stay where they are.

        Args:
            needed: files that the new run reads.

        Raises:
            StorageError: one of them is an automatic checkpoint of the earlier run, which would go; nothing is removed.
        """
        checkpoints = _place(join(self.url, "checkpoints")) + "/"
        for file in needed:
            if _place(file).startswith(checkpoints):
                raise StorageError(
                    f"{file}: an automatic checkpoint of the earlier run of this model, which a new run removes. Go on "
                    "with that run by --resume, or copy the checkpoint's two files to another folder first.",
                    path=file,
                )
        fs, path = filesystem(self.url)
        if not exists(self.url):
            return
        for entry in fs.ls(path, detail=False):
            name = os.path.basename(entry.rstrip("/"))
            if _EVENT_PART.search(name) or name in _FILES:
                fs.rm_file(entry)
            elif name == "checkpoints":
                fs.rm(entry, recursive=True)

    def write_run(self, run: Mapping[str, Any]) -> None:
        """Replace ``run.json``."""
        self._write_json("run.json", dict(run))

    def read_run(self) -> dict[str, Any]:
        """The content of ``run.json``.

        Raises:
            StorageError: missing or damaged.
        """
        found: dict[str, Any] = self._read_json("run.json", dict)
        return found

    def append_event(self, event: Mapping[str, Any]) -> None:
        """Add one line to this process's part of the events; on local disks it is readable at once."""
        line = json.dumps(dict(event), separators=(",", ":")) + "\n"
        if local_path(self.url) is None:
            self._waiting.append(line)
            if len(self._waiting) >= _REMOTE_PART or time.monotonic() - self._sent > _REMOTE_SECONDS:
                self.flush()
            return
        try:
            if self._events is None:
                self._events = self._open_part()
            self._events.write(line)
            self._events.flush()
        except OSError as error:
            self._leave_part()
            raise StorageError(f"{self.url}: cannot add an event: {error}", path=self.url) from error

    def _leave_part(self) -> None:
        """Give up a part that cannot be written; what it buffers is lost, and a half line at its end is left out."""
        file, self._events = self._events, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()

    def flush(self) -> None:
        """Send waiting events of a remote run folder as the next part.

        The driver and rank 0 both write parts: a number that another process took meanwhile is passed over.
        """
        self._sent = time.monotonic()
        number = self._next_part() if self._waiting else 0
        while self._waiting:
            try:
                atomic_write(self._part(number), "".join(self._waiting), replace=False)
                self._waiting.clear()
            except StorageError as error:
                if not isinstance(error.__cause__, FileExistsError):
                    raise
                number += 1

    def drop_waiting(self) -> None:
        """Forget the events that were not sent yet: the folder has become another run's."""
        self._waiting.clear()

    def close(self) -> None:
        """Send what waits and close this process's part."""
        self.flush()
        if self._events is not None:
            self._events.close()
            self._events = None

    def read_events(self) -> Iterator[dict[str, Any]]:
        """All events, oldest part first.

        A last line that a killed process left half written is left out; any other damage is an error.

        Raises:
            StorageError: a damaged part.
        """
        for part in self._parts():
            name = self._part(part)
            lines = read_bytes(name).split(b"\n")
            for number, line in enumerate(lines, start=1):
                if not line:
                    continue
                try:
                    yield json.loads(line)
                except ValueError as error:
                    if number == len(lines):
                        break
                    raise StorageError(f"{name}:{number}: not an event: {error}", path=name, line=number) from error

    def write_validation(self, frame: pd.DataFrame) -> None:
        """Replace ``validation.csv``: a row a validation."""
        atomic_write(join(self.url, "validation.csv"), frame.to_csv(index=False))

    def read_validation(self) -> pd.DataFrame:
        """The validations so far.

        Raises:
            StorageError: missing or damaged.
        """
        import io

        import pandas as pd

        name = join(self.url, "validation.csv")
        try:
            return pd.read_csv(io.BytesIO(read_bytes(name)))
        except ValueError as error:
            raise StorageError(f"{name}: not a table: {error}", path=name) from error

    def add_snapshot(
        self,
        model: str,
        state: str,
        iteration: int,
        sizes: Mapping[str, int],
        hashes: Mapping[str, str],
        automatic: bool = False,
    ) -> None:
        """Enter a whole snapshot in ``snapshots.json``; one of the same model name is replaced.

        Args:
            model: URL of the weights.
            state: URL of the solver state.
            iteration: the iteration it was taken after.
            sizes: bytes, by ``"model"`` and ``"state"``.
            hashes: content hashes, by the same keys.
            automatic: whether it is one of the run's own checkpoints.
        """
        entry = Snapshot(model=model, state=state, iteration=iteration, sizes=dict(sizes), hashes=dict(hashes))
        if automatic:
            entry["automatic"] = True
        kept = [old for old in self.read_snapshots() if old["model"] != model]
        self._write_json("snapshots.json", [*kept, entry])

    def forget_snapshots(self, models: Collection[str]) -> None:
        """Take snapshots off the list, by the URLs of their models; the files stay."""
        entries = self.read_snapshots()
        kept = [entry for entry in entries if entry["model"] not in models]
        if len(kept) < len(entries):
            self._write_json("snapshots.json", kept)

    def read_snapshots(self) -> list[Snapshot]:
        """The whole snapshots, oldest first; empty when there are none yet.

        Raises:
            StorageError: a damaged list.
        """
        # another host writes the list: what this one remembers of the folder may be old
        fs, path = filesystem(self.url)
        fs.invalidate_cache(path)
        if not exists(join(self.url, "snapshots.json")):
            return []
        found: list[Snapshot] = self._read_json("snapshots.json", list)
        return found

    def _write_json(self, name: str, value: object) -> None:
        atomic_write(join(self.url, name), json.dumps(value, indent=1) + "\n")

    def _read_json(self, name: str, kind: type) -> Any:
        path = join(self.url, name)
        try:
            value = json.loads(read_text(path))
        except ValueError as error:
            if isinstance(error, StorageError):
                raise
            raise StorageError(f"{path}: not JSON: {error}", path=path) from error
        if not isinstance(value, kind):
            raise StorageError(f"{path}: holds a {type(value).__name__}, a {kind.__name__} is needed", path=path)
        return value

    def _parts(self) -> list[int]:
        if not exists(self.url):
            return []
        fs, path = filesystem(self.url)
        found = (_EVENT_PART.search(str(name)) for name in fs.ls(path, detail=False, refresh=True))
        return sorted(int(match.group(1)) for match in found if match)

    def _next_part(self) -> int:
        return max(self._parts(), default=-1) + 1

    def _part(self, number: int) -> str:
        return join(self.url, f"events-{number:05d}.jsonl")

    def _open_part(self) -> IO[str]:
        """The next free number; taken by creating the file, so that two processes never share one."""
        folder = local_path(self.url)
        assert folder is not None
        folder.mkdir(parents=True, exist_ok=True)
        number = self._next_part()
        while True:
            try:
                return (folder / f"events-{number:05d}.jsonl").open("x", encoding="utf-8")
            except FileExistsError:
                number += 1
