"""The learning-rate ladder of `verify`: no rival may lose by a rate that nothing has chosen."""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import PlantedTrials, evaluation_rows, model_reference, trial_result
from hypothesis import given
from hypothesis import strategies as st

import plop_lora as plop
from plop_lora.recipe import VerifyRecipe
from plop_lora.records import TrialResult, TrialSpec, Verification
from plop_lora.records.trial import CONFIRM, LADDER, UNTRAINED
from plop_lora.records.verification import ArmVerdict, Verdict
from plop_lora.reports.terminal import as_text
from plop_lora.study.rates import Rung, leading
from plop_lora.study.usual_rate import usual_rate

ARMS = ("plop", "attention", "mlp", "all-linear")
RATES = (2e-4, 6e-4, 1.8e-3)
LEVEL = 1.4
"""Loss of the untrained model."""


@pytest.fixture
def recipe(scores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VerifyRecipe:
    monkeypatch.chdir(tmp_path)
    Path(scores.model.name).mkdir()
    (Path(scores.model.name) / "config.json").write_text(json.dumps(scores.model.config))
    for name, start, count in (("train", 0, 400), ("eval", 9000, 400)):
        rows = ({"text": f"text {n}", "label": n % 4} for n in range(start, start + count))
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return VerifyRecipe.parse(
        {
            "task": "classify", "train": "train.jsonl", "eval": "eval.jsonl", "seeds": 3,
            "learning_rates": RATES, "arms": ARMS, "training": {"device": "cpu"},
        },
        "the test",
    )  # fmt: skip


def planted(
    loss_of: Callable[[TrialSpec], float], accuracy_of: Callable[[TrialSpec], float]
) -> PlantedTrials:
    """Return trials with a loss that rows spread around, and right answers by chance."""

    def outcome(spec: TrialSpec, root: Path) -> TrialResult:
        mean = LEVEL if spec.phase == UNTRAINED else loss_of(spec)
        share = 0.25 if spec.phase == UNTRAINED else accuracy_of(spec)
        drawn = random.Random(f"draw {spec.arm} {spec.learning_rate} {spec.seed} {spec.data.rows}")
        rows = range(evaluation_rows(spec, root))
        own = [random.Random(f"row {row}").gauss(0, 0.3) for row in rows]
        items = {
            "loss": tuple(mean + row + drawn.gauss(0, 0.1) for row in own),
            "accuracy": tuple(float(drawn.random() < share) for _ in rows),
        }
        means = {name: statistics.fmean(values) for name, values in items.items()}
        return trial_result(
            spec, means["accuracy"], metric="accuracy", metrics=means, items=items
        )  # fmt: skip

    return PlantedTrials(outcome)


def is_short(spec: TrialSpec) -> bool:
    """Whether a trial belongs to the first stage of the ladder."""
    return spec.phase == LADDER and spec.data.rows is not None


def crippled(spec: TrialSpec) -> float:
    """Short trials are at the start for all; on all rows small rates stay far behind."""
    if is_short(spec):
        return LEVEL
    return {2e-4: 1.2, 6e-4: 0.6, 1.8e-3: 0.5}[spec.learning_rate]


def by_rate(spec: TrialSpec) -> float:
    """At the start accuracy is a matter of chance, and afterwards of the rate alone."""
    if is_short(spec):
        return 0.27 if (spec.arm, spec.learning_rate) == ("mlp", 2e-4) else 0.25
    return {2e-4: 0.45, 6e-4: 0.8, 1.8e-3: 0.82}[spec.learning_rate]


def verify(scores, recipe: VerifyRecipe, run: PlantedTrials) -> Verification:
    return plop.verify(scores, recipe, folder="run", run=run)


def test_a_rival_is_not_crippled_by_a_rate_of_chance(scores, recipe) -> None:
    """All arms are alike, and their short trials say nothing: once one lost by its rate."""
    run = planted(crippled, by_rate)
    record = verify(scores, recipe, run)
    assert {arm.learning_rate for arm in record.arms} == {1.8e-3}
    full = [spec for spec in run.of_phase(LADDER) if not is_short(spec)]
    assert {(spec.arm, spec.learning_rate) for spec in full} == {
        (arm, rate) for arm in ARMS for rate in RATES
    }
    assert not {ArmVerdict.WORSE, ArmVerdict.BETTER} & {arm.verdict for arm in record.arms}
    short = [step for step in record.ladder if not step.full]
    assert not any(step.informative for step in short)
    assert all(step.informative for step in record.ladder if step.full)
    assert "trained there on all rows as well" in as_text(record, 200)


@pytest.mark.slow
@pytest.mark.parametrize("end", [LEVEL, 1.2])
def test_an_arm_far_from_what_its_ladder_promised_is_not_settled(scores, recipe, end) -> None:
    """At the level of the untrained model, or at a fraction of what was promised."""

    def losses(spec: TrialSpec) -> float:
        if spec.arm == "mlp" and spec.phase == CONFIRM and spec.seed == 1:
            return end
        return {2e-4: 0.9, 6e-4: 0.5, 1.8e-3: 0.7}[spec.learning_rate]

    def answers(spec: TrialSpec) -> float:
        return 0.3 if spec.arm == "mlp" and spec.phase == CONFIRM else 0.8

    record = verify(scores, recipe, planted(losses, answers))
    verdicts = {arm.arm: arm.verdict for arm in record.arms}
    assert verdicts["mlp"] == ArmVerdict.UNSETTLED
    assert record.verdict == Verdict.INCONCLUSIVE
    why = "ended at the level of the untrained" if end == LEVEL else "where its ladder promised"
    assert f"mlp: its trial with the seed 1 {'is' if end != LEVEL else ''}".strip() in record.more
    assert why in record.more


def test_what_learns_at_no_rate_on_all_rows_has_had_its_chance(scores, recipe) -> None:
    """Then it is a finding that it learns nothing, and no accident of its rate."""

    def losses(spec: TrialSpec) -> float:
        if spec.arm == "attention":
            return LEVEL
        return {2e-4: 0.9, 6e-4: 0.5, 1.8e-3: 0.7}[spec.learning_rate]

    run = planted(losses, lambda spec: 0.25 if spec.arm == "attention" else 0.8)
    record = verify(scores, recipe, run)
    verdicts = {arm.arm: arm.verdict for arm in record.arms}
    assert verdicts["attention"] == ArmVerdict.SCREENED
    full = [spec for spec in run.of_phase(LADDER) if not is_short(spec)]
    assert {(spec.arm, spec.learning_rate) for spec in full} == {
        ("attention", rate) for rate in RATES
    }


@pytest.mark.slow
def test_clear_ladders_are_not_climbed_twice(scores, recipe) -> None:
    """What the rows tell apart needs no second trial."""
    losses = {2e-4: 0.9, 6e-4: 0.5, 1.8e-3: 0.7}
    run = planted(lambda spec: losses[spec.learning_rate], lambda spec: 0.8)
    record = verify(scores, recipe, run)
    assert all(map(is_short, run.of_phase(LADDER)))
    assert {arm.learning_rate for arm in record.arms} == {6e-4}


# --------------------------------------------------------------------------- one ladder


def rung(rate: float, value: float | None, gain: float | None = 1.0) -> Rung:
    return Rung(rate, value, None, gain, 0.1)


def test_what_has_learned_goes_before_what_has_not() -> None:
    still, learned = rung(1e-4, 0.5, 0.1), rung(1e-3, 0.9, 0.6)
    assert [found.rate for found in leading([still, learned])] == [1e-3]
    assert [found.rate for found in leading([still, rung(1e-5, 0.5, 0.0)])] == [1e-4, 1e-5]
    worse = rung(1e-2, 9.0, -5.0)
    assert [found.rate for found in leading([still, worse])] == [1e-4]
    assert [found.rate for found in leading([worse, rung(1e-1, None)])] == [1e-2]
    assert leading([rung(1e-1, None)]) == ()


@given(st.lists(st.floats(0.1, 9), min_size=1, max_size=6, unique=True))
def test_the_best_comes_first(values: list[float]) -> None:
    rungs = [rung(float(n + 1), value) for n, value in enumerate(values)]
    assert leading(rungs)[0].value == min(values)


# --------------------------------------------------------------------------- where it begins


@pytest.mark.parametrize(
    ("config", "steps", "rate"),
    [
        ({"model_type": "llama", "hidden_size": 2000}, 100, 5e-4),
        ({"model_type": "llama", "hidden_size": 2000}, 99, 7.5e-4),
        ({"model_type": "llama", "hidden_size": 4096}, 1000, 2.9e-4),
        ({"model_type": "qwen3", "hidden_size": 4096}, 1000, 4.7e-4),
        ({"model_type": "gemma3", "text_config": {"hidden_size": 640}}, 32, 1.8e-3),
        ({"model_type": "gpt2", "n_embd": 768}, 1000, 1.1e-3),
        ({}, 1000, 5e-4),
        ({"hidden_size": "wide"}, 1000, 5e-4),
        (None, 1000, 5e-4),
    ],
)
def test_the_rate_falls_with_the_width_and_the_length(config, steps: int, rate: float) -> None:
    assert usual_rate(5e-5, steps, model_reference(config=config)) == rate


def test_a_rate_that_the_user_knows_counts_for_itself() -> None:
    model = model_reference(config={"model_type": "llama", "hidden_size": 128})
    assert usual_rate(5e-5, 1000, model, own=1e-5) == 1e-4
