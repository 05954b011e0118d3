"""What `verify` claims, and what it must not: levels, bounds, lost trials; plans run nothing."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import transformers
from builders import PlantedTrials, evaluation_rows, lost, planted_accuracy, trial_result
from test_verify import BETTER, folder, plop_verify, recipe, verify

import plop_lora as plop
from plop_lora.errors import DataError, UsageError
from plop_lora.recipe import TuneRecipe, VerifyRecipe
from plop_lora.records import TrialResult, TrialSpec, Verification, VerificationPlan
from plop_lora.records.trial import CONFIRM, LADDER
from plop_lora.reports.terminal import as_text
from plop_lora.study.study import Study
from plop_lora.tuning import plan as plan_of_tune
from plop_lora.tuning import tune
from plop_lora.verification import run as step
from plop_lora.verification.decide import Doubts, Outcome, decide

__all__ = ["folder", "plop_verify", "recipe"]
"""Fixtures of the planted trials."""

ALIKE = dict.fromkeys(("plop", "attention", "mlp", "all-linear"), 0.6)


# --------------------------------------------------------------------------- the bound


@pytest.mark.slow
def test_the_bound_that_decides_stands_beside_the_verdict(scores, recipe, tmp_path: Path) -> None:
    """CONFIRMED stood beside an interval that crossed the margin: two rules, one of them unsaid."""
    record = verify(
        scores, recipe.model_copy(update={"margin": 0.05}), tmp_path, planted_accuracy(ALIKE)
    )
    assert record.verdict == "confirmed"
    rivals = [arm for arm in record.arms if arm.arm != "plop"]
    for arm in rivals:
        assert -record.margin <= arm.low < arm.difference < arm.high
        assert arm.freedom > len(record.seeds) - 1
    text = " ".join(as_text(record, 200).split())
    assert "plop is confirmed where, for every rival, both lie above it" in text
    assert "Each bound errs in 5 % of runs" in text
    assert f"{rivals[0].low:+.3f} and {rivals[0].high:+.3f}" in text
    assert Verification.from_dict(record.to_dict()) == record


@pytest.mark.slow
def test_an_old_record_has_no_bound(scores, recipe, tmp_path: Path) -> None:
    document = verify(scores, recipe, tmp_path, planted_accuracy(BETTER)).to_dict()
    del document["references"]
    for arm in document["arms"]:
        del arm["bound"], arm["freedom"]
    assert "CONFIRMED" in as_text(Verification.from_dict(document), 120)


# --------------------------------------------------------------------------- levels


@pytest.mark.slow
def test_the_untrained_model_and_the_majority_class_have_a_line(
    scores, recipe, tmp_path: Path
) -> None:
    """0.440 in every arm looks like a result until both are seen beside it."""
    planted = planted_accuracy(BETTER, untrained=0.3)
    record = verify(scores, recipe, tmp_path, planted)
    untrained, majority = record.references
    assert untrained.name == "untrained model"
    assert untrained.value == pytest.approx(0.3, abs=0.08)
    assert (majority.name, majority.value) == ("majority class (0)", 0.5) or majority.value == 0.5
    text = as_text(record, 160)
    assert "untrained model" in text
    assert "majority class" in text
    untrained = [spec for spec in planted.ran if spec.arm == "untrained model"]
    assert {(spec.learning_rate, spec.training.steps) for spec in untrained} == {(0.0, 1)}
    (line,) = (line for line in record.cost.lines if line.what == "untrained model")
    assert line.trials == len(untrained) == 2, (
        "on the rows of the ladder, and on those of the report"
    )
    more = recipe.model_copy(update={"seeds": 4})
    verify(scores, more, tmp_path, planted)
    assert sum(spec.arm == "untrained model" for spec in planted.ran) == 2


def test_arms_that_learned_nothing_confirm_nothing(scores, recipe, tmp_path: Path) -> None:
    """`random` equal to plop, both as good as no finetune, was a success of the shortlist."""
    wanted = recipe.model_copy(update={"margin": 0.05, "arms": ("random",)})
    record = verify(
        scores, wanted, tmp_path, planted_accuracy({**ALIKE, "random": 0.6}, untrained=0.6)
    )
    assert record.verdict == "cannot separate"
    assert {arm.verdict for arm in record.arms} == {"shortlist", "not settled"}
    assert "plop is not shown to be better than the untrained model" in record.more


@pytest.mark.slow
def test_the_majority_class_is_a_level_as_well(scores, recipe, tmp_path: Path) -> None:
    wanted = recipe.model_copy(update={"margin": 0.05})
    planted = planted_accuracy(dict.fromkeys(ALIKE, 0.5), untrained=0.1)
    record = verify(scores, wanted, tmp_path, planted)
    assert record.verdict == "cannot separate"
    assert "better than the majority class" in record.more


@pytest.mark.slow
def test_a_rival_that_learned_still_beats(scores, recipe, tmp_path: Path) -> None:
    planted = planted_accuracy({**dict.fromkeys(ALIKE, 0.5), "mlp": 0.9}, untrained=0.4)
    record = verify(scores, recipe, tmp_path, planted)
    assert (record.verdict, record.better) == ("beaten", "mlp")


@pytest.mark.slow
def test_random_that_does_as_well_is_told(scores, recipe, tmp_path: Path) -> None:
    """The word "confirmed" alone would be read as: the scores found the right place."""
    wanted = recipe.model_copy(update={"margin": 0.05, "arms": ("random",)})
    record = verify(scores, wanted, tmp_path, planted_accuracy({**ALIKE, "random": 0.6}))
    assert record.verdict == "confirmed"
    text = " ".join(as_text(record, 200).split())
    assert "Types drawn at random do as well within the margin" in text


# --------------------------------------------------------------------------- smoke tests


@pytest.mark.slow
def test_a_smoke_test_that_ran_ends_in_zero(plop_verify) -> None:
    """A check in a pipeline was never green: two seeds separate nothing."""
    words = ("--recipe", "recipe.yaml", "--quick")
    code, output, errors = plop_verify(planted_accuracy(ALIKE), *words)
    assert code == 0, errors
    assert "SMOKE TEST" in output
    assert "Exit code 0 says that every arm trained" in " ".join(output.split())


@pytest.mark.slow
def test_a_smoke_test_with_a_failed_arm_does_not(scores, recipe, tmp_path: Path) -> None:
    quick = recipe.model_copy(update={"quick": True})
    record = verify(scores, quick, tmp_path, planted_accuracy(BETTER, causes={"mlp": "NaN"}))
    assert record.exit_code == 4


# --------------------------------------------------------------------------- lost trials


def losing(arm: str, accuracy: dict[str, float], seed: int | None = None) -> PlantedTrials:
    """Return trials of which the machine ends some of one arm.

    Those of its ladder at the largest rate, or of one seed of its confirmation.
    """

    def is_lost(spec: TrialSpec) -> bool:
        if seed is None:
            return spec.phase == LADDER and spec.learning_rate > 5e-4
        return spec.phase == CONFIRM and spec.seed == seed

    def lose(spec: TrialSpec, found: TrialResult) -> TrialResult:
        return lost(found) if spec.arm == arm and is_lost(spec) else found

    return planted_accuracy(accuracy, change=lose)


@pytest.mark.parametrize("arm", ["mlp", "plop"])
def test_a_lost_trial_of_a_ladder_stands_in_the_way(scores, recipe, tmp_path, arm: str) -> None:
    """The arm took another rate, the table was silent, and the verdict was `confirmed`."""
    record = verify(scores, recipe, tmp_path, losing(arm, BETTER))
    assert record.verdict == "cannot separate"
    verdicts = {row.arm: row.verdict for row in record.arms}
    assert verdicts["mlp"] == ("not settled" if arm == "mlp" else "cannot separate")
    assert (verdicts["attention"] == "cannot separate") == (arm == "plop")
    assert f"{arm}: its ladder lost the trial at the rate 0.0009 to the machine" in record.more
    assert "killed by SIGSEGV" in as_text(record, 120)


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["mlp", "plop"])
def test_a_lost_seed_of_a_confirmation_stands_in_the_way(
    scores, recipe, tmp_path, arm: str
) -> None:
    """The seed that ran out of memory was left out, and the verdict was `confirmed`."""
    record = verify(scores, recipe, tmp_path, losing(arm, BETTER, seed=1))
    assert record.verdict == "cannot separate"
    verdicts = {row.arm: row.verdict for row in record.arms}
    assert verdicts["mlp"] == ("not settled" if arm == "mlp" else "cannot separate")
    assert (verdicts["attention"] == "cannot separate") == (arm == "plop")
    assert f"{arm}: its trial with the seed 1 was lost to the machine" in record.more
    assert "start again to run it" in as_text(record, 120)


@pytest.mark.slow
def test_a_rival_with_a_lost_trial_does_not_beat(scores, recipe, tmp_path: Path) -> None:
    record = verify(scores, recipe, tmp_path, losing("mlp", {**ALIKE, "mlp": 0.95}))
    assert record.verdict == "cannot separate"
    assert record.better is None


def test_doubts_do_not_touch_other_arms() -> None:
    outcomes = {
        "plop": Outcome((0.9, 0.9, 0.9)), "mlp": Outcome((0.5, 0.51, 0.5)),
        "all-linear": Outcome((0.6, 0.6, 0.61)),
    }  # fmt: skip
    decision = decide(
        outcomes, shortlist="plop", margin=0.01, higher=True, doubts=Doubts({"mlp": "lost"})
    )
    assert [row.verdict for row in decision.comparisons] == [
        "shortlist", "not settled", "worse",
    ]  # fmt: skip
    assert decision.more == "mlp: lost"


# --------------------------------------------------------------------------- plans


def test_a_plan_of_one_seed_can_tell_nothing(scores, recipe, tmp_path: Path) -> None:
    """It promised "a difference of inf", which no JSON can hold."""
    made = step.plan(scores, recipe.model_copy(update={"seeds": 1}), folder=tmp_path / "run")
    assert made.detectable is None
    assert VerificationPlan.from_dict(json.loads(made.to_json())) == made
    assert "One seed has no spread" in as_text(made, 120)
    assert "inf" not in as_text(made, 120).split()


GRPO_ROWS = "".join(json.dumps({"prompt": f"{n}?", "answer": str(n)}) + "\n" for n in range(80))
OTHER_ROWS = "".join(
    json.dumps({"prompt": f"{n}?", "answer": str(n)}) + "\n" for n in range(99, 140)
)


@pytest.fixture
def traps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scores) -> Path:
    """A working directory whose functions leave a trace when they are so much as imported."""
    (tmp_path / "train.jsonl").write_text(GRPO_ROWS)
    (tmp_path / "eval.jsonl").write_text(OTHER_ROWS)
    (tmp_path / "trap_of_rewards.py").write_text(
        "import pathlib\npathlib.Path('imported').touch()\n"
        "def reward(completions, **columns):\n    return [0.0] * len(completions)\n"
    )
    (tmp_path / scores.model.name).mkdir()
    (tmp_path / scores.model.name / "config.json").write_text(json.dumps(scores.model.config))
    monkeypatch.chdir(tmp_path)
    return tmp_path


GRPO = {
    "task": "grpo", "train": "train.jsonl", "eval": "eval.jsonl", "arms": ("mlp",), "seeds": 2,
    "training": {"rewards": ["trap_of_rewards:reward"], "generations": 2, "batch_size": 2},
}  # fmt: skip


@pytest.mark.parametrize("metric", [None, "trap_of_rewards:reward"])
def test_a_plan_imports_no_function_of_the_user(scores, traps: Path, metric) -> None:
    """A plan is read before anything is trusted with a machine."""
    wanted = VerifyRecipe.model_validate({**GRPO, "evaluation": {"metric": metric}})
    before = {path.name for path in traps.iterdir()}
    step.plan(scores, wanted, folder=traps / "run")
    given = {
        key: value
        for key, value in wanted.model_dump().items()
        if key in {*TuneRecipe.model_fields}
    }
    plan_of_tune(scores, TuneRecipe.model_validate(given), folder=traps / "tune")
    assert {path.name for path in traps.iterdir()} == before


@pytest.mark.slow
def test_a_plan_of_sft_neither(scores, traps: Path) -> None:
    """Rewards in a recipe of another task were imported and called as well."""
    rows = {"prompt": "prompt", "answer": "completion"}
    for name in ("train.jsonl", "eval.jsonl"):
        text = (traps / name).read_text()
        (traps / name).write_text(text.replace('"answer"', f'"{rows["answer"]}"'))
    wanted = VerifyRecipe.model_validate({**GRPO, "task": "sft"})
    step.plan(scores, wanted, folder=traps / "run")
    plop.verify(scores, wanted, folder=traps / "run", run=PlantedTrials(level_loss))
    assert not (traps / "imported").exists()


def level_loss(spec: TrialSpec, root: Path) -> TrialResult:
    """The outcome of every trial: only that it comes is of interest."""
    return trial_result(spec, 1.0, items={"loss": (1.0,) * evaluation_rows(spec, root)})


def test_rewards_are_tried_on_evaluation_rows(scores, traps: Path) -> None:
    """A column that only the training rows have failed every trial in its evaluation."""
    text = (traps / "eval.jsonl").read_text()
    (traps / "eval.jsonl").write_text(text.replace('"answer"', '"reply"'))
    training = {**GRPO["training"], "rewards": ["number"]}
    with pytest.raises(DataError, match="finds no number in the reference"):
        plop.verify(
            scores,
            VerifyRecipe.model_validate({**GRPO, "training": training}),
            folder=traps / "run",
            run=planted_accuracy({}),
        )


# --------------------------------------------------------------------------- columns and folders


def test_columns_that_do_not_match_are_refused(scores, recipe, tmp_path: Path) -> None:
    """Trained on one kind of row, judged on another: every arm was bad alike."""
    rows = ({"premise": f"a {n}", "hypothesis": "b", "label": n % 2} for n in range(60))
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"read by text, label, and .* by premise, hypothesis"):
        verify(
            scores,
            recipe.model_copy(update={"eval": str(path)}),
            tmp_path,
            planted_accuracy(BETTER),
        )


@pytest.mark.parametrize("there", ["recipe.yaml", "scores.json", "thesis.tex"])
def test_a_foreign_folder_is_refused_before_any_work(scores, recipe, tmp_path, there: str) -> None:
    """A project's own recipe.yaml was written over with a resolved one."""
    (tmp_path / there).write_text("task: mine")
    wanted = {key: getattr(recipe, key) for key in ("task", "train", "eval")}
    for run in (
        lambda: plop.verify(scores, recipe, folder=tmp_path, run=planted_accuracy(BETTER)),
        lambda: step.plan(scores, recipe, folder=tmp_path),
        lambda: tune(scores, TuneRecipe.model_validate(wanted), folder=tmp_path),
    ):
        with pytest.raises(UsageError, match="something else than a run"):
            run()
    assert {path.name for path in tmp_path.iterdir()} == {there}
    assert (tmp_path / there).read_text() == "task: mine"


