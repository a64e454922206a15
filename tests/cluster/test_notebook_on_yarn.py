"""The notebook that goes to YARN and back, over the real one."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest_hadoop import applications_running

from cosdask.cluster.sandbox import Sandbox
from notebooks.execute import execute
from tests.cluster.needs import needs_hadoop
from tests.notebooks.test_notebooks import CHECKS


@needs_hadoop
@pytest.mark.timeout(600)
def test_the_notebook_goes_to_yarn_and_back(hadoop: Sandbox, tmp_path: Path) -> None:
    """From top to bottom against this Hadoop, with what it promises; nothing of it runs on."""
    CHECKS["OnYarn"](execute("OnYarn", tmp_path))
    assert not applications_running()
