"""Where the ready networks and solvers lie: in the installed package, or in the folder of a checkout."""

from __future__ import annotations

from pathlib import Path

import cosdask
from cosdask.errors import StorageError, did_you_mean


def ready_prototxt(name: str) -> Path:
    """The path of a ready network or solver.

    Args:
        name: a file of ``prototxt/``, such as ``lenet_memory_train_test.prototxt``.

    Raises:
        StorageError: there is none of this name, or the ready files are missing altogether.

    Example:
        >>> ready_prototxt("lenet.prototxt").parent.name
        'prototxt'
    """
    package = Path(cosdask.__file__).parent
    # A wheel carries the files inside of the package; an editable installation finds them beside it.
    folders = [package / "prototxt", package.parent / "prototxt"]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    known = sorted(path.name for folder in folders for path in folder.glob("*.prototxt"))
    if not known:
        message = f"{folders[0]}: the ready networks are missing; install cosdask again, or work in a whole checkout"
        raise StorageError(message, path=str(folders[0]))
    hint = did_you_mean(name, known) or f" There are {', '.join(known)}."
    raise StorageError(f'no ready prototxt is called "{name}".{hint}', path=name)
