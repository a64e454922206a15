"""Local places that workers write to: each worker must see the client's own folder there."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from distributed import Client

from cosdask.errors import StorageError
from cosdask.parallel.group import Member, ask_workers
from cosdask.storage import absolute, local_path


def check_shared(client: Client, members: Sequence[Member], places: Iterable[str]) -> None:
    """Refuse local places that some worker does not share with the client: what it writes would never arrive.

    A small file is put there, looked for by every worker, and removed again. A worker that does not answer in time is
    no error here. URLs are not looked at: they mean the same everywhere.

    Args:
        client: connected to the cluster.
        members: the workers.
        places: files and folders yet to be written; "" stands for none.

    Raises:
        StorageError: naming the place and the worker's host, with the remedy; or the place cannot be written to.
    """
    folders = {_there(Path(absolute(place)).parent): place for place in places if place and _is_local(place)}
    if not folders:
        return
    with ExitStack() as stack:
        signs = {stack.enter_context(_sign(folder, place)): place for folder, place in folders.items()}
        answers = ask_workers(client, [member.address for member in members], unseen, list(signs))
    for member in members:
        answer = answers.get(member.address)
        if isinstance(answer, list) and answer:
            place = signs[answer[0]]
            raise StorageError(
                f"{place}: worker {member.worker} at {member.host} does not see {os.path.dirname(answer[0])} of this "
                "machine, so what it writes there would not arrive. A path without a scheme is local to each machine: "
                "name a place that all workers see, by URL (hdfs://, s3://) or on shared storage (file://).",
                path=place,
                host=member.host,
            )


def unseen(paths: list[str]) -> list[str]:
    """On a worker: those of some paths that are not there."""
    return [path for path in paths if not os.path.exists(path)]


def _is_local(place: str) -> bool:
    return local_path(place) is not None


def _there(folder: Path) -> Path:
    """The nearest folder that is there already: nothing is made for work that may yet be refused."""
    return folder if folder.is_dir() or folder == folder.parent else _there(folder.parent)


@contextmanager
def _sign(folder: Path, place: str) -> Iterator[str]:
    """An empty file in a folder, with a name that nobody else has."""
    sign = folder / f".cosdask-{uuid.uuid4().hex}.part"
    try:
        sign.touch(exist_ok=False)
    except OSError as error:
        raise StorageError(
            f"{place}: cannot be written: nothing can be put into {folder} ({error.strerror or error}).", path=place
        ) from error
    try:
        yield str(sign)
    finally:
        sign.unlink(missing_ok=True)
