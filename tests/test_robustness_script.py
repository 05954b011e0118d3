"""The page on robustness is what its records say, and the records are what the verb writes."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from plop_lora.records import Family, Outcome
from plop_lora.variants.catalogue import VARIANTS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "robustness.md"
GUIDE = ROOT / "docs" / "how-to" / "robustness.md"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """Import the script as it imports its neighbours."""
    folder = str(ROOT / "scripts" / "experiments")
    sys.path.insert(0, folder)
    try:
        yield importlib.import_module("robustness")
    finally:
        sys.path.remove(folder)
        sys.modules.pop("robustness", None)


def test_the_tables_of_the_page_are_those_of_the_records(script) -> None:
    from pages import part_below

    assert part_below(PAGE, script.MARK, script.END) == script.all_tables(script.read_all())


def test_every_case_has_its_record(script) -> None:
    """Each was made with the number of texts that the page names, and no path of a machine."""
    records = script.read_all()
    assert list(records) == list(script.CASES)
    for case, record in records.items():
        count, length = case.size
        assert record.sequences <= count
        assert record.tokens <= count * length
        path = script.RESULTS / f"{case.name}.json"
        assert path.stat().st_size < 40_000
        text = path.read_text(encoding="utf-8")
        assert "/tmp" not in text
        assert "/work" not in text
        ours = {one.variant for one in record} | {one.variant for one in record.left_out}
        assert ours == set(VARIANTS)


def test_the_guide_names_every_variant_and_outcome() -> None:
    guide = GUIDE.read_text(encoding="utf-8")
    rows = [line for line in guide.splitlines() if line.startswith("| ")]
    for row in VARIANTS.values():
        (line,) = [line for line in rows if f"`{row.name}`" in line.split("|")[1]]
        assert ("none" in line.split("|")[3]) == (not row.forward) or row.name == "against"
    for outcome in Outcome:
        assert any(line.startswith(f"| {outcome} |") for line in rows)


def test_what_the_page_says_is_counted(script) -> None:
    """The numbers in its sentences are those of the records."""
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    every = [one for record in script.read_all().values() for one in record]
    unrelated = [one for one in every if one.family is Family.UNRELATED]
    same = sum(one.same_choice for one in unrelated)
    assert f"in {same} of {len(unrelated)} cases" in text
    related = [one for one in every if one.family not in (Family.SAMPLE, Family.UNRELATED)]
    same = sum(one.outcome is Outcome.SAME for one in related)
    assert f"Of the {len(related)} results" in text
    assert f"weights or their mixture, {same} are the same" in text
    few = [one for one in every if one.name == "fewer-texts: 8 texts"]
    assert (len(few), sum(one.unchanged == 1 for one in few)) == (8, 7)
