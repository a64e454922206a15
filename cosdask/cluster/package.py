"""The environment archive that containers run in: this Python's own environment, packed once, kept in HDFS.

Packing needs no network: what is installed here is what runs there. A cosdask that is installed from a checkout
(``pip install --editable``) cannot be packed as it is, since its files lie elsewhere; they are put in as an
installation would.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from cosdask.errors import ConfigError, StorageError
from cosdask.storage import atomic_output, exists, join

_CHUNK = 1 << 20


def package(folder: str, prefix: str | None = None) -> tuple[str, bool]:
    """Packs an environment into ``folder`` under the hash of its content, unless it is there already.

    Args:
        folder: local or a URL, such as ``hdfs:///user/me/environments``.
        prefix: of a virtual environment with what cosdask needs; default: this process's.

    Returns:
        The archive's name, for ``environment=``, and whether it was made now.

    Raises:
        ConfigError: no virtual environment, or venv-pack is missing.
        StorageError: cannot be packed or written.
    """
    root = Path(prefix or sys.prefix)
    if not (root / "pyvenv.cfg").is_file():
        raise ConfigError(
            f"{root} is no virtual environment. Make one (python3 -m venv ENV; ENV/bin/pip install 'cosdask[yarn]') "
            "and run its cosdask; for conda use conda-pack, and give the archive with --environment"
        )
    name = join(folder, f"cosdask-{fingerprint(root)}.tar.gz")
    if exists(name):
        return name, False
    with atomic_output(name) as file:
        write_archive(root, file)
    return name, True


def fingerprint(root: Path) -> str:
    """A hash of what an environment holds: of the lists of files that installers leave, and of cosdask's own files.

    Example:
        >>> len(fingerprint(Path(sys.prefix)))
        16
    """
    digest = hashlib.sha256(f"{sys.version_info[:2]}".encode())
    for record in sorted(_site_packages(root).glob("*.dist-info/RECORD")):
        digest.update(record.read_bytes())
    for path, name in _own_files():
        digest.update(name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def write_archive(root: Path, file: IO[bytes]) -> None:
    """Writes the ``.tar.gz`` of an environment with cosdask in it.

    Raises:
        StorageError: venv-pack's own words.
    """
    try:
        venv_pack: Any = importlib.import_module("venv_pack")
    except ImportError as error:
        raise ConfigError("packing needs venv-pack: pip install 'cosdask[yarn]'") from error
    with tempfile.TemporaryDirectory(prefix="cosdask-package-") as work:
        copy, packed = Path(work) / "environment", Path(work) / "environment.tar.gz"
        _copy(root, copy)
        try:
            # the fastest compression: most of an environment is compiled code
            venv_pack.Env(str(copy)).pack(output=str(packed), compress_level=1)
        except venv_pack.VenvPackException as error:
            _refuse(error)
        with packed.open("rb") as source:
            shutil.copyfileobj(source, file, _CHUNK)


def _copy(root: Path, copy: Path) -> None:
    """The environment once more, of links to the same files where that can be, with cosdask's own files in it."""
    # with the compiled modules beside the sources: compiling them again would take each first container ten seconds
    shutil.copytree(root, copy, symlinks=True, copy_function=_link)
    place = _site_packages(copy)
    for path in place.glob("*.pth"):
        if path.name in ("_cosdask.pth", "_editable_impl_cosdask.pth") or path.name.startswith("__editable__.cosdask"):
            path.unlink()
    for path, name in _own_files():
        target = place / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)  # another filesystem
    return target


def _refuse(error: Exception) -> None:
    said = str(error)
    hint = ""
    if "editable" in said:
        hint = " Install those packages without --editable; cosdask itself is taken care of."
    raise StorageError(f"the environment cannot be packed: {said.strip()}{hint}") from error


def _site_packages(root: Path) -> Path:
    return root / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"


def _own_files() -> Iterator[tuple[Path, str]]:
    """The files of cosdask itself and their names below ``site-packages``, in order."""
    here = Path(__file__).parents[1]
    for folder, into in ((here, "cosdask"), (here.parent / "prototxt", "cosdask/prototxt")):
        for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
            if path.is_file() and "__pycache__" not in path.parts:
                yield path, f"{into}/{path.relative_to(folder).as_posix()}"
