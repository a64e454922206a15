"""What a conversion leaves while it goes on: a folder beside the output that says what is done, and holds it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from cosdask.errors import StorageError
from cosdask.storage import atomic_write, exists, filesystem, join, read_text, remove_all

_VERSION = 1
#: Left out rows that are listed, of a part or a store; all are counted.
LISTED = 1000


@dataclass(frozen=True)
class Done:
    """What came of one part, or of a store so far.

    Attributes:
        rows: rows written.
        left: rows left out.
        skipped: what was wrong with the first :data:`LISTED` of those.
        parts: how many parts this is about.
    """

    rows: int
    left: int = 0
    skipped: tuple[str, ...] = ()
    parts: int = 1

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Done:
        """The inverse of :meth:`to_json`."""
        texts = tuple(map(str, value["skipped"]))
        return cls(int(value["rows"]), int(value["left"]), texts, int(value["parts"]))


class WorkFolder:
    """The folder ``<output>.unfinished``.

    Args:
        output: where the finished data set goes, local or a URL.
    """

    def __init__(self, output: str) -> None:
        self.output = output.rstrip("/")
        self.url = f"{self.output}.unfinished"

    def begin(self, plan: dict[str, Any], parts: list[tuple[int, int]], overwrite: bool) -> list[tuple[int, int]]:
        """Make the folder, or go on with the one that a conversion with the same plan left.

        Args:
            plan: JSON values that tell one conversion from another.
            parts: ranges of rows, if none are written down yet.
            overwrite: whether another conversion's folder may be removed.

        Returns:
            The ranges of rows of this conversion.

        Raises:
            StorageError: another conversion's folder is there.
        """
        place = join(self.url, "plan.json")
        if exists(place):
            kept = self._json(place)
            if kept.get("plan") == plan and kept.get("version") == _VERSION:
                return [(int(start), int(stop)) for start, stop in kept["parts"]]
            if not overwrite:
                raise StorageError(
                    f"{self.url}: an unfinished conversion of other data or with other settings; repeat that one to "
                    "end it, or remove it with --overwrite",
                    path=self.url,
                )
        self.remove()
        atomic_write(place, json.dumps({"version": _VERSION, "plan": plan, "parts": parts}))
        return parts

    def part(self, number: int, ending: str) -> str:
        """The name of a part while work goes on."""
        return join(self.url, f"parts/part-{number:05d}{ending}")

    def one(self, number: int) -> Done | None:
        """What came of one part; None if it is not done."""
        place = join(self.url, f"done/{number:05d}.json")
        return Done.from_json(self._json(place)) if exists(place) else None

    def done(self) -> dict[int, Done]:
        """The parts that are done, by their numbers."""
        folder = join(self.url, "done")
        if not exists(folder):
            return {}
        fs, path = filesystem(folder)
        names = [str(name).rpartition("/")[2] for name in fs.ls(path, detail=False, refresh=True)]
        numbers = [name.removesuffix(".json") for name in names]
        return {
            int(number): Done.from_json(self._json(join(folder, f"{number}.json")))
            for number in numbers
            if number.isdecimal()
        }

    def note(self, number: int, done: Done) -> None:
        """Write down that a part is done."""
        atomic_write(join(self.url, f"done/{number:05d}.json"), json.dumps(done.to_json()))

    def remove(self) -> None:
        """Remove the folder."""
        remove_all(self.url)

    def _json(self, place: str) -> dict[str, Any]:
        try:
            found = json.loads(read_text(place))
        except ValueError as error:
            if isinstance(error, StorageError):
                raise
            raise StorageError(f"{place}: damaged: {error}; remove {self.url} and begin again", path=place) from error
        return dict(found)
