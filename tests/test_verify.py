"""The step `verify`, with trials whose outcomes are planted: what it runs, and what it says."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import PlantedTrials, planted_accuracy

import plop_lora as plop
from plop_lora.errors import (
    DataError,
    MeasurementError,
    MissingExtraError,
    ModelError,
    OutputError,
    RecordError,
    UsageError,
)
from plop_lora.indicators.signal import Signal
from plop_lora.recipe import VerifyRecipe
from plop_lora.records import TrialResult, TrialSpec, Verification
from plop_lora.records.trial import CONFIRM, LADDER, UNTRAINED, LearningCurve
from plop_lora.reports.terminal import as_html, as_text
from plop_lora.study.estimate import CHARACTERS_A_TOKEN, Work, arithmetic, estimate
from plop_lora.study.folder import VERIFY
from plop_lora.study.study import Study
from plop_lora.training.tasks import task_named
from plop_lora.verification import run as step
from plop_lora.verification.signals import measure_signals

ROWS, REPORT_ROWS = 200, 400
ARMS = ("plop", "attention", "mlp", "all-linear")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, scores) -> Path:
    """Scores, labelled rows and a recipe, as a user has them."""
    here = tmp_path_factory.mktemp("verify")
    scores.save(here / "scores.json")
    (here / scores.model.name).mkdir()
    (here / scores.model.name / "config.json").write_text(json.dumps(scores.model.config))
    for name, start, count in (("train", 0, ROWS), ("eval", 9000, REPORT_ROWS)):
        rows = ({"text": f"text {n}", "label": n % 2} for n in range(start, start + count))
        (here / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (here / "recipe.yaml").write_text(
        "task: classify\ntrain: train.jsonl\neval: eval.jsonl\nseeds: 3\nfull_rate: 2e-5\n"
        "design: fixed\ndecide_by: metric\n"
        f"arms: [{', '.join(ARMS)}]\ntraining: {{device: cpu}}\n"
    )
    return here


@pytest.fixture
def recipe(folder: Path, monkeypatch: pytest.MonkeyPatch) -> VerifyRecipe:
    monkeypatch.chdir(folder)
    return VerifyRecipe.read("recipe.yaml")


def verify(scores, recipe, tmp_path: Path, planted: PlantedTrials) -> Verification:
    return plop.verify(scores, recipe, folder=tmp_path / "run", run=planted)


BETTER = {"plop": 0.8, "attention": 0.6, "mlp": 0.6, "all-linear": 0.6}


# --------------------------------------------------------------------------- what it runs


def test_arms_share_rows_seeds_rates_and_budget(scores, recipe, tmp_path: Path) -> None:
    """An arm with other rows, more parameters or more rates is no rival but another experiment."""
    planted = planted_accuracy(BETTER)
    record = verify(scores, recipe, tmp_path, planted)
    ladder = [spec for spec in planted.ran if spec.phase == LADDER]
    confirm = [spec for spec in planted.ran if spec.phase == CONFIRM]
    assert len(ladder) == len(ARMS) * 3
    assert len(confirm) == len(ARMS) * 3
    before, after = (spec for spec in planted.ran if spec.phase == UNTRAINED)
    assert planted.ran == [before, *ladder, after, *confirm]
    assert before.data.evaluation == ladder[0].data.evaluation
    assert after.data.evaluation == confirm[0].data.evaluation
    for phase, rows in ((ladder, 45), (confirm, None)):
        assert len({spec.data for spec in phase}) == 1
        assert phase[0].data.rows == rows
    assert ladder[0].data.evaluation.endswith("data/select.jsonl")
    assert confirm[0].data.evaluation.endswith("data/report.jsonl")
    for name in ARMS:
        assert [s.learning_rate for s in ladder if s.arm == name] == [9e-5, 3e-4, 9e-4]
        assert {s.seed for s in ladder if s.arm == name} == {0}
        assert [s.seed for s in confirm if s.arm == name] == [0, 1, 2]
    shortlist = plop.place(scores).trainable_parameters
    assert record.budget == shortlist
    assert all(abs(arm.mismatch) < 0.1 for arm in record.arms)
    assert (ladder[0].labels, ladder[0].evaluation.metric) == (("0", "1"), "accuracy")


def test_the_curves_of_the_deciding_trials_are_kept(scores, recipe, tmp_path: Path) -> None:
    """Those of the ladder are at other rates and of fewer rows."""

    def drawn(spec: TrialSpec, result: TrialResult) -> TrialResult:
        points = ((1, 2.0), (2, float(spec.seed)))
        curve = LearningCurve(quantity="loss", points=points)
        return dataclasses.replace(result, curve=curve if spec.phase == CONFIRM else None)

    record = verify(scores, recipe, tmp_path, planted_accuracy(BETTER, change=drawn))
    for arm in record.arms:
        assert [curve.points[1][1] for curve in arm.curves] == list(record.seeds[: len(arm.values)])
    assert Verification.from_dict(json.loads(record.to_json())) == record


def test_every_arm_reports_at_its_own_rate(scores, recipe, tmp_path: Path) -> None:
    planted = planted_accuracy(BETTER, best={"mlp": 9e-4, "attention": 9e-5})
    record = verify(scores, recipe, tmp_path, planted)
    rates = {arm.arm: arm.learning_rate for arm in record.arms}
    assert rates == {"plop": 3e-4, "attention": 9e-5, "mlp": 9e-4, "all-linear": 3e-4}
    confirm = {(s.arm, s.learning_rate) for s in planted.ran if s.phase == CONFIRM}
    assert confirm == set(rates.items())
    ladder = {(s.arm, s.learning_rate) for s in planted.ran if s.phase == LADDER}
    wider = (2.7e-5, 9e-5, 3e-4, 9e-4, 2.7e-3)
    assert ladder == {(arm, rate) for arm in ARMS for rate in wider}, "the same rungs for all"
    assert "the ladder was widened to 2.7e-05, 0.0027 for all arms" in " ".join(record.notes)
    assert "is the largest tried" not in " ".join(record.notes)


@pytest.mark.slow
def test_a_ladder_is_widened_so_far_and_no_farther(scores, recipe, tmp_path: Path) -> None:
    planted = planted_accuracy(BETTER, best={"mlp": 1.0, "attention": 1e-9})
    record = verify(scores, recipe, tmp_path, planted)
    notes = " ".join(record.notes)
    assert "the best rate of mlp, 0.0081, is the largest tried" in notes
    assert "the best rate of attention, 8.1e-06, is the smallest tried" in notes
    assert "best rate of plop" not in notes
    plan = step.plan(scores, recipe, folder=tmp_path / "other")
    assert len(planted.of_phase(LADDER)) == len(ARMS) * 7 <= plan.ladder_trials_at_most
    named = recipe.model_copy(update={"learning_rates": (9e-5, 3e-4, 9e-4)})
    fixed = planted_accuracy(BETTER, best={"mlp": 1.0})
    record = verify(scores, named, tmp_path / "named", fixed)
    assert len(fixed.of_phase(LADDER)) == len(ARMS) * 3, "rates that are named are those that run"
    assert "the best rate of mlp, 0.0009, is the largest tried" in " ".join(record.notes)
    assert step.plan(scores, named, folder=tmp_path / "n").widen == 0
    widened = named.model_copy(update={"widen": 1})
    wider = planted_accuracy(BETTER, best={"mlp": 1.0})
    verify(scores, widened, tmp_path / "widened", wider)
    assert len(wider.of_phase(LADDER)) == len(ARMS) * 4, "unless a number is named as well"


@pytest.mark.slow
def test_equal_shares_are_told_apart_by_the_loss(scores, recipe, tmp_path: Path) -> None:
    """On few rows two rates often have as many right answers; the smaller is then seldom better."""

    def level(spec: TrialSpec, found: TrialResult) -> TrialResult:
        if spec.phase != LADDER:
            return found
        loss = abs(math.log(spec.learning_rate / 9e-4))
        return dataclasses.replace(found, metrics={"accuracy": 0.5, "loss": loss}, items={})

    record = verify(scores, recipe, tmp_path, planted_accuracy(BETTER, change=level))
    assert {arm.learning_rate for arm in record.arms} == {9e-4}


def test_a_missing_trainer_is_told_before_any_trial(scores, recipe, tmp_path, monkeypatch) -> None:
    """Nine trials that each say the same, and count as finished, help nobody."""
    monkeypatch.setitem(sys.modules, "trl", None)
    planted = planted_accuracy(BETTER)
    with pytest.raises(MissingExtraError, match=r"plop-lora\[train\]"):
        verify(scores, recipe.model_copy(update={"task": "sft"}), tmp_path, planted)
    assert not planted.ran
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_one_rate_needs_no_ladder(scores, recipe, tmp_path: Path) -> None:
    planted = planted_accuracy(BETTER)
    record = verify(scores, recipe.model_copy(update={"ladder": (1.0,)}), tmp_path, planted)
    assert {spec.phase for spec in planted.ran} == {CONFIRM, UNTRAINED}
    assert record.ladder == ()
    assert any("one learning rate" in note for note in record.notes)


@pytest.mark.slow
def test_steps_of_the_ladder_are_its_share(scores, recipe, tmp_path: Path) -> None:
    """Where steps are given, rows alone would not shorten the ladder."""
    training = dataclasses.replace(recipe.training, steps=40)
    planted = planted_accuracy(BETTER)
    verify(scores, recipe.model_copy(update={"training": training}), tmp_path, planted)
    steps = {(s.phase, s.training.steps) for s in planted.ran}
    assert steps == {(LADDER, 10), (CONFIRM, 40), (UNTRAINED, 1)}


def test_the_strongest_rival_is_never_left_out(scores, recipe, tmp_path: Path) -> None:
    planted = planted_accuracy(BETTER)
    record = verify(scores, recipe.model_copy(update={"arms": ("mlp",)}), tmp_path, planted)
    assert {arm.arm for arm in record.arms} == {"plop", "mlp", "all-linear"}
    assert any("all-linear: always among the arms" in note for note in record.notes)


@pytest.mark.slow
def test_random_draws_for_each_seed(scores, recipe, tmp_path: Path) -> None:
    planted = planted_accuracy(BETTER)
    verify(scores, recipe.model_copy(update={"arms": ("random",), "seeds": 6}), tmp_path, planted)
    drawn = [
        tuple(choice.type for choice in spec.placement.choices)
        for spec in planted.ran
        if spec.arm == "random" and spec.phase == CONFIRM
    ]
    assert len(drawn) == 6
    assert len(set(drawn)) > 1


# --------------------------------------------------------------------------- what it says


VERDICTS = [
    ("confirmed", 0, BETTER, None),
    ("beaten", 3, {**BETTER, "mlp": 0.95}, "mlp"),
    ("cannot separate", 4, {**dict.fromkeys(ARMS, 0.7), "mlp": 0.709}, None),
]


@pytest.mark.slow
@pytest.mark.parametrize(("verdict", "code", "accuracy", "better"), VERDICTS)
def test_verdicts(scores, recipe, tmp_path: Path, verdict, code, accuracy, better) -> None:
    record = verify(scores, recipe, tmp_path, planted_accuracy(accuracy))
    assert (record.verdict, record.exit_code, record.better) == (verdict, code, better)
    means = [arm.mean for arm in record.arms]
    assert means == sorted(means, reverse=True)
    assert record.placement.strategy == "plop"
    assert (record.better_placement is None) == (better is None)
    assert Verification.load(tmp_path / "run" / "verification.json") == record
    text = as_text(record, 160)
    assert verdict.upper() in text
    assert all(name in text and name in as_html(record) for name in ARMS)
    assert (f"BEATEN: {better} is better" in text) == (better is not None)
    assert ("More: " in text) == (record.more is not None)


def test_a_failed_arm_is_told_and_leaves_the_verdict_open(scores, recipe, tmp_path: Path) -> None:
    planted = planted_accuracy(BETTER, causes={"attention": "out of memory at batch 1"})
    record = verify(scores, recipe, tmp_path, planted)
    assert record.verdict == "cannot separate"
    assert "no result of attention" in record.more
    failed = record.arms[-1]
    assert (failed.arm, failed.mean, failed.verdict) == ("attention", None, "failed")
    assert failed.values == ()
    assert failed.causes == ("out of memory at batch 1",)
    assert not any(s.phase == CONFIRM for s in planted.ran if s.arm == "attention")
    assert "Failed: attention: out of memory at batch 1." in as_text(record, 160)
    assert [s.cause for s in record.ladder if s.arm == "attention"] == [failed.causes[0]] * 3


@pytest.mark.slow
def test_a_failed_rate_is_passed_over(scores, recipe, tmp_path: Path) -> None:
    """A rate that ends in NaN must not end the arm, nor win it."""

    def one_fails(spec: TrialSpec, found: TrialResult) -> TrialResult:
        if spec.arm == "plop" and spec.learning_rate == 3e-4:
            return dataclasses.replace(found, metrics={"accuracy": math.nan})
        return found

    record = verify(scores, recipe, tmp_path, planted_accuracy(BETTER, change=one_fails))
    step = next(s for s in record.ladder if s.arm == "plop" and s.value is None)
    assert (step.learning_rate, step.cause) == (3e-4, "it ended without a finite accuracy")
    assert next(a for a in record.arms if a.arm == "plop").learning_rate == 9e-5


@pytest.mark.slow
def test_without_a_shortlist_there_is_no_verdict(scores, recipe, tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match=r"shortlist \(plop\) failed .*: no such layer\."):
        verify(
            scores, recipe, tmp_path, planted_accuracy(BETTER, causes={"plop": "no such layer."})
        )
    every = dict.fromkeys(ARMS[1:], "killed")
    with pytest.raises(MeasurementError, match="Every rival failed in all of its trials"):
        verify(scores, recipe, tmp_path / "rivals", planted_accuracy(BETTER, causes=every))


@pytest.mark.slow
def test_quick_is_marked_everywhere(scores, recipe, tmp_path: Path) -> None:
    """Two seeds must not be quoted as proof."""
    quick = recipe.model_copy(update={"quick": True})
    plan = step.plan(scores, quick, folder=tmp_path / "run")
    record = verify(scores, quick, tmp_path, planted_accuracy(BETTER))
    assert plan.quick
    assert record.quick
    assert record.seeds == plan.seeds == (0, 1)
    assert "SMOKE TEST" in as_text(plan, 120)
    assert "SMOKE TEST" in as_text(record, 120)


@pytest.mark.slow
@pytest.mark.parametrize("width", [80, 120])
def test_tables_fit(scores, recipe, tmp_path: Path, width: int) -> None:
    record = verify(scores, recipe, tmp_path, planted_accuracy(BETTER))
    for shown in (record, step.plan(scores, recipe, folder=tmp_path / "other")):
        assert max(map(len, as_text(shown, width).splitlines())) <= width


# --------------------------------------------------------------------------- going on


@pytest.mark.slow
@pytest.mark.parametrize("trials", [0, 5, 12, 17])
def test_a_stopped_run_goes_on(scores, recipe, tmp_path: Path, trials: int) -> None:
    planted = planted_accuracy(BETTER, die_after=trials)
    with pytest.raises(KeyboardInterrupt):
        verify(scores, recipe, tmp_path, planted)
    planted.die_after = None
    record = verify(scores, recipe, tmp_path, planted)
    assert len(planted.ran) == 26
    assert len({spec.digest() for spec in planted.ran}) == 26
    whole = verify(scores, recipe, tmp_path / "whole", planted_accuracy(BETTER))
    assert record.to_dict() == whole.to_dict()


@pytest.mark.slow
def test_more_seeds_and_arms_go_on(scores, recipe, tmp_path: Path) -> None:
    planted = planted_accuracy(BETTER)
    verify(scores, recipe, tmp_path, planted)
    more = recipe.model_copy(update={"seeds": 5, "arms": (*ARMS, "plop-inverse"), "margin": 0.02})
    verify(scores, more, tmp_path, planted)
    assert len(planted.ran) == 26 + 4 * 2 + (3 + 5)


@pytest.mark.slow
def test_signals_are_measured_once(scores, recipe, tmp_path: Path) -> None:
    """A second measurement could move a placement and with it repeat finished trials."""
    asked = []

    def measure(study, names):
        asked.append(tuple(names))
        values = {host.name: float(len(host.name)) for host in study.scores.hosts}
        return {name: Signal(name, values, False, 2.0, 100) for name in names}

    recipe = recipe.model_copy(update={"arms": ("plop", "gradient", "attention")})
    plan = step.plan(scores, recipe, folder=tmp_path / "run")
    assert not asked
    assert [arm.note for arm in plan.arms if not arm.types] == [
        "its types are measured when it runs"
    ]
    assert plan.ladder_trials + plan.confirm_trials == 24
    study = Study.open(scores, recipe, tmp_path / "run")
    study.claim(VERIFY)
    first, second = (measure_signals(study, recipe.arms, measure=measure) for _ in range(2))
    assert first == second
    planted = planted_accuracy(BETTER | {"gradient": 0.6}, die_after=9)
    with pytest.raises(KeyboardInterrupt):
        verify(scores, recipe, tmp_path, planted)
    planted.die_after = None
    record = verify(scores, recipe, tmp_path, planted)
    assert asked == [("gradient",)]
    assert len(planted.ran) == 26
    (selectors,) = (line for line in record.cost.lines if line.what == "selectors")
    assert (selectors.trials, selectors.wall_seconds, selectors.peak_memory) == (1, 2.0, 100)
    (tmp_path / "run" / "signals.json").write_text('{"gradient": {"name": 1}}')
    with pytest.raises(RecordError, match=r"signals.json is damaged"):
        verify(scores, recipe, tmp_path, planted)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("update", "message"),
    [({"rank": 8}, "its rank is 16, now 8"), ({"seed": 3}, "its seed is 0, now 3")],
)
def test_a_folder_keeps_to_its_recipe(scores, recipe, tmp_path, update, message) -> None:
    verify(scores, recipe, tmp_path, planted_accuracy(BETTER))
    planted = planted_accuracy(BETTER)
    with pytest.raises(UsageError, match=message):
        verify(scores, recipe.model_copy(update=update), tmp_path, planted)
    assert not planted.ran


@pytest.mark.slow
def test_other_scores_and_foreign_folders(scores, recipe, tmp_path: Path) -> None:
    verify(scores, recipe, tmp_path, planted_accuracy(BETTER))
    other = dataclasses.replace(scores, notes=("another",))
    with pytest.raises(UsageError, match="belongs to other scores"):
        verify(other, recipe, tmp_path, planted_accuracy(BETTER))
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(UsageError, match="something else than a run"):
        plop.verify(scores, recipe, folder=tmp_path, run=planted_accuracy(BETTER))
    with pytest.raises(UsageError, match="is a file"):
        plop.verify(scores, recipe, folder=tmp_path / "photo.jpg", run=planted_accuracy(BETTER))


# --------------------------------------------------------------------------- checks


def _fault(update: dict[str, object]) -> Callable[[VerifyRecipe], VerifyRecipe]:
    return lambda recipe: recipe.model_copy(update=update)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (_fault({"arms": ("mpl",)}), UsageError, "arm"),
        (_fault({"budget": "3"}), UsageError, "3 parameters"),
        (_fault({"label": "klass"}), DataError, "no field 'klass'"),
        (_fault({"eval": "train.jsonl"}), DataError, "would measure memory"),
        (_fault({"task": "grpo", "text": "text"}), UsageError, "needs rewards"),
    ],
    ids=["arm", "budget", "field", "overlap", "rewards"],
)
def test_faults_are_found_before_training(scores, recipe, tmp_path, change, error, message) -> None:
    planted = planted_accuracy(BETTER)
    with pytest.raises(error, match=message):
        verify(scores, change(recipe), tmp_path, planted)
    assert not planted.ran
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_other_data_leave_the_folder_as_it_was(scores, recipe, tmp_path: Path) -> None:
    verify(scores, recipe, tmp_path, planted_accuracy(BETTER))
    before = (tmp_path / "run" / "recipe.yaml").read_text()
    rows = ({"text": f"more {n}", "label": n % 2} for n in range(60))
    (tmp_path / "other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    planted = planted_accuracy(BETTER)
    with pytest.raises(UsageError, match="belongs to other data"):
        verify(
            scores,
            recipe.model_copy(update={"train": str(tmp_path / "other.jsonl"), "seeds": 4}),
            tmp_path,
            planted,
        )
    assert not planted.ran
    assert (tmp_path / "run" / "recipe.yaml").read_text() == before


def test_a_metric_that_is_none(scores, recipe, tmp_path: Path) -> None:
    evaluation = dataclasses.replace(recipe.evaluation, metric="acuracy")
    with pytest.raises(UsageError, match="acuracy"):
        verify(
            scores,
            recipe.model_copy(update={"evaluation": evaluation}),
            tmp_path,
            planted_accuracy({}),
        )


def test_the_task_fits_the_model(scores, recipe, tmp_path: Path) -> None:
    encoder = dataclasses.replace(scores.model, architecture="BertModel", task_type=None)
    with pytest.raises(ModelError, match="not a causal language model"):
        verify(
            dataclasses.replace(scores, model=encoder),
            recipe.model_copy(update={"task": "sft"}), tmp_path, planted_accuracy({}),
        )  # fmt: skip
    tower = dataclasses.replace(scores.model, config={"hidden_size": 32})
    with pytest.raises(ModelError, match="reads no text"):
        verify(dataclasses.replace(scores, model=tower), recipe, tmp_path, planted_accuracy({}))


def test_a_small_disk_is_refused(scores, recipe, tmp_path: Path, monkeypatch) -> None:
    """A disk that fills up in the last trial costs the whole night."""
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("plop_lora.study.folder.shutil.disk_usage", lambda path: usage)
    planted = planted_accuracy(BETTER)
    with pytest.raises(OutputError, match=r"36 adapters of .* need"):
        verify(scores, recipe, tmp_path, planted)
    assert not planted.ran


# --------------------------------------------------------------------------- the plan


@pytest.mark.slow
def test_the_plan_counts_what_runs(scores, recipe, tmp_path: Path) -> None:
    priced = VerifyRecipe.read("recipe.yaml", {"price": {"hourly": 2.0}})
    plan = step.plan(scores, priced, folder=tmp_path / "run")
    planted = planted_accuracy(BETTER)
    record = verify(scores, recipe, tmp_path, planted)
    assert plan.ladder_trials + plan.confirm_trials + plan.untrained_trials == len(planted.ran)
    assert plan.learning_rates == (9e-5, 3e-4, 9e-4)
    assert (plan.train_rows, plan.selection_rows, plan.report_rows) == (180, 20, 400)
    assert (plan.train_rows, plan.report_rows) == (record.train_rows, record.report_rows)
    assert {arm.arm: arm.parameters for arm in plan.arms} == {
        arm.arm: arm.parameters for arm in record.arms
    }
    assert plan.money == pytest.approx(plan.seconds / 3600 * 2.0)
    assert 0 < plan.detectable < 1
    text = as_text(plan, 120)
    assert "26 trials" in text
    assert "Power of the verdict, all rivals and looks counted" in " ".join(text.split())


def test_finished_trials_say_what_others_take(scores, recipe, tmp_path) -> None:
    planted = planted_accuracy(BETTER, die_after=12)
    with pytest.raises(KeyboardInterrupt):
        verify(scores, recipe, tmp_path, planted)
    plan = step.plan(scores, recipe, folder=tmp_path / "run")
    assert any("from 12 finished trials" in note for note in plan.notes)
    assert 24 * 2.0 < plan.seconds < 24 * 20.0


@pytest.mark.slow
def test_arithmetic_grows_with_the_work(scores, recipe, tmp_path: Path) -> None:
    planted = planted_accuracy(BETTER)
    verify(scores, recipe, tmp_path, planted)
    spec = planted.of_phase(LADDER)[0]
    size = Work(100, 50, 20.0, 1000, task_named(spec.task))
    trained = 4 + 2 * spec.placement.trainable_parameters / 1000
    assert arithmetic(spec, size) == pytest.approx(1000 * (100 * 20 * trained + 50 * 20 * 2))
    steps = dataclasses.replace(spec, training=dataclasses.replace(spec.training, steps=10))
    assert arithmetic(steps, size) == pytest.approx(1000 * (80 * 20 * trained + 50 * 20 * 2))
    guess = estimate([(spec, size)])
    assert guess.seconds > 15
    assert "GFLOP/s" in guess.source
    assert CHARACTERS_A_TOKEN > 1


# --------------------------------------------------------------------------- the command line


@pytest.fixture
def plop_verify(monkeypatch, run, folder: Path, tmp_path: Path):
    """`plop verify` in this process with planted trials: exit code, stdout, stderr."""

    def call(planted: PlantedTrials, *words: str) -> tuple[int, str, str]:
        monkeypatch.chdir(folder)
        context = functools.partial(contextlib.nullcontext, planted)
        monkeypatch.setattr("plop_lora.training.runners.run.warm_trials", context)
        return run("verify", "scores.json", "--folder", str(tmp_path / "run"), *words)

    return call


@pytest.mark.slow
@pytest.mark.parametrize(("verdict", "code", "accuracy", "better"), VERDICTS)
def test_exit_codes(plop_verify, tmp_path: Path, verdict, code, accuracy, better) -> None:
    words = ("--recipe", "recipe.yaml", "-o", str(tmp_path / "v.json"))
    found, output, errors = plop_verify(planted_accuracy(accuracy), *words)
    assert found == code, errors
    assert verdict.upper() in output
    assert f"Folder of the run: {tmp_path / 'run'}" in errors
    assert Verification.load(tmp_path / "v.json").verdict == verdict


@pytest.mark.slow
def test_options_alone_and_before_the_recipe(plop_verify, tmp_path: Path) -> None:
    words = ("--task", "classify", "--train", "train.jsonl", "--eval", "eval.jsonl")
    words += (
        "--arms",
        "mlp, all-linear",
        "--seeds",
        "2",
        "--format",
        "json",
        "--price",
        "3",
        "--set",
        "full_rate=2e-5",
    )
    code, output, errors = plop_verify(planted_accuracy(BETTER), *words)
    assert code == 0, errors
    record = json.loads(output)
    assert {arm["arm"] for arm in record["arms"]} == {"plop", "mlp", "all-linear"}
    assert record["cost"]["price"] == 3
    words = ("--recipe", "recipe.yaml", "--seeds", "4", "--format", "json")
    code, output, errors = plop_verify(planted_accuracy(BETTER), *words)
    assert (code, output) == (2, "")
    assert "its training.device is 'auto', now 'cpu' is asked" in errors
    words += ("--folder", str(tmp_path / "another"))
    code, output, errors = plop_verify(planted_accuracy(BETTER), *words)
    assert code == 0, errors
    assert json.loads(output)["seeds"] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "--task is needed"),
        (("--recipe", "absent.yaml"), 2, "Cannot read the recipe absent.yaml"),
        (
            ("--recipe", "recipe.yaml", "--task", "sftt"),
            2,
            "There is no task 'sftt'. Did you mean 'sft'? Allowed: sft",
        ),
        (("--recipe", "recipe.yaml", "--eval", "no.jsonl"), 1, "No data at no.jsonl"),
        (
            ("--recipe", "recipe.yaml", "--runner", "slurm"),
            2,
            "--runner: 'slurm' is unknown; allowed: local, ray",
        ),
    ],
)
def test_errors_are_one_line(plop_verify, words, code: int, message: str) -> None:
    planted = planted_accuracy(BETTER)
    found, output, errors = plop_verify(planted, *words)
    assert found == code
    assert message in errors
    assert not output
    assert not planted.ran


def test_ctrl_c_says_how_to_go_on(plop_verify, tmp_path: Path) -> None:
    code, output, errors = plop_verify(
        planted_accuracy(BETTER, die_after=3), "--recipe", "recipe.yaml"
    )
    assert code == 130
    assert not output
    assert f"run the same command with --folder {tmp_path / 'run'}" in errors


@pytest.mark.slow
def test_a_plan_needs_no_torch_and_writes_nothing(folder: Path) -> None:
    """A plan is made before the machine with the accelerator is hired."""
    code = (
        "import sys, os; sys.path.insert(0, os.environ['HERE'])\n"
        "sys.argv[1:] = ['verify', 'scores.json', '--recipe', 'recipe.yaml', '--plan']\n"
        "from plop_lora.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)"
    )
    before = sorted(path.name for path in folder.iterdir())
    environment = os.environ | {"HERE": str(Path(__file__).parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "nothing was run" in done.stdout
    assert sorted(path.name for path in folder.iterdir()) == before
