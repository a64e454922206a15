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


@pytest.mark.parametrize(
    ("page", "heading", "least"),
    [("from-caffeonspark.md", "## The tests of CaffeOnSpark", 25), ("data-sources.md", "## Which class", 60)],
)
def test_every_test_in_the_tables_exists(page: str, heading: str, least: int) -> None:
    """The checklists of CaffeOnSpark's tests and rules name ours; a renamed or lost one shows here."""
    section = (ROOT / "docs" / page).read_text(encoding="utf-8").split(heading)[1]
    file, found = "", 0
    for place, name in re.findall(r"`([\w/]*\.py)?(?:::(\w+))?`", section):
        file = place or file
        text = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert not name or f"def {name}(" in text, f"{file}::{name}"
        found += bool(name)
    assert found > least


def test_every_test_of_caffeonspark_has_ours_or_a_reason() -> None:
    """No row of the checklist is left open."""
    rows = PAGE.split("## The tests of CaffeOnSpark")[1].split("|---|---|")[1].strip().splitlines()
    cells = [row.strip("| ").split(" | ") for row in rows if row.startswith("|")]
    assert len(cells) > 20
    for there, here in cells:
        assert ".py" in here or here.startswith("not needed: "), there


def test_every_rule_of_data_sources_names_a_test() -> None:
    """Each row of the tables ends with a test, or with words that say why there is none."""
    rows = [
        line for line in (ROOT / "docs" / "data-sources.md").read_text(encoding="utf-8").splitlines() if "|" in line
    ]
    rules = [row.strip("| ").split(" | ") for row in rows if not row.startswith(("|---", "| There", "| Caffe |"))]
    assert len(rules) > 50
    assert all("`" in rule[-1] or len(rule[-1]) > 10 for rule in rules)


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
