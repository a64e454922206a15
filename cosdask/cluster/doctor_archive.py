"""Whether containers could work with an environment: looked at from outside, before YARN brings it to any node."""

from __future__ import annotations

import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from typing import IO, Any
from urllib.parse import urlsplit

from cosdask.cluster.doctor import BAD, GOOD, NOTE, Finding, differences, facts
from cosdask.cluster.yarn_spec import python_of
from cosdask.errors import CosdaskError
from cosdask.storage import filesystem

_CHUNK = 1 << 20
_VERSION = re.compile(r"/site-packages/([^/]+)-([^-/]+)\.dist-info/")
_MINOR = re.compile(r"^(?:\./)?lib/python(\d+\.\d+)/")
_PYTHON = re.compile(r"^(?:\./)?bin/python(?:3(?:\.\d+)?)?$")
_REMEDY = "cosdask package makes one of this environment"


def check_environment(environment: str) -> Iterator[Finding]:
    """What ``--environment`` names: an archive's Python, cosdask and versions; other kinds are seen on the nodes only.

    Args:
        environment: as in :class:`cosdask.cluster.yarn_spec.YarnOptions`; "" for none.
    """
    if not environment:
        return
    try:
        python = python_of(environment)
    except CosdaskError as error:
        yield Finding(BAD, "environment", error.message, _REMEDY)
        return
    if "environment" not in python.files:
        yield Finding(
            NOTE, "environment", f"{environment} is looked at on the nodes only", "give --cluster yarn[N], too"
        )
        return
    try:
        found = _content(environment)
    except (CosdaskError, OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
        said = str(error).splitlines()[0] if str(error) else repr(error)
        yield Finding(BAD, "environment", f"{environment} cannot be read: {said}", _REMEDY)
        return
    yield from _judged(environment, found)


def _judged(environment: str, found: dict[str, Any]) -> Iterator[Finding]:
    lacking = [what for what in ("bin/python", "cosdask") if not found[what]]
    if lacking:
        yield Finding(BAD, "environment", f"{environment} holds no {' and no '.join(lacking)}", _REMEDY)
        return
    here = facts()
    theirs = {"python": f"{found['minor']}.x", "versions": {**here["versions"], **_versions(here, found)}}
    problems = list(differences("environment", here, theirs))
    yield from problems
    if found["outside"]:
        what = f"its Python is a link to {found['outside']}"
        yield Finding(
            NOTE,
            "environment",
            what,
            "the same interpreter must be there on every node (conda's archives bring theirs)",
        )
    if not problems:
        yield Finding(GOOD, "environment", f"{environment} holds Python {found['minor']} and what this client has")


def _versions(here: dict[str, Any], found: dict[str, Any]) -> dict[str, str]:
    """The archive's versions of the packages that matter; a cosdask copied from a checkout has none."""
    versions = {name: found["versions"].get(name, "") for name in here["versions"]}
    return {**versions, "cosdask": versions["cosdask"] or here["versions"]["cosdask"]}


def _content(environment: str) -> dict[str, Any]:
    """What an archive holds, from the names in it; read once from front to back."""
    fs, path = filesystem(environment)
    with fs.open(path, "rb") as file:
        names = _of_zip(file) if urlsplit(environment).path.endswith(".zip") else _of_tar(file)
        found: dict[str, Any] = {"bin/python": False, "cosdask": False, "outside": "", "minor": "", "versions": {}}
        for name, link in names:
            if _PYTHON.match(name):
                found["bin/python"] = True
                found["outside"] = link if link.startswith("/") else found["outside"]
            minor, version = _MINOR.match(name), _VERSION.search(name)
            found["minor"] = minor[1] if minor else found["minor"]
            if version:
                found["versions"][version[1].lower().replace("_", "-")] = version[2]
            found["cosdask"] = found["cosdask"] or name.endswith("site-packages/cosdask/__init__.py")
        return found


def _of_tar(file: IO[bytes]) -> Iterable[tuple[str, str]]:
    with tarfile.open(fileobj=file, mode="r|gz", bufsize=_CHUNK) as archive:
        for member in archive:
            yield member.name, member.linkname if member.issym() else ""


def _of_zip(file: IO[bytes]) -> Iterable[tuple[str, str]]:
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            yield name, ""
