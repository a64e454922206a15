"""Converting data sets: any to any, in parallel, going on where a conversion was broken off."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from cosdask.convert.inputs import open_input
from cosdask.convert.parts import PART_KINDS, Form, write_file
from cosdask.convert.pictures import Pictures
from cosdask.convert.rows import Input, counted_by
from cosdask.convert.stores import PIXEL_KINDS, STORE_KINDS, names_of
from cosdask.convert.tasks import Runner, runner_for
from cosdask.convert.work import LISTED, Done, WorkFolder
from cosdask.errors import ConfigError, DataError, StorageError, did_you_mean
from cosdask.storage import atomic_output, atomic_write, exists, join, local_path, refuse_overwrite, take_name

KINDS = (*PART_KINDS, *STORE_KINDS)
#: Rows that are not worth a part of their own.
_SMALL = 256
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Converted:
    """What a conversion did.

    Attributes:
        output: where the rows are.
        rows: how many there are.
        left: rows that were left out.
        skipped: what was wrong with the first of them, a line each.
        parts: parts that the work was cut into.
        kept: parts that an earlier, broken off conversion had done.
    """

    output: str
    rows: int
    left: int = 0
    skipped: list[str] = field(default_factory=list)
    parts: int = 0
    kept: int = 0


@dataclass(frozen=True)
class _Job:
    """What a task needs to know."""

    rows: Input
    kind: str
    output: str
    form: Form
    pictures: Pictures
    skip: bool
    parts: tuple[tuple[int, int], ...]
    store: str = ""

    def batches(self, number: int, bad: list[str]) -> Iterator[pa.RecordBatch]:
        """A part's rows, changed; what was wrong with rows left out goes to ``bad``.

        Raises:
            DataError: other rows came than were counted.
        """
        position, stop = self.parts[number]
        while position < stop:
            try:
                for rows in self.rows.read(position, stop):
                    changed, skipped = self.pictures.apply(rows, position, self.rows.place, self.skip)
                    bad.extend(skipped)
                    position += rows.num_rows
                    if changed.num_rows:
                        yield changed
                break
            except DataError as error:
                row = error.where.get("row")
                if not self.skip or row is None or not position <= row < stop:
                    raise
                # Rows in front of the bad one were read with it, and lost with it.
                yield from self._in_front(position, row, bad)
                bad.append(str(error))
                position = row + 1
        if position != stop:
            raise DataError(f"{self.rows.place}: {stop} rows were counted, {position} read; did the data change?")

    def _in_front(self, start: int, stop: int, bad: list[str]) -> Iterator[pa.RecordBatch]:
        for rows in self.rows.read(start, stop) if start < stop else ():
            changed, skipped = self.pictures.apply(rows, start, self.rows.place, True)
            bad.extend(skipped)
            start += rows.num_rows
            if changed.num_rows:
                yield changed

    @property
    def digits(self) -> int:
        """Digits of the rows' numbers in keys."""
        return max(8, len(str(self.rows.rows)))


def convert(
    rows: Input,
    output: str,
    kind: str,
    *,
    form: Form | None = None,
    pictures: Pictures | None = None,
    parts: int | None = None,
    skip: bool = False,
    overwrite: bool = False,
    client: Any = None,
    progress: Progress | None = None,
) -> Converted:
    """Write a data set in another format.

    Rows keep their order. What is done stays in ``<output>.unfinished`` when the work is broken off, and the same call
    goes on from there; the output's name appears when all is written and its rows are counted.

    Args:
        rows: see :func:`~cosdask.convert.open_input`.
        output: local path or URL: a folder of parts, a database, or (idx, cifar10) files.
        kind: ``sequence``, ``parquet``, ``json``, ``orc``, ``hdf5``, ``lmdb``, ``leveldb``, ``idx`` or ``cifar10``.
        form: compression and columns.
        pictures: what becomes of the images.
        parts: how many parts; default: parts of moderate size.
        skip: leave bad rows out and list them, in place of an error.
        overwrite: replace an output that is there.
        client: a ``distributed.Client`` whose workers do the work; None: this process does.
        progress: called with the rows done and all rows.

    Raises:
        StorageError: the output is there already, or cannot be written.
        DataError: rows that cannot be read, or that the format cannot hold; other rows came out than went in.
        ConfigError: an unknown format, or settings that cannot work.
    """
    if kind not in KINDS:
        raise ConfigError(f'no format "{kind}".{did_you_mean(kind, KINDS)} There are {", ".join(KINDS)}')
    for name in _outputs(kind, output):
        refuse_overwrite(name, overwrite)
    runner = runner_for(client)
    rows = counted_by(rows, client)
    form = dataclasses.replace(form or Form(), floats=rows.floats)
    pictures = _fitting(pictures or Pictures(), kind, rows, skip)
    work = WorkFolder(output)
    plan = {"input": rows.fingerprint(), "kind": kind, "form": repr(form), "pictures": repr(pictures), "skip": skip}
    ranges = work.begin(plan, _ranges(rows, kind, parts, runner.workers), overwrite)
    job = _Job(rows, kind, output, form, pictures, skip, tuple(ranges), _store_folder(work, kind))
    runner.check_visible([work.url])
    done = _kept(work, kind)
    kept = sum(one.parts for one in done.values())
    result = _run(runner, job, work, done, progress)
    written, left = sum(one.rows for one in result), sum(one.left for one in result)
    if written + left != rows.rows:
        raise DataError(f"{rows.place}: {rows.rows} rows went in, {written} came out, {left} were left out")
    _finish(runner, job, work, written)
    skipped = [*rows.left_out, *(text for one in result for text in one.skipped)]
    return Converted(output, written, left + len(rows.left_out), skipped[:LISTED], len(ranges), kept)


