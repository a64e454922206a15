"""What tests over a real Hadoop need: skipped with the reason where it is not there, required where CI is set."""

from __future__ import annotations

import os

import pytest

from cosdask.cluster.jars import missing_tools

#: Marks a test that runs Hadoop's own programs; add ``pytest.mark.slow`` and ``xdist_group`` where it shares a cluster.
needs_hadoop = pytest.mark.skipif(
    missing_tools() is not None and not os.environ.get("CI"), reason=missing_tools() or "Hadoop can run here"
)
