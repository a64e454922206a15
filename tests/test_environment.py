"""The lists of dependencies agree: pyproject.toml, environment.yml and constraints.txt."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# What conda-forge calls a package by another name than the Python index.
_CONDA_NAMES = {"duckdb": "python-duckdb", "lmdb": "python-lmdb", "matplotlib": "matplotlib-base"}
# Extras that conda's environment holds besides the dependencies.
_CONDA_EXTRAS = ("demo", "notebooks")
# Extras that the make targets install, so whose versions are pinned.
_PINNED_EXTRAS = ("demo", "test", "dev", "bench", "yarn", "leveldb", "tensorboard")


@pytest.fixture(scope="module")
def project(repository: Path) -> dict[str, Any]:
    return tomllib.loads((repository / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def conda(repository: Path) -> list[Any]:
    return yaml.safe_load((repository / "environment.yml").read_text())["dependencies"]


@pytest.fixture(scope="module")
def pins(repository: Path) -> dict[str, str]:
    lines = (repository / "constraints.txt").read_text().splitlines()
    entries = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in entries}


def _requirements(project: dict[str, Any], extras: tuple[str, ...]) -> list[Requirement]:
    lists = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in extras)]
    return [Requirement(text) for texts in lists for text in texts]


def _as_conda(text: str) -> str:
    requirement = Requirement(text)
    return f"{_CONDA_NAMES.get(requirement.name, requirement.name)}{requirement.specifier}"


def test_conda_environment_equals_pyproject(project: dict[str, Any], conda: list[Any]) -> None:
    """Every dependency stands in environment.yml with the same bound, and nothing else does."""
    expected = {_as_conda(str(requirement)) for requirement in _requirements(project, _CONDA_EXTRAS)}
    from_pip = [text for entry in conda if isinstance(entry, dict) for text in entry["pip"]]
    given = [entry for entry in conda if isinstance(entry, str)] + from_pip
    assert len(given) == len(set(given))
    assert set(given) - {"pip"} == expected | {f"python{project['requires-python']}"}


def test_tested_versions_fulfill_the_bounds(project: dict[str, Any], pins: dict[str, str]) -> None:
    """Each dependency that the make targets install has one tested version, within its bound."""
    for requirement in _requirements(project, _PINNED_EXTRAS):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def test_each_dependency_says_why(repository: Path) -> None:
    """A dependency without a reason is one that nobody can judge: each line carries a comment."""
    text = (repository / "pyproject.toml").read_text()
    lists = text[text.index("dependencies = [") : text.index("[project.scripts]")]
    lines = [line for line in lists.splitlines() if re.match(r'\s+"', line)]
    assert lines
    assert [line for line in lines if not re.search(r'",\s+# \S', line)] == []