def _kept(work: WorkFolder, kind: str) -> dict[int, Done]:
    """What an earlier conversion had done, by the parts' numbers; of a store, what it came to."""
    done = work.done()
    if kind in STORE_KINDS:
        return {number: one for number, one in done.items() if number == max(done)}
    return {number: one for number, one in done.items() if exists(work.part(number, PART_KINDS[kind]))}


def _ranges(rows: Input, kind: str, parts: int | None, workers: int) -> list[tuple[int, int]]:
    if parts is not None:
        if parts < 1:
            raise ConfigError(f"{parts} parts; at least one is needed")
        count = max(1, min(parts, rows.rows))
        return [(rows.rows * k // count, rows.rows * (k + 1) // count) for k in range(count)]
    if not rows.rows:
        return [(0, 0)]
    # A store takes its parts through memory, so they are smaller; nobody should be without work.
    target = rows.target // 4 if kind in STORE_KINDS else rows.target
    return rows.ranges(max(min(target, _SMALL), min(target, -(-rows.rows // (2 * workers)))))


def _fitting(pictures: Pictures, kind: str, rows: Input, skip: bool) -> Pictures:
    """The settings of a format that holds pixels of one size only: that of the first image that can be read."""
    if kind not in PIXEL_KINDS:
        return pictures
    if pictures.encode:
        raise ConfigError(f"{kind} holds pixels, not encoded images: leave out --encode {pictures.encode}")
    pictures = dataclasses.replace(pictures, decode=True, gray=pictures.gray or kind == "idx")
    return first_shape(pictures, rows, skip)


def first_shape(pictures: Pictures, rows: Input, skip: bool = False) -> Pictures:
    """The same settings, with the size of the first image that can be read as that of all."""
    for batch in rows.read(0, rows.rows if skip else min(1, rows.rows)):
        changed, _ = pictures.apply(batch, 0, rows.place, skip)
        if changed.num_rows:
            row = changed.slice(0, 1).to_pylist()[0]
            image = pictures.image(row)
            return dataclasses.replace(pictures, shape=(image.shape[2], *image.shape[:2]))
    return pictures


def _outputs(kind: str, output: str) -> list[str]:
    is_folder = kind not in STORE_KINDS or STORE_KINDS[kind].is_folder
    return [output] if is_folder else list(names_of(kind, output).values())


def _store_folder(work: WorkFolder, kind: str) -> str:
    """Where a store grows: in the folder of work, or on the writer's own disk when the output is remote."""
    if kind not in STORE_KINDS:
        return ""
    here = local_path(work.url)
    if here is not None:
        return str(here / "store")
    name = hashlib.sha256(work.url.encode()).hexdigest()[:16]
    return str(Path(tempfile.gettempdir()) / f"cosdask-convert-{name}")


def _run(runner: Runner, job: _Job, work: WorkFolder, done: dict[int, Done], progress: Progress | None) -> list[Done]:
    """Do what is not done yet; what came of the parts, in their order."""
    total = job.rows.rows
    if job.kind in STORE_KINDS:
        state = next(iter(done.values()), Done(0, parts=0))
        if not state.parts:
            shutil.rmtree(job.store, ignore_errors=True)
        todo = list(range(state.parts, len(job.parts)))
        _tell(progress, job.parts[state.parts - 1][1] if state.parts else 0, total)
        for number, one in runner.chain(_prepare, _append, job, todo):
            state = one
            _tell(progress, job.parts[number][1], total)
        return [state]
    ready = sum(job.parts[number][1] - job.parts[number][0] for number in done)
    _tell(progress, ready, total)
    todo = [number for number in range(len(job.parts)) if number not in done]
    for number, one in runner.each(_make_part, job, todo):
        done[number] = one
        ready += job.parts[number][1] - job.parts[number][0]
        _tell(progress, ready, total)
    return [done[number] for number in sorted(done)]


def _tell(progress: Progress | None, ready: int, total: int) -> None:
    if progress is not None:
        progress(ready, total)


# On workers.


def _make_part(job: _Job, number: int) -> Done:
    """Read, change and write one part."""
    bad: list[str] = []
    work = WorkFolder(job.output)
    url = work.part(number, PART_KINDS[job.kind])
    start, stop = job.parts[number]
    try:
        rows = write_file(job.kind, url, job.batches(number, bad), job.form)
    except DataError as error:
        if "row" in error.where or "path" in error.where:
            raise
        raise DataError(f"{job.rows.place}: rows {start} to {stop}: {error}", path=job.rows.place, row=start) from error
    done = Done(rows, len(bad), tuple(bad[:LISTED]))
    work.note(number, done)
    return done


def _prepare(job: _Job, number: int) -> tuple[list[pa.RecordBatch], list[str]]:
    """Read and change one part for a store."""
    bad: list[str] = []
    return list(job.batches(number, bad)), bad


def _append(job: _Job, number: int, prepared: tuple[list[pa.RecordBatch], list[str]]) -> Done:
    """Write one part into a store, then write down that it is there."""
    work = WorkFolder(job.output)
    before = work.one(number - 1) if number else Done(0, parts=0)
    if before is None:
        raise StorageError(f"{work.url}: part {number - 1} is not done; does another conversion write there?")
    if number:
        _check_store(job)
    rows = before.rows
    with STORE_KINDS[job.kind](job.store, job.digits) as store:
        for batch in prepared[0]:
            try:
                store.put(rows, batch)
            except DataError as error:
                start, stop = job.parts[number]
                raise DataError(f"{job.rows.place}: rows {start} to {stop}: {error}", path=job.rows.place) from error
            rows += batch.num_rows
    skipped = (*before.skipped, *prepared[1])[:LISTED]
    done = Done(rows, before.left + len(prepared[1]), skipped, number + 1)
    work.note(number, done)
    return done


def _check_store(job: _Job) -> None:
    """A store whose files are gone must not be begun anew as if it were whole."""
    gone = [name for name in (*STORE_KINDS[job.kind].files, "") if not (Path(job.store) / name).exists()]
    if gone:
        text = f"{Path(job.store) / gone[0]}: gone; remove {WorkFolder(job.output).url} and begin again"
        raise StorageError(text, path=job.store)


def _close_store(job: _Job, rows: int) -> None:
    """Bring a store into its last form and to its place."""
    _check_store(job)
    with STORE_KINDS[job.kind](job.store, job.digits) as store:
        found = store.finish(rows)
        files = names_of(job.kind, job.output)
    if found != rows:
        raise DataError(f"{job.store}: {rows} rows were written, {found} are there; remove it and begin again")
    (Path(job.store) / "lock.mdb").unlink(missing_ok=True)
    if local_path(job.output) is not None:
        moved = {job.store: job.output} if store.is_folder else {join(job.store, n): to for n, to in files.items()}
        for source, target in moved.items():
            take_name(source, target)
        return
    for path in sorted(Path(job.store).iterdir()):
        target = join(job.output, path.name) if store.is_folder else files[path.name]
        with path.open("rb") as file, atomic_output(target) as sink:
            shutil.copyfileobj(file, sink, 1 << 20)
    shutil.rmtree(job.store)


def _finish(runner: Runner, job: _Job, work: WorkFolder, rows: int) -> None:
    """Count the rows as a reader sees them, and give the output its name."""
    if job.kind in STORE_KINDS:
        for _ in runner.chain(_nothing, _close, job, [rows]):
            pass
    else:
        folder = join(work.url, "parts")
        if job.kind == "hdf5":
            names = [f"part-{number:05d}.h5\n" for number in range(len(job.parts))]
            atomic_write(join(folder, "list.txt"), "".join(names))
        if rows:
            _count(folder, job.kind, rows)
        atomic_write(join(folder, "_SUCCESS"), b"")
        take_name(folder, job.output)
    work.remove()


def _nothing(job: _Job, item: Any) -> None:
    return None


def _close(job: _Job, rows: int, _: None) -> None:
    _close_store(job, rows)


def _count(folder: str, kind: str, rows: int) -> None:
    found = open_input(folder, kind).rows
    if found != rows:
        raise DataError(f"{folder}: {rows} rows were written, {found} are there; remove the folder and begin again")