def test_a_project_with_files_of_the_same_names_is_refused(scores, recipe, tmp_path: Path) -> None:
    scores.save(tmp_path / "scores.json")
    (tmp_path / "recipe.yaml").write_text((Path.cwd() / "recipe.yaml").read_text())
    (tmp_path / "data").mkdir()
    with pytest.raises(UsageError, match="something else than a run"):
        plop.verify(scores, recipe, folder=tmp_path, run=planted_accuracy(BETTER))


@pytest.mark.slow
def test_a_folder_of_the_other_verb_is_refused(scores, recipe, tmp_path: Path) -> None:
    verify(scores, recipe, tmp_path, planted_accuracy(BETTER))
    wanted = {key: getattr(recipe, key) for key in ("task", "train", "eval")}
    with pytest.raises(UsageError, match="belongs to a run of plop verify"):
        tune(scores, TuneRecipe.model_validate(wanted), folder=tmp_path / "run")


@pytest.mark.slow
def test_a_run_of_an_older_release_goes_on(scores, recipe, tmp_path: Path) -> None:
    planted = planted_accuracy(BETTER)
    verify(scores, recipe, tmp_path, planted)
    (tmp_path / "run" / "run.json").unlink()
    (tmp_path / "run" / "trials").mkdir(exist_ok=True)
    count = len(planted.ran)
    verify(scores, recipe, tmp_path, planted)
    assert len(planted.ran) == count


