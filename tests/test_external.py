"""Published placements as a hold-out: each verdict by hand, and the section as it stands."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "scripts" / "experiments"
PAGE = ROOT / "docs" / "evidence.md"
NFN = {"q_proj": 2.0, "v_proj": 1.0, "up_proj": 1.2}


@pytest.fixture(scope="module")
def external() -> Iterator[Any]:
    sys.path.insert(0, str(SCRIPTS))
    try:
        import external

        yield external
    finally:
        sys.path.remove(str(SCRIPTS))


def study(arms: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": "a study", "source": "a paper", "model": "net", "task": "a task",
            "budget": "equal", "decoder": True, "error": 0.5, "arms": arms} | more  # fmt: skip


def verdict(external: Any, index: int = 0, **given: Any) -> Any:
    """Return what an indicator says of the only contrast of a study."""
    arms = given.pop("arms", {"q": {"value": 70.0, "types": ["q_proj"]},
                              "v": {"value": 73.0, "types": ["v_proj"]}})  # fmt: skip
    nfn = given.pop("nfn", {"net": {"source": "here", "nfn": NFN}})
    shapes = given.pop("shapes", {"net": {"q_proj": [8, 8], "v_proj": [8, 2], "up_proj": [8, 32]}})
    whole = external.External.model_validate(
        {"values": nfn, "shapes": shapes, "studies": [study(arms, **given)]}
    )
    (contrast,) = external.contrasts(whole)
    return external.judge(contrast, external.opinions(whole)[index])


def test_an_indicator_agrees_where_the_arm_that_it_puts_first_is_better(external) -> None:
    assert verdict(external).verdict == "agree"
    turned = {"q": {"value": 73.0, "types": ["q_proj"]}, "v": {"value": 70.0, "types": ["v_proj"]}}
    assert verdict(external, arms=turned).verdict == "disagree"
    assert verdict(external, 3).verdict == "disagree"  # the query has more parameters
    assert verdict(external, 3, arms=turned).verdict == "agree"


def test_arms_within_their_errors_tie(external) -> None:
    """3 points apart with an error of 1.1 each are 1.93 standard errors."""
    assert verdict(external, error=1.1).verdict == "tie"
    assert verdict(external, error=1.05).verdict == "agree"


def test_the_error_of_a_share_follows_from_its_items(external) -> None:
    arms = {"q": {"value": 0.70, "types": ["q_proj"]}, "v": {"value": 0.73, "types": ["v_proj"]}}
    error = math.hypot(math.sqrt(0.7 * 0.3 / 1000), math.sqrt(0.73 * 0.27 / 1000))
    assert 1.96 * error > 0.03
    assert verdict(external, arms=arms, error=None, items=1000).verdict == "tie"
    assert verdict(external, arms=arms, error=None, items=4000).verdict == "agree"


@pytest.mark.parametrize(
    ("index", "given", "why"),
    [
        (0, {"unequal": "one rank"}, "one rank"),
        (0, {"error": None}, "no error is stated"),
        (0, {"model": "other"}, "no NFN of the model"),
        (1, {}, "no sibling"),
        (2, {"decoder": False}, "module types are not those"),
        (3, {"model": "other"}, "shapes"),
        (3, {"shapes": {"net": {"q_proj": [8, 8], "v_proj": [8, 8]}}}, "the same for both"),
        (0, {"nfn": {"net": {"source": "here", "nfn": {"q_proj": 1.0}}}}, "types of an arm"),
    ],
)
def test_what_cannot_be_judged_says_why(external, index: int, given: Any, why: str) -> None:
    found = verdict(external, index, **given)
    assert found.verdict == "cannot be judged"
    assert why in found.why


def test_a_sibling_and_a_constant_order_stand_in_under_their_own_names(external) -> None:
    nfn = {external.CONSTANT: {"source": "here", "nfn": NFN}}
    assert verdict(external, 0, nfn=nfn).verdict == "cannot be judged"
    assert verdict(external, 1, nfn=nfn, sibling=external.CONSTANT).verdict == "agree"
    assert verdict(external, 2, nfn=nfn).verdict == "agree"


def test_an_order_by_construction_needs_no_values(external) -> None:
    """The lowest three types are lower than any other arm, whatever their values are."""
    arms = {"low": {"value": 73.0}, "high": {"value": 70.0}}
    assert verdict(external, arms=arms, lower=[["low", "high"]]).verdict == "agree"
    assert verdict(external, arms=arms, lower=[["high", "low"]]).verdict == "disagree"


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"lower": [["q", "absent"]]}, "absent"),
        ({"error": None, "items": 100}, "no share of the items"),
        ({"budgett": "x"}, "budgett"),
    ],
)
def test_a_file_that_says_something_else_is_refused(external, more: Any, named: str) -> None:
    arms = {"q": {"value": 70.0}, "v": {"value": 73.0}}
    with pytest.raises(ValueError, match=named):
        external.External.model_validate(
            {"values": {}, "shapes": {}, "studies": [study(arms, **more)]}
        )


def test_every_contrast_is_counted_once_for_every_indicator(external) -> None:
    found = external.read()
    every = list(external.contrasts(found))
    assert len(every) == sum(math.comb(len(one.arms), 2) for one in found.studies)
    table = external.text_of(found).split("| indicator |")[1].split("\n\n")[0]
    for line in table.splitlines()[2:]:
        counts = [int(re.match(r"\d+", cell.strip())[0]) for cell in line.split("|")[2:6]]
        assert sum(counts) == len(every)


def test_the_section_is_what_the_file_says(external) -> None:
    from pages import part_below

    assert part_below(PAGE, external.MARK, external.END) == external.text_of(external.read())


def test_a_page_without_the_marks_is_refused(external, tmp_path: Path) -> None:
    from pages import PageError, write_below

    page = tmp_path / "page.md"
    page.write_text("no mark")
    with pytest.raises(PageError, match="external"):
        write_below(page, external.MARK, "text", external.END)
    page.write_text(f"before\n{external.MARK}\nold\n{external.END}\nafter\n")
    write_below(page, external.MARK, "new\n", external.END)
    assert page.read_text() == f"before\n{external.MARK}\n\nnew\n\n{external.END}\nafter\n"


def test_the_published_results_stay_out_of_every_fit() -> None:
    """A hold-out that a fit has seen is none."""
    readers = [
        path
        for folder in (SCRIPTS, ROOT / "src")
        for path in folder.rglob("*.py")
        if re.search(r"external\.yaml|(import|from) external\b", path.read_text("utf-8"))
    ]
    assert [path.name for path in readers] == ["external.py"]
