"""What the documents say is there, is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import cosdask
import cosdask.captions
import cosdask.view
from cosdask.cli.main import VERBS
from cosdask.cli.old_tools import TOOLS

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "from-caffeonspark.md").read_text(encoding="utf-8")


def test_every_test_in_the_table_exists() -> None:
    """The checklist of CaffeOnSpark's tests names ours; a renamed or lost one shows here."""
    section = PAGE.split("## The tests of CaffeOnSpark")[1]
    file, found = "", 0
    for place, name in re.findall(r"`([\w/]*\.py)?(?:::(\w+))?`", section):
        file = place or file
        text = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert not name or f"def {name}(" in text, f"{file}::{name}"
        found += bool(name)
    assert found > 25


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`cosdask\.([a-z_]+)[`(]", PAGE)) | {"Config", "CaffeOnDask"}))
def test_every_name_of_the_package_exists(name: str) -> None:
    assert hasattr(cosdask, name)


def test_every_verb_and_tool_exists() -> None:
    """Verbs are those that ``cosdask --help`` lists."""
    said = set(re.findall(r"`cosdask ([a-z]+)", PAGE))
    assert said and said <= set(VERBS)
    assert {"Binary2Sequence", "CocoDataSetConverter"} <= set(TOOLS)
    for name in re.findall(r"`cosdask\.view\.(\w+)`", PAGE):
        assert hasattr(cosdask.view, name)
    for name in ("coco_captions", "embed_images", "embed_captions", "embedding_to_captions", "Captioner", "Vocab"):
        assert name in PAGE and hasattr(cosdask.captions, name)
