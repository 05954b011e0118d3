"""The search, on finetunes whose outcome is a known function: no training, the real Optuna."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from builders import PlantedTrials, trial_cost, trial_result, trial_spec
from typer.testing import CliRunner

import plop_lora as plop
from plop_lora.cli import app
from plop_lora.errors import MeasurementError, MissingExtraError, UsageError
from plop_lora.placement import with_rank
from plop_lora.placement.inits import TRIAL_INITS
from plop_lora.recipe import Runner, TuneRecipe, VerifyRecipe
from plop_lora.records import (
    Placement,
    Scores,
    TrainingSettings,
    TrialResult,
    TrialSpec,
    Tuning,
    TuningPlan,
)
from plop_lora.records.trial import CONFIRM, LADDER, SEARCH
from plop_lora.records.tuning import (
    BETTER,
    FAILED,
    IMPROVED,
    INCONCLUSIVE,
    OVER_BUDGET,
    REFERENCE,
    SEARCHED,
    STANDS,
    UNCONFIRMED,
    WORSE,
    Candidate,
    Configuration,
)
from plop_lora.reports.terminal import as_text
from plop_lora.study.study import Study
from plop_lora.tuning import plan, tune
from plop_lora.tuning.confirm import Versus, compared, decide, verdict_of
from plop_lora.tuning.space import USUAL, Space, build_space, ladder_rates

pytestmark = [
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
    pytest.mark.usefixtures("unsynced_sqlite"),
]

SECONDS = 10.0
BUDGET = 14_000
"""Of the 16 pairs of placement and rank some lie above it."""
BEST_RATE = 4e-4
MLP = {"gate_proj", "up_proj", "down_proj"}
TRAIN_ROWS, SELECTED = 200, 22
"""Of the 222 rows that `write_rows` makes."""
RECIPE = TuneRecipe(
    full_rate=2e-4 / 15,
    task="sft", train="train.jsonl", eval="eval.jsonl", trials=20, runner=Runner(workers=1),
    budget=BUDGET,
)  # fmt: skip


def true_loss(placement: Placement, rate: float) -> float:
    """Best with the MLP alone at rank 8 and a rate of 4e-4; the rate matters most."""
    types = {site.type.rsplit(".", 1)[-1] for site in placement.sites}
    rank = max(site.rank for site in placement.sites)
    wrong = len(types ^ MLP) * 0.02
    return 1 + wrong + 0.02 * abs(math.log2(rank / 8)) + 0.3 * math.log10(rate / BEST_RATE) ** 2


class Machine(PlantedTrials):
    """Trials of a search that cost nothing and end with their true loss; `fails` names causes."""

    def __init__(
        self,
        *,
        fails: Callable[[TrialSpec], str | None] = lambda spec: None,
        **planted: object,
    ) -> None:
        super().__init__(self._outcome, **planted)
        self.fails = fails

    def _outcome(self, spec: TrialSpec, root: Path) -> TrialResult:
        cost = trial_cost(SECONDS)
        if (cause := self.fails(spec)) is not None:
            return trial_result(spec, None, cause=cause, cost=cost)
        return trial_result(spec, true_loss(spec.placement, spec.learning_rate), cost=cost)


def write_rows(folder: Path, scores: Scores) -> None:
    """Write rows for sft and what is read of the scored model."""
    for name, start, count in (("train", 0, 222), ("eval", 900, 50)):
        rows = ({"prompt": f"word {n}", "completion": f"{n}"} for n in range(start, start + count))
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / scores.model.name).mkdir()
    (folder / scores.model.name / "config.json").write_text(json.dumps(scores.model.config))


@pytest.fixture(scope="module", autouse=True)
def rows_of_sft(tmp_path_factory, scores) -> Iterator[Path]:
    """A working directory with rows and the folder of the scored model."""
    here = tmp_path_factory.mktemp("rows")
    write_rows(here, scores)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        yield here


def space_of(scores: Scores, recipe: TuneRecipe = RECIPE) -> Space:
    return build_space(Study.open(scores, recipe, Path("no-run")), recipe)


def changed(**values: object) -> TuneRecipe:
    return RECIPE.model_copy(update=values)


@pytest.fixture(scope="module")
def tuned(scores, tmp_path_factory) -> tuple[Tuning, Machine, Path]:
    """One whole search, for the tests that only look at what came out."""
    folder = tmp_path_factory.mktemp("tuned")
    machine = Machine()
    return tune(scores, RECIPE, folder=folder, run=machine), machine, folder


# --------------------------------------------------------------------------- the search finds


def _at_random(space: Space, trials: int, seed: int) -> float:
    """The best true loss of as many draws within the budget."""
    draw = random.Random(seed)
    fits = [pair for pair in sorted(space.table) if space.excess(*pair) <= 0]
    losses = []
    for _ in range(trials):
        rate = math.exp(draw.uniform(math.log(space.low), math.log(space.high)))
        losses.append(true_loss(space.table[draw.choice(fits)], rate))
    return min(losses)


@pytest.mark.slow
def test_it_finds_what_was_planted_and_beats_chance(scores, tmp_path) -> None:
    """Positive control: the best placement and rate are known, chance has as many trials."""
    found, wins, chance = 0, 0, []
    for seed in range(9):
        tuning = tune(scores, changed(seed=seed), folder=tmp_path / str(seed), run=Machine())
        best = true_loss(tuning.placement, tuning.chosen.learning_rate)
        baseline = _at_random(space_of(scores, RECIPE), RECIPE.trials, seed)
        chance.append(baseline)
        wins += best < baseline
        found += tuning.chosen.placement == "mlp" and best < 1.04
    assert found >= 6, found
    assert wins >= 5, (wins, chance)


def test_all_trials_are_accounted_for(tuned) -> None:
    tuning, machine, _ = tuned
    trained = [trial for trial in tuning.history if trial.state != OVER_BUDGET]
    assert len(tuning.ladder) + len(trained) == RECIPE.trials
    assert len(machine.of_phase(LADDER) + machine.of_phase(SEARCH)) <= RECIPE.trials
    assert tuning.cost.total.trials == sum(line.trials for line in tuning.cost.lines)
    assert [line.what for line in tuning.cost.lines] == [
        "learning-rate ladder", "search", "confirmation",
    ]  # fmt: skip


def test_the_ladder_centres_the_rates(tuned, scores) -> None:
    """Its trials see a quarter of the rows; later rates stay within a step of its best."""
    tuning, machine, _ = tuned
    rungs = ladder_rates(space_of(scores, RECIPE), RECIPE.trials)
    assert rungs == (2e-5, 6.32e-5, 2e-4, 6.32e-4, 2e-3)
    assert [step.learning_rate for step in tuning.ladder] == list(rungs)
    assert [spec.data.rows for spec in machine.ran[:5]] == [50] * 5
    assert {spec.data.rows for spec in machine.ran[5:]} == {None}
    best = min(tuning.ladder, key=lambda step: step.value).learning_rate
    assert best == 6.32e-4
    for trial in tuning.history:
        assert 0.99 <= trial.configuration.learning_rate / best * 10**0.5 <= 10.1
    assert tuning.default.learning_rate == best


def test_known_good_points_come_first(tuned) -> None:
    tuning, _, _ = tuned
    assert tuning.history[0].configuration == tuning.default
    assert tuning.history[1].configuration.placement == "all-linear"


def test_the_budget_is_never_exceeded_by_a_trained_trial(tuned) -> None:
    """Suggestions above it stay in the history, with how far above, and are not trained."""
    tuning, machine, _ = tuned
    assert all(spec.placement.trainable_parameters <= BUDGET for spec in machine.ran)
    over = [trial for trial in tuning.history if trial.state == OVER_BUDGET]
    assert over, "this budget is meant to be too small for some choices"
    for trial in over:
        assert trial.parameters > BUDGET
        assert f"{trial.parameters - BUDGET:,} adapter parameters above" in trial.cause
        assert trial.device_seconds is None
    assert f"{len(over)} suggestion" in as_text(tuning, 160)


@pytest.mark.slow
def test_a_model_that_trains_more_than_planned_is_not_taken(scores, tmp_path) -> None:
    """An initialisation that spreads ranks anew must not slip over the budget."""

    def swollen(spec: TrialSpec, found: TrialResult) -> TrialResult:
        more = spec.phase == SEARCH and spec.placement.strategy == "mlp"
        return dataclasses.replace(found, trainable_parameters=10**6) if more else found

    tuning = tune(scores, RECIPE, folder=tmp_path, run=Machine(change=swollen))
    mine = [trial for trial in tuning.history if trial.configuration.placement == "mlp"]
    assert mine
    assert {trial.state for trial in mine} <= {FAILED, OVER_BUDGET}
    assert any("above the budget" in trial.cause for trial in mine if trial.state == FAILED)
    assert tuning.chosen.placement != "mlp"


# --------------------------------------------------------------------------- stops and starts


@pytest.mark.slow
@pytest.mark.parametrize("moment", [2, 5, 9, 14, 22])
def test_a_killed_search_goes_on(scores, tmp_path, moment: int) -> None:
    """In the ladder, the search and the confirmation; batches of three."""
    recipe = changed(runner=Runner(workers=3))
    whole = tune(scores, recipe, folder=tmp_path / "whole", run=Machine())
    broken, again = Machine(die_after=moment), Machine()
    with pytest.raises(KeyboardInterrupt):
        tune(scores, recipe, folder=tmp_path / "cut", run=broken)
    tuning = tune(scores, recipe, folder=tmp_path / "cut", run=again)
    before = {spec.digest() for spec in broken.ran}
    after = [spec.digest() for spec in again.ran]
    assert len(before) == moment
    assert not before & set(after)
    assert len(after) == len(set(after))
    assert tuning.history == whole.history
    assert tuning.chosen == whole.chosen
    assert tuning.cost == whole.cost


@pytest.mark.slow
def test_a_finished_search_trains_nothing_more(tuned, scores, tmp_path) -> None:
    recipe = changed(trials=12)
    first = tune(scores, recipe, folder=tmp_path, run=Machine())
    again = Machine()
    assert tune(scores, recipe, folder=tmp_path, run=again).to_dict() == first.to_dict()
    assert again.ran == []


@pytest.mark.slow
def test_more_trials_continue_the_same_search(scores, tmp_path) -> None:
    first = tune(scores, changed(trials=12), folder=tmp_path, run=Machine())
    more = Machine()
    second = tune(scores, changed(trials=16), folder=tmp_path, run=more)
    assert second.history[: len(first.history)] == first.history
    assert len(more.of_phase(SEARCH)) == 4


@pytest.mark.slow
def test_another_recipe_in_the_folder_is_another_search(scores, tmp_path) -> None:
    """What was measured under other training settings must not guide this one."""
    tune(scores, changed(trials=12), folder=tmp_path, run=Machine())
    longer = RECIPE.training
    other = changed(trials=12, training=dataclasses.replace(longer, epochs=2.0))
    machine = Machine()
    tuning = tune(scores, other, folder=tmp_path, run=machine)
    assert len(machine.of_phase(LADDER) + machine.of_phase(SEARCH)) == 12
    assert {spec.training.epochs for spec in machine.ran} == {2.0}
    assert tuning.history[0].number == 0


def test_two_processes_do_not_share_a_folder(scores, tmp_path) -> None:
    fcntl = pytest.importorskip("fcntl")
    with (tmp_path / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="Another plop tune works in"):
            tune(scores, RECIPE, folder=tmp_path, run=Machine())


@pytest.mark.slow
def test_workers_share_a_database(scores, tmp_path) -> None:
    """Each has its folder; the first that came confirms what both have found."""
    url = f"sqlite:///{tmp_path / 'search.db'}"
    one, two = Machine(die_after=9), Machine()
    recipe = changed(trials=14, storage=url)
    with pytest.raises(KeyboardInterrupt):
        tune(scores, recipe, folder=tmp_path / "one", run=one)
    helper = tune(scores, recipe, folder=tmp_path / "two", run=two)
    assert helper.verdict == UNCONFIRMED
    assert not two.of_phase(CONFIRM)
    assert any("of other workers still running and left out: 1" in note for note in helper.notes)
    assert len(two.of_phase(SEARCH)) == 14 - 9 - 1
    last = Machine()
    leader = tune(scores, recipe, folder=tmp_path / "one", run=last)
    assert len(last.of_phase(SEARCH)) == 1
    assert leader.verdict in (IMPROVED, STANDS)
    searched = [trial for trial in leader.history if trial.state == SEARCHED]
    assert len(searched) + len(leader.ladder) == 14


def test_a_database_that_is_none_says_so_without_its_password(scores, tmp_path) -> None:
    recipe = changed(storage="nosuch://me:secret@host/search")
    with pytest.raises(UsageError, match="storage of the search") as caught:
        tune(scores, recipe, folder=tmp_path, run=Machine())
    assert "secret" not in str(caught.value)


# --------------------------------------------------------------------------- failures and hours


@pytest.mark.slow
def test_failures_stay_in_the_record(scores, tmp_path) -> None:
    def fails(spec: TrialSpec) -> str | None:
        return "out of memory" if spec.placement.strategy == "attention" else None

    tuning = tune(scores, RECIPE, folder=tmp_path, run=Machine(fails=fails))
    failed = [trial for trial in tuning.history if trial.state == FAILED]
    assert failed
    assert {trial.cause for trial in failed} == {"out of memory"}
    assert {trial.configuration.placement for trial in failed} == {"attention"}
    assert all(trial.device_seconds == SECONDS for trial in failed)
    assert f"Failed: out of memory ({len(failed)} trial" in as_text(tuning, 160)
    assert Tuning.from_dict(tuning.to_dict()) == tuning


@pytest.mark.slow
def test_a_value_that_is_no_number_is_a_failure(scores, tmp_path) -> None:
    def endless(spec: TrialSpec, found: TrialResult) -> TrialResult:
        everywhere = spec.placement.strategy == "all-linear"
        return dataclasses.replace(found, metrics={"loss": math.inf}) if everywhere else found

    tuning = tune(scores, RECIPE, folder=tmp_path, run=Machine(change=endless))
    causes = {trial.cause for trial in tuning.history if trial.state == FAILED}
    assert causes == {"it ended without a finite loss"}


def test_a_ladder_of_failures_ends_the_search(scores, tmp_path) -> None:
    machine = Machine(fails=lambda spec: "no such field")
    with pytest.raises(MeasurementError, match=r"learning-rate ladder failed.*no such field"):
        tune(scores, RECIPE, folder=tmp_path, run=machine)
    assert len(machine.ran) == 5


@pytest.mark.slow
def test_nothing_but_failures_ends_the_search(scores, tmp_path) -> None:
    machine = Machine(fails=lambda spec: None if spec.data.rows else "out of memory")
    with pytest.raises(MeasurementError, match="All 3 trials of the search failed"):
        tune(scores, RECIPE, folder=tmp_path, run=machine)
    assert len(machine.ran) == 8


@pytest.mark.slow
def test_hours_leave_room_for_the_confirmation(scores, tmp_path) -> None:
    """25 trials of 10 s: 5 of the ladder, 9 kept for the confirmation, 11 for the search."""
    machine = Machine()
    tuning = tune(scores, changed(hours=251 / 3600), folder=tmp_path, run=machine)
    assert len(machine.ran) <= 25
    assert len(machine.of_phase(LADDER) + machine.of_phase(SEARCH)) == 16
    assert tuning.seeds == (1, 2, 3)
    assert any("4 of 15 trials did not start" in note for note in tuning.notes)


@pytest.mark.slow
def test_hours_without_room_leave_the_find_unconfirmed(scores, tmp_path) -> None:
    machine = Machine()
    tuning = tune(scores, changed(hours=59 / 3600), folder=tmp_path, run=machine)
    assert len(machine.ran) == 6
    assert tuning.verdict == UNCONFIRMED
    assert tuning.exit_code == 4
    assert "not confirmed" in as_text(tuning, 160)
    with pytest.raises(UsageError, match="none of --hours"):
        tune(scores, changed(hours=49 / 3600), folder=tmp_path / "none", run=Machine())


@pytest.mark.slow
def test_hours_leave_out_whole_seeds(scores, tmp_path) -> None:
    tuning = tune(scores, changed(hours=75 / 3600), folder=tmp_path, run=Machine())
    assert tuning.seeds == (1, 2)
    assert all(len(candidate.values) == 2 for candidate in tuning.candidates)
    assert any("1 of 3 seeds of the confirmation left out" in note for note in tuning.notes)


# --------------------------------------------------------------------------- the confirmation


def test_confirmation_has_fresh_seeds_and_the_report_alone(tuned) -> None:
    tuning, machine, _ = tuned
    search, confirmed = machine.of_phase(SEARCH), machine.of_phase(CONFIRM)
    assert {spec.seed for spec in search} == {0}
    assert {spec.data.evaluation for spec in search} == {"../../data/select.jsonl"}
    assert {spec.seed for spec in confirmed} == {1, 2, 3} == set(tuning.seeds)
    assert {spec.data.evaluation for spec in confirmed} == {"../../data/report.jsonl"}
    assert len(confirmed) == 3 * len(tuning.candidates)
    for candidate in tuning.candidates:
        assert [s.seed for s in confirmed if s.arm == candidate.configuration.label] == [1, 2, 3]


def test_finalists_are_the_default_and_the_two_best(tuned) -> None:
    tuning, _, _ = tuned
    done = sorted((t for t in tuning.history if t.value is not None), key=lambda t: t.value)
    first, *others = tuning.candidates
    assert first.configuration == tuning.default
    assert first.verdict == REFERENCE
    assert [c.configuration for c in others] == [t.configuration for t in done[:2]]
    assert [c.selection for c in others] == [t.value for t in done[:2]]
    assert tuning.verdict == IMPROVED
    assert tuning.chosen == min(others, key=lambda c: c.mean).configuration


@pytest.mark.slow
def test_luck_of_the_search_is_found_out(scores, tmp_path) -> None:
    """Where selection is noise alone, its best must not replace a default that is best in truth."""

    def lucky(spec: TrialSpec, found: TrialResult) -> TrialResult:
        draw = random.Random(spec.arm).random()
        default = spec.placement.strategy == "plop"
        loss = (2.0 if default else 1 + draw) if spec.phase != CONFIRM else 1.0 + (not default)
        return dataclasses.replace(found, metrics={"loss": loss})

    tuning = tune(scores, RECIPE, folder=tmp_path, run=Machine(change=lucky))
    assert [candidate.verdict for candidate in tuning.candidates] == [REFERENCE, WORSE, WORSE]
    assert tuning.verdict == STANDS
    assert tuning.chosen == tuning.default
    assert tuning.exit_code == 0


def _candidate(name: str, verdict: str, mean: float | None, difference: float | None) -> Candidate:
    return Candidate(
        configuration=Configuration(name, 8, "default", 1e-4), parameters=1, selection=None,
        mean=mean, values=(mean,), difference=difference, low=None, high=None, p=None,
        verdict=verdict,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rivals", "verdict", "chosen"),
    [
        ([("a", BETTER, 0.8, 0.1), ("b", "not worse", 0.75, 0.05)], IMPROVED, "a"),
        ([("a", "not worse", 0.69, -0.01)], STANDS, "plop"),
        ([("a", WORSE, 0.5, -0.2), ("b", "not worse", 0.71, 0.01)], STANDS, "plop"),
        ([("a", INCONCLUSIVE, 0.8, 0.1), ("b", WORSE, 0.5, -0.2)], INCONCLUSIVE, "plop"),
        ([("a", INCONCLUSIVE, None, None)], INCONCLUSIVE, "plop"),
        ([], STANDS, "plop"),
    ],
)
def test_a_rival_wins_only_if_it_is_better(rivals, verdict: str, chosen: str) -> None:
    every = [_candidate("plop", REFERENCE, 0.7, None), *(_candidate(*rival) for rival in rivals)]
    found, point = decide(every, higher=True)
    assert (found, point.placement) == (verdict, chosen)


@pytest.mark.slow
def test_equal_configurations_are_seldom_called_improved() -> None:
    """The better of two equals by its mean alone was "improved" in half of all searches."""
    rng = np.random.default_rng(3)
    improved, runs = 0, 150
    points = [Configuration(name, 8, "default", 1e-4) for name in ("plop", "a", "b")]
    for _ in range(runs):
        rows_I = rng.normal(1.0, 0.3, 100)
        results = {}
        for point in points:
            items = [rows_I + rng.normal(0, 0.01) + rng.normal(0, 0.1, 100) for _ in range(3)]
            results[point] = [
                trial_result(
                    trial_spec(point.label, seed), float(row.mean()), items={"loss": tuple(row)}
                )
                for seed, row in enumerate(items)
            ]
        found = compared(results, "loss", higher=False)
        rivals = [
            dataclasses.replace(
                _candidate(point.placement, verdict_of(found[point], 0.02), 1.0, 0.0),
                difference=found[point].difference,
            )
            for point in points[1:]
        ]
        verdict, _ = decide([_candidate("plop", REFERENCE, 1.0, None), *rivals], higher=False)
        improved += verdict == IMPROVED
    assert improved / runs <= 0.05


def test_a_default_that_never_ends_is_no_choice() -> None:
    every = [_candidate("plop", REFERENCE, None, None), _candidate("a", INCONCLUSIVE, 0.5, None)]
    found, point = decide(every, higher=True)
    assert (found, point.placement) == (INCONCLUSIVE, "a")


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.001, 0.02, BETTER), (-0.01, 0.02, "not worse"), (-0.011, 0.02, INCONCLUSIVE),
     (-0.02, -0.001, WORSE), (None, None, INCONCLUSIVE)],
)  # fmt: skip
def test_verdicts_follow_the_interval(low, high, verdict: str) -> None:
    assert verdict_of(Versus(0.0, low, high, None), 0.01) == verdict


# --------------------------------------------------------------------------- what is left


def test_the_result_is_read_by_verify_and_export(tuned, tmp_path) -> None:
    tuning, _, folder = tuned
    placement = Placement.load(folder / "placement.json")
    assert placement == tuning.placement
    assert placement.settings.init == tuning.chosen.init
    recipe = VerifyRecipe.read(folder / "recipe.yaml")
    assert recipe.arms == (str(folder / "placement.json"),)
    assert recipe.learning_rates == (tuning.chosen.learning_rate,)
    assert recipe.budget == placement.trainable_parameters
    assert recipe.train == RECIPE.train
    assert VerifyRecipe.parse(tuning.recipe, "the record") == recipe
    path = placement.export(tmp_path / "adapter")
    config = json.loads(path.read_text())
    assert config["r"] == tuning.chosen.rank


def test_record_and_table(tuned, tmp_path) -> None:
    tuning, _, _ = tuned
    assert Tuning.load(tuning.save(tmp_path / "tuning.json")) == tuning
    text = as_text(tuning, 160)
    assert tuning.chosen.label in text
    for candidate in tuning.candidates:
        assert f"{candidate.mean:.4f}" in text
    assert max(map(len, as_text(tuning, 100).splitlines())) <= 100 or "Take" in text


def test_the_plan_runs_nothing(scores, tmp_path) -> None:
    machine = Machine()
    made = plan(scores, RECIPE, folder=tmp_path)
    assert machine.ran == []
    assert [stage.trials for stage in made.stages] == [5, 15, 9]
    assert made.row_passes == 5 * 50 + 15 * 200 + 9 * 200
    assert made.device_seconds is None
    assert "known once a trial has run" in as_text(made, 120)
    tune(scores, RECIPE, folder=tmp_path, run=machine)
    measured = plan(scores, RECIPE, folder=tmp_path)
    assert measured.device_seconds == pytest.approx(SECONDS * (15 + 9 + 0.25 * 5))
    assert TuningPlan.from_dict(measured.to_dict()) == measured


# --------------------------------------------------------------------------- the space


def test_the_default_fits_the_budget(scores) -> None:
    space = space_of(scores, RECIPE)
    assert space.excess("plop", space.default.rank) <= 0
    assert space_of(scores, changed(budget=None)).default.rank == 16
    with pytest.raises(UsageError, match=r"below the shortlist at rank 4.*--budget \d+"):
        space_of(scores, changed(budget=100))


def test_grpo_keeps_to_low_ranks(scores) -> None:
    grpo = {"task": "grpo", "training": TrainingSettings(rewards=("format",)), "full_rate": None}
    recipe = changed(**grpo, ranks=(8, 32, 64, 128), budget="1B")
    space = space_of(scores, recipe)
    assert space.ranks == (8, 32)
    assert space.rate == pytest.approx(2.5e-4), "15 times 1e-6, times (2000 / 32) ** 0.781"
    assert any("64, 128 left out" in note for note in space.notes)
    with pytest.raises(UsageError, match="all above 32"):
        space_of(scores, changed(**grpo, ranks=(64,)))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"task": "stf"}, "no task 'stf'. Did you mean 'sft'"),
        ({"placements": ("atention",)}, "Did you mean 'attention'"),
        ({"placements": ("custom",)}, "neither a strategy nor a file"),
        ({"inits": ("loftq",)}, "cannot carry out 'loftq'"),
        ({"rates": (3.0, 0.1)}, "3 to 0.1 is no range"),
        ({"ranks": (0, 4)}, "ranks of 1 and more"),
        ({"loraplus": (0.0,)}, "LoRA\\+ ratio must be above 0"),
        ({"budget": "ten"}, "Cannot read the budget"),
    ],
)
def test_what_cannot_be_is_refused(scores, values, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        space_of(scores, changed(**values))


def test_files_of_placements_take_every_rank(scores, tmp_path) -> None:
    """The rank is searched; weights, scaling and rslora of the file stay."""
    settings = plop.records.AdapterSettings(rslora=True, dropout=0.1)
    made = plop.place(scores, strategy="custom", types=["o_proj", "up_proj"], rank=5,
                      settings=settings)  # fmt: skip
    path = str(made.save(tmp_path / "mine.json"))
    space = space_of(scores, changed(placements=(path,), budget="1B"))
    assert space.names == ("plop", path)
    placement = space.placement(Configuration(path, 8, "orthogonal", 1e-4, 16.0))
    assert [site.name for site in placement.sites] == [site.name for site in made.sites]
    assert {site.rank for site in placement.sites} == {8}
    assert placement.trainable_parameters == made.trainable_parameters // 5 * 8
    assert placement.trainable_parameters == sum(site.parameters for site in placement.sites)
    assert {site.alpha for site in placement.sites} == {2 * math.sqrt(8)}
    assert placement.settings == dataclasses.replace(
        settings, init="orthogonal", loraplus_ratio=16.0
    )
    assert {choice.highest_rank for choice in placement.choices} == {8}
    assert {site.rank for site in with_rank(made, 1000).sites} == {32}


def test_a_file_of_another_model_is_refused(scores, tmp_path) -> None:
    made = plop.place(scores)
    sites = (dataclasses.replace(made.sites[0], name="model.layers.77.o_proj"), *made.sites[1:])
    path = dataclasses.replace(made, sites=sites).save(tmp_path / "other.json")
    with pytest.raises(UsageError, match=r"adapts model\.layers\.77\.o_proj"):
        space_of(scores, changed(placements=(str(path),)))


# --------------------------------------------------------------------------- start and command


@pytest.mark.slow
def test_import_is_light() -> None:
    code = (
        "import sys, plop_lora.tuning, plop_lora.cli.tune; "
        "assert not {'torch', 'optuna', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_optuna_the_extra_is_named(scores, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"plop-lora\[tune\]"):
        tune(scores, RECIPE, folder=tmp_path, run=Machine())


@pytest.fixture
def command(scores: Scores, tmp_path, monkeypatch) -> Callable[..., tuple[int, str, str]]:
    """`plop tune` in this process, with a machine that costs nothing."""
    machine = Machine()
    context = functools.partial(contextlib.nullcontext, machine)
    monkeypatch.setattr("plop_lora.training.runners.run.warm_trials", context)
    write_rows(tmp_path, scores)
    scores.save(tmp_path / "scores.json")
    monkeypatch.chdir(tmp_path)

    def call(*words: str):
        done = CliRunner().invoke(app, ["tune", "scores.json", *words])
        return done.exit_code, done.stdout, done.exception

    return call


@pytest.mark.slow
def test_options_come_before_the_recipe(command, tmp_path) -> None:
    document = {"task": "sft", "train": "train.jsonl", "eval": "eval.jsonl", "trials": 30,
                "runner": {"workers": 1}, "budget": BUDGET}  # fmt: skip
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(document))
    words = ("--recipe", "r.yaml", "--trials", "12", "--seeds", "2", "-o", "tuning.json")
    code, output, _ = command(*words, "--format", "json")
    assert code == 0
    tuning = Tuning.load(tmp_path / "tuning.json")
    assert json.loads(output) == json.loads(tuning.to_json())
    assert tuning.seeds == (1, 2)
    done = [trial for trial in tuning.history if trial.state == SEARCHED]
    assert len(tuning.ladder) + len(done) == 12
    assert VerifyRecipe.read(tmp_path / "plop-tune" / "recipe.yaml").train == "train.jsonl"


def test_plan_on_the_command_line(command, tmp_path) -> None:
    words = ("--train", "train.jsonl", "--eval", "eval.jsonl", "--task", "sft", "--hours", "2")
    code, output, _ = command(*words, "--plan")
    assert code == 0
    assert "No trial starts after 2 device-hours." in " ".join(output.split())
    assert not list((tmp_path / "plop-tune").glob("*.json"))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--train", "a", "--eval", "b"), "--task is needed"),
        (("--train", "a", "--eval", "b", "--task", "sft", "--trials", "0"), "trials"),
        (("--recipe", "none.yaml"), "Cannot read the recipe none.yaml"),
        (("--recipe", "list.yaml"), "there are no keys with values"),
    ],
)
def test_wrong_words(command, tmp_path, words, text: str) -> None:
    (tmp_path / "list.yaml").write_text("- 1\n")
    _, _, error = command(*words)
    assert isinstance(error, UsageError)
    assert text in str(error)


def test_the_page_names_what_can_be_chosen() -> None:
    """A choice that the how-to does not name is one that users will not find."""
    page = (Path(__file__).parents[1] / "docs" / "how-to" / "tune.md").read_text()
    for name in (*TRIAL_INITS, *USUAL, *TuneRecipe.model_fields):
        assert f"`{name}`" in page, name
