"""What a rank that was killed while it wrote has left behind: parts of files, beside those they were to become."""

from __future__ import annotations

import contextlib
import os
import re

from cosdask.errors import StorageError
from cosdask.proto import parse_solver
from cosdask.storage import parent, remove_parts, run_folder_for

_SNAPSHOT = r"_iter_\d+\.(caffemodel|solverstate)(\.h5)?"


def sweep(solver: str, model: str) -> None:
    """Remove the parts that a run's ranks, which must all have ended, left of its snapshots, model and run folder.

    Other runs may be writing beside: only this run's own names are looked at.

    Args:
        solver: text of the self-contained solver, whose snapshot prefix lies beside the model.
        model: where the final model goes.
    """
    prefix, folder = parse_solver(solver).snapshot_prefix, run_folder_for(model)
    places = [
        (parent(prefix), re.escape(os.path.basename(prefix)) + _SNAPSHOT),
        (parent(model), re.escape(os.path.basename(model))),
        (folder, ".*"),
        (f"{folder}/checkpoints", ".*"),
    ]
    for place, names in places:
        # what stays is never read, so a filesystem that fails now is no reason to end a run
        with contextlib.suppress(StorageError, OSError):
            remove_parts(place, names)
