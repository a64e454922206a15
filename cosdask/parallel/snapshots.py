"""Which snapshots of a run are whole: those whose files still have the size and hash they were entered with."""

from __future__ import annotations

from cosdask.errors import StorageError
from cosdask.storage import RunFolder, describe_file
from cosdask.storage.runfolder import Snapshot


def enter_snapshot(folder: RunFolder, model: str, state: str, iteration: int, automatic: bool = False) -> None:
    """Enter a pair that was just written in the run folder's list, with the size and hash of its files."""
    files = {"model": describe_file(model), "state": describe_file(state)}
    folder.add_snapshot(
        model,
        state,
        iteration,
        sizes={name: size for name, (size, _) in files.items()},
        hashes={name: digest for name, (_, digest) in files.items()},
        automatic=automatic,
    )


def newest_whole(folder: RunFolder) -> tuple[Snapshot | None, list[str]]:
    """The newest snapshot whose model and state are as they were written, and what is wrong with newer ones."""
    problems: list[str] = []
    for snapshot in sorted(folder.read_snapshots(), key=lambda entry: entry["iteration"], reverse=True):
        problem = _problem(snapshot)
        if problem is None:
            return snapshot, problems
        problems.append(problem)
    return None, problems


def _problem(snapshot: Snapshot) -> str | None:
    for name in ("model", "state"):
        url = snapshot["model"] if name == "model" else snapshot["state"]
        try:
            size, digest = describe_file(url)
        except StorageError as error:
            return f"snapshot of iteration {snapshot['iteration']} is left out: {error.message}"
        if (size, digest) != (snapshot["sizes"][name], snapshot["hashes"][name]):
            return f"snapshot of iteration {snapshot['iteration']} is left out: {url} is not as it was written"
    return None
