"""A proof checks itself: what once overturned a published study is found, and stops the verdict."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from builders import planted_accuracy, trial_result, trial_spec
from test_verify import BETTER, folder, recipe, verify

from plop_lora.evaluation.metrics import often_cut, several_results
from plop_lora.records import TrialResult, TrialSpec
from plop_lora.records.trial import CONFIRM
from plop_lora.verification.self_checks import constant_metric, equal_seeds

__all__ = ["folder", "recipe"]


def test_a_metric_that_never_ran_decides_nothing(scores, recipe, tmp_path: Path) -> None:
    """It counted as 0 for every arm, which made all arms alike."""

    def never(spec: TrialSpec, found: TrialResult) -> TrialResult:
        if spec.phase != CONFIRM:
            return found
        items = found.items | {"accuracy": (0.0,) * len(found.items["accuracy"])}
        return dataclasses.replace(found, items=items, metrics=found.metrics | {"accuracy": 0.0})

    record = verify(scores, recipe, tmp_path, planted_accuracy(BETTER, change=never))
    assert record.verdict == "cannot separate"
    assert "accuracy is 0 for every row of every trial" in record.more


@pytest.mark.slow
def test_seeds_that_did_not_reach_the_trainer_settle_nothing(
    scores,
    recipe,
    tmp_path: Path,
) -> None:
    first: dict[str, TrialResult] = {}

    def same(spec: TrialSpec, found: TrialResult) -> TrialResult:
        if spec.phase != CONFIRM or spec.arm != "mlp":
            return found
        kept = first.setdefault(spec.arm, found)
        return dataclasses.replace(found, items=kept.items, metrics=kept.metrics)

    record = verify(scores, recipe, tmp_path, planted_accuracy(BETTER, change=same))
    verdicts = {arm.arm: arm.verdict for arm in record.arms}
    assert verdicts["mlp"] == "not settled"
    assert verdicts["attention"] != "not settled"
    assert "mlp: its trials with the seeds 0 and 1 have the same loss on every row" in record.more


def test_what_varies_is_left_alone() -> None:
    spec = trial_spec()
    some = [
        trial_result(spec, 0.5, items={"loss": (0.1, 0.9 + seed)}, seed=seed) for seed in range(3)
    ]
    assert constant_metric(some, "loss") is None
    assert constant_metric([], "loss") is None
    assert not equal_seeds(some)
    assert not equal_seeds([trial_result(spec, None), trial_result(spec, None, seed=1)])


@pytest.mark.parametrize(("cut", "said"), [(0, False), (5, False), (6, True), (100, True)])
def test_answers_that_are_cut_are_counted_above_one_in_twenty(cut: int, said: bool) -> None:
    notes = often_cut([False] * cut + [True] * (100 - cut), 64)
    assert bool(notes) is said
    assert not said or notes[0].startswith(f"{cut} of 100 answers ({cut}%) are cut")


def test_the_first_and_the_last_of_several_results_are_compared() -> None:
    """A scorer that took the last of several markers had judged what came after the answer."""
    texts = ["#### 4\nQuestion: and 5?\n#### 5", "#### 4", "so #### 4 and again #### 4"]
    (note,) = several_results(texts, ["#### 4"] * 3)
    assert note.startswith("1 of 3 answers give several results after ####")
    assert "(0.667 right); by the first it would be 1.000" in note
    assert several_results(texts[1:], ["#### 4"] * 2) == ()
    assert several_results(["4 or 5"], ["4"]) == ()
