"""Parts of pages that are written from data are current, and the data are complete."""

from __future__ import annotations

import datetime
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
COMPARISON = yaml.safe_load((DOCS / "comparison.yaml").read_text(encoding="utf-8"))
ROWS = [row for group in COMPARISON["groups"] for row in group["rows"]]
ABILITIES = {name for part in COMPARISON["glance"] for name in part["abilities"]}
JUDGING = re.compile(
    r"\b(best|better|easy|easily|powerful|robust|simple|simply|great|poor|weak|superior|unique|only|"
    r"unfortunately|mature|limited|merely)\b",
    re.IGNORECASE,
)


@pytest.fixture(scope="module")
def tables() -> Iterator[Any]:
    sys.path.insert(0, str(DOCS))
    try:
        import tables

        yield tables
    finally:
        sys.path.remove(str(DOCS))
        sys.modules.pop("tables", None)


def test_parts_are_current(tables) -> None:
    """A table that nobody writes again says what was so once."""
    for path, page in tables.pages().items():
        assert page == path.read_text(encoding="utf-8"), "run: python docs/generate.py --tables"


def test_a_page_without_its_marks_is_an_error(tables) -> None:
    with pytest.raises(ValueError, match="end of overview"):
        tables.renewed("<!-- overview -->", "overview", "")
    assert tables.renewed("a<!-- x -->old<!-- end of x -->b", "x", "new") == (
        "a<!-- x -->\n\nnew\n\n<!-- end of x -->b"
    )


def test_every_part_has_marks_that_something_writes(tables) -> None:
    """A mark with a mistyped name would keep its content for ever."""
    for path in DOCS.rglob("*.md"):
        page = path.read_text(encoding="utf-8")
        name = path.relative_to(DOCS).as_posix()
        for part in re.findall(r"<!-- end of ([\w-]+) -->", page):
            others = ("external", "versions")  # written by scripts of their own
            assert part in others or name in tables.PARTS[part][1], (name, part)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["tool"])
def test_a_row_says_which_version_was_looked_at_and_where(row: dict[str, Any]) -> None:
    assert isinstance(row["looked"], datetime.date)
    assert row["version"]
    assert row["sources"]
    assert all(source.startswith("https://") for source in row["sources"])
    assert set(row["does"]) <= ABILITIES


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["tool"])
def test_a_row_describes_and_does_not_judge(row: dict[str, Any]) -> None:
    """A comparison that praises is read as an advertisement."""
    for key in ("decides", "more", "less"):
        assert row[key].endswith((".", ")."))
        assert JUDGING.findall(row[key]) == []


def test_judging_words_are_found() -> None:
    """The control of the test above."""
    assert JUDGING.findall("A powerful tool that is easy to use.") == ["powerful", "easy"]


def test_the_tables_have_what_we_lack_as_well() -> None:
    """A table of our own choice of columns is no comparison."""
    lacks = ABILITIES - set(COMPARISON["ours"]["does"])
    assert len(lacks) >= 4
    assert set(COMPARISON["ours"]["does"]) <= ABILITIES
    assert lacks <= {name for row in ROWS for name in row["does"]}


def test_every_group_is_in_a_table() -> None:
    titles = {group["title"] for group in COMPARISON["groups"]}
    assert {name for part in COMPARISON["glance"] for name in part["groups"]} == titles
