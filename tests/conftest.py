"""What all tests share: strict JAX settings, a cache of their own, and where reference files lie."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

# Set in the environment and before JAX is imported, so that ranks in child processes are held to the same rules:
# no silent mix of number types and no silent broadcast between shapes of different rank.
os.environ.setdefault("JAX_NUMPY_DTYPE_PROMOTION", "strict")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
# Dask samples the threads of each worker a hundred times a second; a session keeps several workers on two cores.
os.environ.setdefault("DASK_DISTRIBUTED__WORKER__PROFILE__INTERVAL", "1s")
# Pictures are written, never shown.
os.environ.setdefault("MPLBACKEND", "Agg")

import hypothesis
import pytest

from cosdask.device import keep_programs_whole

_ROOT = Path(__file__).resolve().parents[1]
# scripts and modules that tests run as a user would; they are no tests, nor do they hold examples
collect_ignore_glob = ["conftest.py", "*/conftest.py", "pycaffe/scripts/*", "nn/my_python_layers.py"]
_CACHE = pytest.StashKey[str]()

# Two shared cores make a deadline a single example meaningless. CI draws the same examples every time, so that a
# change is judged by what it changed; a developer's runs look further.
hypothesis.settings.register_profile("developer", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "developer")


def pytest_configure(config: pytest.Config) -> None:
    """Give the session, its doctests and its child processes a cache folder of their own."""
    config.stash[_CACHE] = tempfile.mkdtemp(prefix="cosdask-tests-")
    os.environ["COSDASK_CACHE_DIR"] = config.stash[_CACHE]
    # most of the tests' time is compiling, and many tests and ranks compile the same: where tests are shared out over
    # processes, these share the programs
    if not hasattr(config, "workerinput"):
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(config.stash[_CACHE]) / "compiled")
    keep_programs_whole()
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the session's cache folder."""
    folder = config.stash.get(_CACHE, None)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return _ROOT


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of outputs of real Caffe; its README says what each file holds."""
    return _ROOT / "tests" / "golden"


@pytest.fixture(scope="session")
def reference_prototxt() -> Path:
    """The folder of real prototxt files, which lies beside the checkout and is not part of it."""
    folder = _ROOT.parent / "shared" / "reference_prototxt"
    if not folder.is_dir():
        pytest.skip("the reference prototxt files (../shared/reference_prototxt) are not here")
    return folder
