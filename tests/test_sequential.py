"""A verification in rounds: settled arms stop, the record says why, and a stopped run goes on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from builders import PlantedTrials, planted_accuracy
from test_verify import folder, recipe

import plop_lora as plop
from plop_lora.records import TrialResult, TrialSpec, Verification
from plop_lora.records.trial import CONFIRM
from plop_lora.reports.terminal import as_text
from plop_lora.training.runners.events import ENDED, ArmEnded, Event
from plop_lora.verification import run as step

__all__ = ["folder", "recipe"]

ARMS = ("plop", "attention", "mlp", "all-linear")
ALIKE = dict.fromkeys(ARMS, 0.8)


@pytest.fixture
def rounds(recipe):
    """The recipe with its defaults: in rounds, by the loss, six seeds at most."""
    return recipe.model_copy(
        update={"design": "sequential", "decide_by": "loss", "seeds": None, "margin": 0.05}
    )


def seeds_of(planted: PlantedTrials) -> dict[str, int]:
    """Return how many deciding trials each arm had."""
    confirm = planted.of_phase(CONFIRM)
    return {arm: sum(spec.arm == arm for spec in confirm) for arm in ARMS}


def spread(sd: float):
    """Return a change of results that adds to the loss of each trial what its seed and arm give."""

    def change(spec: TrialSpec, found: TrialResult) -> TrialResult:
        if spec.phase != CONFIRM or "loss" not in found.items:
            return found
        shift = sd * (-1) ** (spec.seed + ARMS.index(spec.arm)) * (1 + spec.seed % 3)
        losses = tuple(loss + shift for loss in found.items["loss"])
        metrics = {**found.metrics, "loss": found.metrics["loss"] + shift}
        return dataclasses.replace(found, items={**found.items, "loss": losses}, metrics=metrics)

    return change


def test_arms_that_two_seeds_settle_have_no_third(scores, rounds, tmp_path: Path) -> None:
    planted = planted_accuracy(ALIKE)
    told = []
    wide = rounds.model_copy(update={"margin": 0.3})
    record = plop.verify(scores, wide, folder=tmp_path / "run", run=planted, watch=told.append)
    assert record.verdict == "confirmed"
    assert seeds_of(planted) == dict.fromkeys(ARMS, 2)
    assert record.metric == "loss"
    assert record.beside == "accuracy"
    assert [look.seeds for look in record.looks] == [2]
    assert len(record.seeds) == 6
    for arm in record.arms:
        assert len(arm.values) == 2
        assert arm.ended == ("" if arm.arm == "plop" else "settled at 2 seeds")
        assert arm.beside is not None
        assert arm.beside.mean == pytest.approx(0.8, abs=0.05)
    text = " ".join(as_text(record, 200).split())
    assert "accuracy beside it" in text
    assert "decides nothing" in text
    ended = {event.arm: event.why for event in told if isinstance(event, ArmEnded)}
    assert ended == dict.fromkeys(ARMS[1:], "settled at 2 seeds")
    assert {event.state for event in told if not isinstance(event, Event)} == {ENDED}
    assert Verification.from_dict(record.to_dict()) == record


def test_open_arms_get_more_seeds_up_to_the_last(scores, rounds, tmp_path: Path) -> None:
    """Spreads that leave it open, and yet within reach, are trained on to the end."""
    planted = planted_accuracy(ALIKE, change=spread(0.02))
    record = plop.verify(scores, rounds, folder=tmp_path / "run", run=planted)
    trained = seeds_of(planted)
    assert trained["plop"] == max(trained.values()) > 2
    assert len(record.looks) == trained["plop"] - 1
    for arm in record.arms:
        assert len(arm.values) == trained[arm.arm]


def test_a_hopeless_rival_is_screened_out_and_named(scores, rounds, tmp_path: Path) -> None:
    planted = planted_accuracy({**ALIKE, "attention": 0.5})
    record = plop.verify(scores, rounds, folder=tmp_path / "run", run=planted)
    assert seeds_of(planted)["attention"] == 0
    arm = next(arm for arm in record.arms if arm.arm == "attention")
    assert (arm.verdict, arm.values, arm.mean) == ("screened out", (), None)
    assert "screened out on the selection rows" in arm.ended
    assert record.verdict == "confirmed"
    assert "screened out on the selection rows" in as_text(record, 300).lower()


def test_the_strongest_rival_is_never_screened_out(scores, rounds, tmp_path: Path) -> None:
    planted = planted_accuracy({**ALIKE, "all-linear": 0.5})
    plop.verify(scores, rounds, folder=tmp_path / "run", run=planted)
    assert seeds_of(planted)["all-linear"] >= 2


@pytest.mark.parametrize("stopped_after", [14, 16, 19])
def test_a_stopped_run_ends_like_one_that_was_not(
    scores, rounds, tmp_path: Path, stopped_after: int
) -> None:
    whole = plop.verify(
        scores, rounds, folder=tmp_path / "whole", run=planted_accuracy(ALIKE, change=spread(0.02))
    )
    first = planted_accuracy(ALIKE, change=spread(0.02), die_after=stopped_after)
    with pytest.raises(KeyboardInterrupt):
        plop.verify(scores, rounds, folder=tmp_path / "run", run=first)
    second = planted_accuracy(ALIKE, change=spread(0.02))
    again = plop.verify(scores, rounds, folder=tmp_path / "run", run=second)
    assert again.arms == whole.arms
    assert again.looks == whole.looks
    assert again.verdict == whole.verdict
    assert not {spec.digest() for spec in first.ran} & {spec.digest() for spec in second.ran}


def test_a_verdict_that_is_drawn_again_by_other_rules_says_so(
    scores, rounds, tmp_path: Path
) -> None:
    """More seeds after a look are one look too many."""
    run = tmp_path / "run"
    first = plop.verify(scores, rounds, folder=run, run=planted_accuracy(ALIKE))
    same = plop.verify(scores, rounds, folder=run, run=planted_accuracy(ALIKE))
    assert same.notes == first.notes
    more = rounds.model_copy(update={"design": "fixed", "seeds": 8})
    again = plop.verify(scores, more, folder=run, run=planted_accuracy(ALIKE))
    (note,) = (note for note in again.notes if "judged before" in note)
    assert "with at most 6 seeds, by loss and a margin of 0.05 (confirmed)" in note
    kept = plop.verify(scores, more, folder=run, run=planted_accuracy(ALIKE))
    assert note in kept.notes


def test_the_margin_may_be_a_share_of_the_loss(scores, rounds, tmp_path: Path) -> None:
    shared = rounds.model_copy(update={"margin": "10%"})
    record = plop.verify(scores, shared, folder=tmp_path / "run", run=planted_accuracy(ALIKE))
    first = next(arm for arm in record.arms if arm.arm == "plop")
    assert record.margin == pytest.approx(0.1 * sum(first.values[:2]) / 2)
    plan = step.plan(scores, shared, folder=tmp_path / "other")
    assert plan.margin is None
    assert plan.margin_share == 0.1
    assert "10 % of the loss of plop" in as_text(plan, 200)


def test_the_default_margin_is_small_where_the_loss_is(scores, rounds, tmp_path: Path) -> None:
    usual = rounds.model_copy(update={"margin": None})
    plan = step.plan(scores, usual, folder=tmp_path / "other")
    assert (plan.margin, plan.margin_share) == (0.02, 0.05)
    assert "whichever is smaller" in as_text(plan, 200)


def test_the_plan_says_what_the_looks_save(scores, rounds, tmp_path: Path) -> None:
    plan = step.plan(scores, rounds, folder=tmp_path / "run")
    fixed = step.plan(
        scores, rounds.model_copy(update={"design": "fixed"}), folder=tmp_path / "run"
    )
    assert plan.confirm_trials == 6 * len(ARMS)
    assert fixed.confirm_trials == 5 * len(ARMS)
    assert plan.expected_confirm_trials < plan.confirm_trials
    assert fixed.expected_confirm_trials == fixed.confirm_trials
    assert 0 <= plan.confirms <= 1
    assert json.loads(plan.to_json())["looks"][0]["seeds"] == 2