def test_logging_of_transformers_is_put_back(scores, recipe, tmp_path, monkeypatch) -> None:
    """After `verify` a notebook saw no warning and no progress bar of transformers any more."""
    from plop_lora.training import base
    from plop_lora.verification import signals

    log = transformers.utils.logging

    def load(*given: object, **others: object) -> None:
        assert log.get_verbosity() == logging.ERROR
        assert not log.is_progress_bar_enabled()
        raise KeyboardInterrupt

    monkeypatch.setattr(base, "load_base", load)
    before = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_info()
    log.enable_progress_bar()
    try:
        study = Study.open(scores, recipe, tmp_path / "run")
        with pytest.raises(KeyboardInterrupt):
            signals.measure_signals(study, ["gradient"])
        assert (log.get_verbosity(), log.is_progress_bar_enabled()) == (logging.INFO, True)
    finally:
        log.set_verbosity(before[0])
        (log.enable_progress_bar if before[1] else log.disable_progress_bar)()


@pytest.mark.parametrize(
    ("recipe_class", "values"),
    [
        (VerifyRecipe, {"seeds": 999_999_999}),
        (VerifyRecipe, {"seed": 2**40}),
        (VerifyRecipe, {"ladder": [float(n) for n in range(1, 200)]}),
        (TuneRecipe, {"seeds": 999_999_999}),
        (TuneRecipe, {"trials": 999_999_999}),
        (TuneRecipe, {"runner": {"workers": 999_999_999}}),
    ],
)
def test_numbers_beyond_all_sense_are_refused(recipe_class, values) -> None:
    """A slip of the hand filled the memory with a billion specs."""
    given = {"task": "sft", "train": "a", "eval": "b", **values}
    with pytest.raises(UsageError):
        recipe_class.parse(given, "recipe")


@pytest.mark.slow
def test_the_untrained_is_judged_on_the_rows_of_what_it_is_compared_with(
    scores, recipe, tmp_path: Path
) -> None:
    planted = planted_accuracy(BETTER)
    verify(scores, recipe, tmp_path, planted)
    untrained = [spec for spec in planted.ran if spec.arm == "untrained model"]
    others = [planted.of_phase(phase)[0] for phase in (LADDER, CONFIRM)]
    assert [spec.data.evaluation_sha256 for spec in untrained] == [
        spec.data.evaluation_sha256 for spec in others
    ]
