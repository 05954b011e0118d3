"""The section `ab` of a recipe: what it becomes, what is refused, and the template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from experiments import adapter_folder, check, verdict

from plop_lora import ab
from plop_lora.ab.design import design, recipe_template
from plop_lora.errors import AdapterError, UsageError
from plop_lora.recipe import ExperimentRecipe, GateRecipe
from plop_lora.records.gate import CheckVerdict


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the adapter and the verdict that the template names."""
    monkeypatch.chdir(tmp_path)
    made = adapter_folder(tmp_path / "adapters/next")
    digest = ab.adapter_arm("next", 0.5, made).adapter_digest
    verdict(digest).save(tmp_path / "verdict.json")
    return tmp_path


def read(given: dict[str, Any] | None = None) -> ExperimentRecipe:
    """Return the recipe of the template with other values."""
    return ExperimentRecipe.of(yaml.safe_load(recipe_template({})), given or {})


def test_the_template_is_an_experiment(folder: Path) -> None:
    """A recipe to start from that has to be mended first is none."""
    (folder / "ab.yaml").write_text(recipe_template({}))
    found = design(ExperimentRecipe.read("ab.yaml").ab)
    assert found.split == {"now": 0.5, "next": 0.5}
    assert found.arms[1].gate is not None
    assert found.arms[1].accepted == ""
    assert found.metric("resolved").kind == "share"
    assert not found.metric("latency_last").higher_is_better
    assert [(one.metric, one.margin) for one in found.guardrails] == [("latency_last", 0.2)]
    assert found.salt != design(read().ab).salt
    assert "# The metric that decides." in recipe_template({})
    assert "coverage: 0.5\n" in recipe_template({"ab": {"coverage": 0.5}})


def test_other_verbs_read_the_same_file(folder: Path) -> None:
    """One file holds the keys of every verb, so each must let the section of the others be."""
    (folder / "all.yaml").write_text(f"task: sft\neval: e.jsonl\n{recipe_template({})}")
    assert GateRecipe.read("all.yaml").eval == "e.jsonl"
    assert ExperimentRecipe.read("all.yaml").ab.name == "support"


def test_an_arm_without_a_gate_needs_a_reason(folder: Path) -> None:
    """Users would meet an adapter of which nobody knows whether it is safe."""
    without = {"ab": {"arms": {"next": {"gate": None}}}}
    with pytest.raises(UsageError, match=r"gate of the arm 'next' is missing.*--force \"reason\""):
        design(read(without).ab)
    next_arm = design(read(without).ab, accepted="a pilot").arms[1]
    assert (next_arm.gate, next_arm.accepted) == (None, "a pilot")
    passing = design(read().ab, accepted="not needed")
    assert [arm.accepted for arm in passing.arms] == ["", ""]
    own = {"ab": {"arms": {"next": {"gate": None, "accepted": "of its own"}}}}
    assert design(read(own).ab, accepted="a pilot").arms[1].accepted == "of its own"


def test_a_verdict_that_fails_or_is_open_is_refused(folder: Path) -> None:
    digest = ab.adapter_arm("next", 0.5, folder / "adapters/next").adapter_digest
    for outcome in (CheckVerdict.FAIL, CheckVerdict.NOT_ENOUGH_DATA):
        verdict(digest, check(outcome)).save(folder / "verdict.json")
        with pytest.raises(UsageError, match=f"says '{outcome}'"):
            design(read().ab)
        assert design(read().ab, accepted="known").arms[1].gate.verdict == outcome


def test_a_verdict_about_other_files_is_refused_whatever_the_reason(folder: Path) -> None:
    (folder / "adapters/next/adapter_model.safetensors").write_text("retrained")
    with pytest.raises(UsageError, match="about another adapter"):
        design(read().ab, accepted="a pilot")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"arms": {"next": {"weight": 0.4}}}, r"add up to 0\.9"),
        ({"arms": {"now": {"adapter": "adapters/next"}}}, "are the same adapter"),
        ({"control": "nwo"}, "Did you mean 'now'"),
        ({"primary": "resolvd"}, "Did you mean 'resolved'"),
        ({"guardrails": {"latency_last": -0.2}}, "it must be above 0"),
        ({"arms": {"next": {"wieght": 0.5}}}, r"ab\.arms\.next\.wieght.*Did you mean 'weight'"),
        ({"arms": {"other": {"adapter": "x"}}}, r"ab\.arms\.other\.weight is needed.*: the share"),
        ({"metrics": {"resolved": {"kind": "rate"}}}, r"ab\.metrics\.resolved\.kind"),
        ({"metrics": {"cost": {"kind": "ratio"}}}, "needs the names of a numerator"),
        ({"coverage": 5}, "coverage is 5; it must be 1 or less"),
        ({"name": "two\nlines"}, "must be a text on one line"),
    ],
)
def test_what_cannot_be_an_experiment(folder: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        design(read({"ab": given}).ab)


def test_an_adapter_that_is_not_there(folder: Path) -> None:
    with pytest.raises(AdapterError, match=r"absent does not exist"):
        design(read({"ab": {"arms": {"next": {"adapter": "absent"}}}}).ab)


def test_the_section_is_needed() -> None:
    with pytest.raises(UsageError, match="ab is needed"):
        ExperimentRecipe.read(None, {})
