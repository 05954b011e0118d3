"""The items on which an adapter did worst: which ones a verdict holds, and no text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from finetunes import ROWS, copy_with_factors, prepared, save_for_bundled

from plop_lora.gating import gate
from plop_lora.gating.check import Rule
from plop_lora.gating.checks import CHECKS
from plop_lora.gating.checks.grouping import GroupRule
from plop_lora.gating.evidence import Line, read_answers
from plop_lora.gating.items import Items, item_name
from plop_lora.gating.suite import Reading
from plop_lora.gating.suites.counterfactual import COUNTERFACTUAL
from plop_lora.gating.suites.memorisation import TRAINING, VERBATIM
from plop_lora.gating.worst_items import MOST, with_worst_items
from plop_lora.recipe import GateRecipe
from plop_lora.records import CheckResult, GateVerdict
from plop_lora.records.gate import FAIL, PASS
from plop_lora.reports.gate import gate_markdown
from plop_lora.training.tasks import TASKS


def found(
    check: str, rule: Rule, rows: Sequence[dict[str, Any]], values: Sequence[tuple[Any, Any]]
) -> CheckResult:
    """Return the outcome of a check on rows with these values of base and adapter."""
    asked = [str(place) for place in range(len(rows))]
    items = Items.of(rows, asked, "rows.jsonl")
    lines = [
        Line("task", place, items.hashes[place], *(Reading({rule.metric: side}) for side in pair))
        for place, pair in enumerate(values)
    ]
    row = CHECKS[check]
    return with_worst_items(row, rule, items, lines, row.decide(row, rule, items, lines))


def rule(check: str, **gate_keys: Any) -> Rule:
    return CHECKS[check].rule(GateRecipe.of({"eval": "e", "gate": gate_keys}, {}), TASKS["sft"])


def rows(count: int) -> list[dict[str, Any]]:
    return [{"text": f"text {place}"} for place in range(count)]


def test_those_that_lost_most_come_first() -> None:
    """The direction is that of the metric, and equal losses stay in the order of the rows."""
    losses = [(1.0, 1.5 + place / 10) for place in range(30)] + [(1.0, 0.0)] * 5
    result = found("task", rule("task"), rows(35), losses)
    assert result.verdict is FAIL
    assert [item.name for item in result.worst_items] == [f"row {30 - n}" for n in range(MOST)]
    worst = result.worst_items[0]
    assert (worst.base, worst.adapter) == (1.0, 4.4)
    assert worst.difference == pytest.approx(3.4)
    refused = [(1.0, 0.0)] * 40 + [(1.0, 1.0)] * 80
    result = found("refusals", rule("refusals"), rows(120), refused)
    assert [item.index for item in result.worst_items] == list(range(MOST))


def test_a_check_that_passes_names_nobody() -> None:
    """Unless it warns: single items lose by chance in every good adapter."""
    same = [(1.0, 1.0 + (-1) ** place / 1e3) for place in range(40)]
    assert found("task", rule("task"), rows(40), same).worst_items == ()
    limits = {"forgetting": {"warn": 0.0, "fail": 10.0}}
    warned = found("forgetting", rule("forgetting", **limits), rows(40),
                   [(1.0, 1.1 + place / 1e3) for place in range(40)])  # fmt: skip
    assert warned.verdict is PASS
    assert warned.worst_items[0].name == "row 40"
    none_lost = found("task", rule("task", task={"mode": "improve", "margin": 9}), rows(40), same)
    assert {item.difference > 0 for item in none_lost.worst_items} == {True}


def test_undecided_items_come_last() -> None:
    values = [(1.0, None)] * 20 + [(1.0, 0.0)] * 2 + [(1.0, 1.0)] * 90
    result = found("refusals", rule("refusals"), rows(112), values)
    names = [item.name for item in result.worst_items]
    assert names == ["row 21", "row 22", *(f"row {n}" for n in range(1, MOST - 1))]
    assert result.worst_items[2].difference is None


def test_the_items_of_the_worst_group_alone() -> None:
    grouped = [{"sex": "fm"[place % 2]} for place in range(60)]
    of_groups = GroupRule(
        mode="worst group", metric="loss", higher_is_better=False, limit=-0.05, spread=0.3,
        labellings=(("sex",),), least=10,
    )  # fmt: skip
    values = [(1.0, 2.0 if place % 2 else 1.001) for place in range(60)]
    result = found("groups", of_groups, grouped, values)
    assert result.part == "m"
    assert {item.index % 2 for item in result.worst_items} == {1}


@pytest.mark.parametrize(
    ("identifier", "name"),
    [
        ("fraud-12", "fraud-12"), (7, "7"), ("", "row 3"), (None, "row 3"), (1.5, "row 3"),
        ("My card is 4111", "row 3"), ("x" * 49, "row 3"), ("a\nb", "row 3"), (["a"], "row 3"),
    ],
)  # fmt: skip
def test_a_name_holds_no_text(identifier: object, name: str) -> None:
    """A column named id may hold what people wrote, and a record is passed on."""
    assert item_name(identifier, 3) == name


def test_rows_of_the_training_are_named_by_their_number(tmp_path: Path) -> None:
    """A sample of the rows, without those that repeat another, keeps the numbers of the file."""
    seen = [ROWS[0], ROWS[0], *ROWS[1:5]]
    for name, found_rows in (("train", seen), ("eval", ROWS[10:14])):
        lines = (json.dumps(row) + "\n" for row in found_rows)
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    recipe = GateRecipe.of({
        "eval": str(tmp_path / "eval.jsonl"),
        "gate": {"memorisation": {"train": str(tmp_path / "train.jsonl")}},
    }, {})  # fmt: skip
    items = TRAINING.items(recipe, TASKS["sft"])
    assert items.names == (
        *(f"training row {n}" for n in (1, 3, 4, 5, 6)), *(f"control row {n}" for n in range(1, 5)),
    )  # fmt: skip
    check = CHECKS["memorisation"]
    values = [(0.0, 1.0)] * len(items.rows)
    lines = [
        Line("training", n, items.hashes[n], *(Reading({VERBATIM: side}) for side in pair))
        for n, pair in enumerate(values)
    ]
    of_check = check.rule(recipe, TASKS["sft"])
    result = check.decide(check, of_check, items, lines)
    result = with_worst_items(check, of_check, items, lines, result)
    assert result.verdict is not PASS
    # Rows of the control speak for the adapter, and not against it.
    assert {item.name.split()[0] for item in result.worst_items} == {"training"}


def test_pairs_of_prompts_are_named_by_their_template() -> None:
    items = COUNTERFACTUAL.items(
        GateRecipe.of({"gate": {"counterfactual": {"languages": ["en"], "most": 6}}}, {}),
        TASKS["sft"],
    )
    assert items.names[0].endswith(", pair 1")
    assert len(set(items.names)) == len(items.names) == 6
    assert items.names[0].startswith(str(items.rows[0]["template"]))
    assert items.at([2, 0]).names == (items.names[2], items.names[0])


# --------------------------------------------------------------------------- a whole gate

SETTINGS = {
    "training": {"max_length": 64, "device": "cpu"},
    "evaluation": {"batch_size": 8, "metric": "numeric", "max_new_tokens": 6},
    "general": {"most": 12},
    "gate": {
        "checks": ["task", "forgetting", "coherence", "refusals"],
        "safety": {"max_new_tokens": 8, "languages": ["en"], "most": 24},
        "memorisation": {"suffix_tokens": 4},
    },
}


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> tuple[GateVerdict, Path]:
    """A verdict on an adapter that says nothing sensible, in a folder with its evidence."""
    import torch

    here = tmp_path_factory.mktemp("gated")
    generator = torch.Generator().manual_seed(0)
    zeros = save_for_bundled(prepared("q_proj", "down_proj"), here / "zeros")
    copy_with_factors(
        zeros, here / "wild", lambda one: 3 * torch.randn(one.shape, generator=generator)
    )
    (here / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[:16]))
    recipe = GateRecipe.of({"eval": str(here / "eval.jsonl"), **SETTINGS}, {})
    verdict = gate(here / "wild", recipe, evidence=here / "verdict.evidence.jsonl")
    verdict.save(here / "verdict.json")
    return verdict, here


def test_a_verdict_names_its_items_and_holds_no_text(gated: tuple[GateVerdict, Path]) -> None:
    """A record goes to people who may not see the rows."""
    verdict, here = gated
    checks = {check.check: check for check in verdict.checks}
    assert checks["coherence"].verdict is FAIL
    assert checks["forgetting"].worst_items[0].difference > 0.1
    # What was not judged because the answers are broken went wrong for nobody.
    assert checks["refusals"].worst_items == ()
    assert all(item.name.startswith("en-") for item in checks["coherence"].worst_items)
    document = (here / "verdict.json").read_text()
    assert GateVerdict.load(here / "verdict.json") == verdict
    lines = map(json.loads, (here / "verdict.evidence.jsonl").read_text().splitlines()[1:])
    answers = [line[side]["answer"] for line in lines for side in ("base", "adapter")]
    assert any(answers)
    for answer in filter(None, answers):
        assert answer.strip() not in document or len(answer.strip()) < 4
    for row in ROWS[:16]:
        assert row["prompt"] not in document
    assert f"coherence: the items that went worst: {checks['coherence'].worst_items[0].name} (" in (
        gate_markdown(verdict).replace("\\", "")
    )


def test_the_answers_are_found_in_the_evidence(gated: tuple[GateVerdict, Path]) -> None:
    verdict, here = gated
    (coherence,) = [check for check in verdict.checks if check.check == "coherence"]
    wanted = {(item.suite, item.index) for item in coherence.worst_items}
    found = read_answers(here / "verdict.evidence.jsonl", verdict.measurement, wanted)
    assert set(found) == wanted
    for item in coherence.worst_items:
        line = found[item.suite, item.index]
        assert line.item == item.item
        assert line.adapter.values["degenerate"] == item.adapter == 1.0


def test_items_of_a_judge_have_the_answers_that_it_judged() -> None:
    """Its own lines hold no answers."""
    row = CHECKS["unsafe"]
    judged = row.rule(
        GateRecipe.of({"eval": "e", "gate": {"safety": {"judge": {"name": "a:b"}}}}, {}),
        TASKS["sft"],
    )
    items = Items.of(rows(40), [str(n) for n in range(40)], "p")
    lines = [
        Line("judgements", n, items.hashes[n], Reading({"unsafe": 0.0}), Reading({"unsafe": 1.0}))
        for n in range(40)
    ]
    result = row.decide(row, judged, items, lines)
    item = with_worst_items(row, judged, items, lines, result).worst_items[0]
    assert (item.suite, item.index) == ("prompts", 0)


def test_an_older_verdict_has_no_items() -> None:
    """Its digest stays what it was."""
    old = GateVerdict.load(Path(__file__).parent / "golden" / "gate-verdict-1.json")
    assert all(check.worst_items == () for check in old.checks)
    assert "worst_items" not in old.to_json()
    assert replace(old).digest() == old.digest()
