"""GPUs of its own for each worker: on one machine, and where YARN counts GPUs but does not keep containers apart."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from cosdask.errors import ConfigError

_NUMBER = re.compile(r"nvidia(\d+)$")


class Claim:
    """What this process has claimed; the claim ends with the process, or with :meth:`release`.

    Attributes:
        number: the GPU's number, for ``CUDA_VISIBLE_DEVICES``; or that of the share of GPUs.
    """

    def __init__(self, number: int, lock: IO[str]) -> None:
        self.number, self._lock = number, lock

    def release(self) -> None:
        """Give it back."""
        self._lock.close()


def claim_gpu(devices: Sequence[Path] | None = None, locks: Path | None = None) -> Claim:
    """Claims a GPU of this machine that no other worker has claimed.

    Args:
        devices: device files such as ``/dev/nvidia0``; default: all there are. Where YARN isolates GPUs, a container
            cannot open the others', so they are passed over.
        locks: the folder of the lock files; default: one for all users in the system's folder for temporary files.

    Raises:
        ConfigError: every GPU is claimed, or there is none; says how many were looked at.
    """
    if devices is None:
        devices = sorted(path for path in Path("/dev").glob("nvidia*") if _NUMBER.search(path.name))
    folder = Path(tempfile.gettempdir()) if locks is None else locks
    for device in devices:
        number = _NUMBER.search(device.name)
        if number is None or not _usable(device):
            continue
        lock = _locked(folder / f"cosdask-gpu-{number[1]}.lock")
        if lock is not None:
            return Claim(int(number[1]), lock)
    raise ConfigError(
        f"no free GPU on this node: {len(devices)} looked at ({', '.join(map(str, devices)) or 'no /dev/nvidia*'}). "
        "YARN must count GPUs (yarn.io/gpu) on its nodes for worker_gpus=1"
    )


def even_shares(gpus: Sequence[str], workers: int) -> list[str]:
    """GPUs shared out evenly: each worker's ``CUDA_VISIBLE_DEVICES``; none where there are more workers than GPUs.

    Example:
        >>> even_shares(["0", "1", "2", "3"], 2), even_shares(["0"], 2)
        (['0,1', '2,3'], [])
    """
    each = len(gpus) // max(1, workers)
    return [",".join(gpus[worker * each : (worker + 1) * each]) for worker in range(workers)] if each else []


def claim_share(shares: Sequence[str], locks: Path) -> Claim:
    """Claims a share of GPUs that no other worker of the cluster has claimed.

    Args:
        shares: see :func:`even_shares`.
        locks: the cluster's folder of lock files.

    Raises:
        ConfigError: every share is claimed.
    """
    for number in range(len(shares)):
        lock = _locked(locks / f"{number}.lock")
        if lock is not None:
            return Claim(number, lock)
    raise ConfigError(
        f"no free GPU for another worker: the cluster began with {len(shares)}, and each has its share "
        f"({'; '.join(shares)}). Begin with more workers: LocalCluster(n_workers=...)"
    )


def _usable(device: Path) -> bool:
    """Whether this process may open the device; YARN's isolation forbids it for those of other containers."""
    return os.access(device, os.R_OK | os.W_OK) and _opens(device)


def _opens(device: Path) -> bool:
    try:
        os.close(os.open(device, os.O_RDWR))
    except OSError:
        return False  # this is how isolation looks from inside
    return True


def _opened(path: Path) -> int:
    """A lock file, made where it is not there.

    One that is there is opened as it is: in folders for temporary files systems refuse O_CREAT for others' files.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        try:
            return os.open(path, flags)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                handle = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644)
                os.fchmod(handle, 0o644)  # whatever this user's mask says
                return handle


def _locked(path: Path) -> IO[str] | None:
    """The lock file, held; None where another process holds it, or it cannot be opened.

    It stays for all users who come after. Never follows a link that someone put there.
    """
    try:
        file = os.fdopen(_opened(path), "r")
    except PermissionError:
        return None  # made by another user, with rights of his own: the next GPU's may be open to all
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
