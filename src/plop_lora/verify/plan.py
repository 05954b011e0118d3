"""The plan: which trials decide, at which rates and seeds, how long, and what they could detect.

A study is a recipe with everything it leaves open filled in. From it come the trials of the
ladder (every arm at every rate, first seed, a share of the rows, judged on the selection split)
and of the confirmation (every arm at its own best rate, every seed, all rows, judged on the report
split). No torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plop_lora.indicators.signal import Signal
from plop_lora.placement.budget import parse_budget
from plop_lora.recipe import Proof, VerifyRecipe
from plop_lora.records import (
    ArmPlan,
    EvaluationSettings,
    Scores,
    TrainingSettings,
    TrialResult,
    TrialSpec,
    VerificationPlan,
)
from plop_lora.records.trial import (
    CONFIRM,
    GRPO,
    LADDER,
    UNTRAINED,
    WITHOUT_WARMUP,
    higher_is_better,
)
from plop_lora.statistics import detectable
from plop_lora.training.task import metric_of, passes_of, usual_rate
from plop_lora.training.weights import TrainedModel
from plop_lora.verify.arms import COMPULSORY, DEFAULT_ARMS, PLOP, Arm, budget_of, make_arms
from plop_lora.verify.estimate import CHARACTERS_A_TOKEN, Work, estimate
from plop_lora.verify.model import model_of
from plop_lora.verify.splits import REPORT, SELECT, Splits

SHORTLIST, STRONGEST = PLOP, COMPULSORY
UNTRAINED_MODEL = "untrained model"
QUICK_SEEDS = 2
LEAST_SEEDS = 2
"""One seed has no spread, so nothing can be told from it."""
LEAST_LADDER_ROWS = 16
MARGINS = {True: 0.01, False: 0.02}
ASSUMED_SD = {True: (0.01, 0.5), False: (0.01, 0.1)}
"""Standard deviations over seeds and over items, by whether higher is better (a share of right
answers) or not (nats a token)."""


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """A recipe with everything it leaves open filled in."""

    scores: Scores
    recipe: VerifyRecipe
    splits: Splits
    arms: tuple[Arm, ...]
    model: TrainedModel
    metric: str
    budget: int
    notes: tuple[str, ...]

    @property
    def higher(self) -> bool:
        """Whether the metric is better when higher."""
        return higher_is_better(self.metric)

    @property
    def margin(self) -> float:
        """Loss of the metric that is accepted."""
        given = self.recipe.margin
        return default_margin(self.metric) if given is None else given

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the confirmation; the ladder runs on the first."""
        return seeds_of(self.recipe)

    @property
    def rates(self) -> tuple[float, ...]:
        """Learning rates of the ladder, rising."""
        usual = usual_rate(self.recipe.task, self.recipe.full_rate)
        return tuple(float(f"{usual * factor:.6g}") for factor in self.recipe.ladder)

    @property
    def ladder_rows(self) -> int:
        """Training rows of a trial of the ladder."""
        rows = len(self.splits.train)
        return min(rows, max(LEAST_LADDER_ROWS, round(self.recipe.ladder_share * rows)))


def default_margin(metric: str) -> float:
    """Return the loss of the metric that is accepted: 0.02 nats for the loss, 0.01 for others."""
    return MARGINS[higher_is_better(metric)]


def seeds_of(recipe: VerifyRecipe) -> tuple[int, ...]:
    """Return the seeds of the trials, counted up from the recipe's."""
    count = QUICK_SEEDS if recipe.quick else recipe.seeds
    return tuple(range(recipe.seed, recipe.seed + count))


def arm_names(recipe: VerifyRecipe) -> tuple[str, ...]:
    """Return the arms that a recipe asks for, the shortlist first, the strongest rival among them.

    Those of no recipe of its own may be fewer in the end: a rule may find nothing in a model.
    """
    return tuple(dict.fromkeys((SHORTLIST, *(recipe.arms or DEFAULT_ARMS), STRONGEST)))


def parameter_budget(scores: Scores, recipe: VerifyRecipe) -> int:
    """Return the adapter parameters of every arm: as given, or as the shortlist has at its rank.

    Raises:
        UsageError: the budget cannot be read.
    """
    if recipe.budget is not None:
        return parse_budget(recipe.budget, scores.model.parameters)
    return budget_of(scores, recipe.rank, recipe.top)


def make_study(
    scores: Scores,
    recipe: VerifyRecipe,
    splits: Splits,
    *,
    signals: Mapping[str, Signal] | None = None,
    names: Sequence[str] | None = None,
) -> Study:
    """Fill in what a recipe leaves open.

    Args:
        scores: what the arms are made from.
        recipe: as the user wrote it.
        splits: of its data.
        signals: of the arms that need one, by selector.
        names: the arms; by default those of the recipe.

    Raises:
        UsageError: an unknown arm, a budget that an arm cannot meet.
    """
    budget = parameter_budget(scores, recipe)
    arms = make_arms(
        recipe.arms if names is None else names,
        scores,
        budget=budget,
        top=recipe.top,
        seeds=seeds_of(recipe),
        signals=signals,
        uniform=recipe.task == GRPO,
    )
    metric = metric_of(recipe.task, recipe.evaluation)
    notes: tuple[str, ...] = ()
    if len(recipe.ladder) == 1:
        notes = ("all arms train at one learning rate, which favours those that it suits",)
    return Study(scores, recipe, splits, arms, model_of(recipe, scores), metric, budget, notes)


# --------------------------------------------------------------------------- trials


def ladder_specs(study: Study) -> tuple[TrialSpec, ...]:
    """Return the trials that choose each arm's rate, by arm and rate; none for a single rate."""
    if len(study.rates) == 1:
        return ()
    data = study.splits.data(SELECT, study.ladder_rows)
    training = study.recipe.training
    if training.steps is not None:
        # Steps do not follow the rows, and a ladder is to cost its share only.
        steps = max(1, round(training.steps * study.recipe.ladder_share))
        training = dataclasses.replace(training, steps=steps)
    return tuple(
        _spec(study, arm, 0, rate, phase=LADDER, training=training, data=data)
        for arm in study.arms
        for rate in study.rates
    )


def confirm_specs(study: Study, rates: Mapping[str, float]) -> tuple[TrialSpec, ...]:
    """Return the trials of the report, by arm and seed, of every arm that has a rate."""
    data = study.splits.data(REPORT)
    training = study.recipe.training
    return tuple(
        _spec(study, arm, order, rates[arm.name], phase=CONFIRM, training=training, data=data)
        for arm in study.arms
        if arm.name in rates
        for order in range(len(study.seeds))
    )


def untrained_specs(study: Study) -> tuple[TrialSpec, ...]:
    """Return the trial that judges the model as it was, on the report split.

    It takes one step at a learning rate of 0. The adapters of the shortlist start without effect,
    and keep it; so what is judged is the untrained model, by the same way as every arm.
    """
    training = dataclasses.replace(study.recipe.training, steps=1)
    rows = min(len(study.splits.train), training.batch_size * training.accumulation)
    data = study.splits.data(REPORT, rows)
    return (
        _spec(
            study, dataclasses.replace(study.arms[0], name=UNTRAINED_MODEL), 0, 0.0,
            phase=UNTRAINED, training=training, data=data,
        ),
    )  # fmt: skip


def _spec(
    study: Study,
    arm: Arm,
    order: int,
    rate: float,
    *,
    phase: str,
    training: TrainingSettings,
    data: Any,
) -> TrialSpec:
    return TrialSpec(
        arm=arm.name,
        seed=study.seeds[order],
        phase=phase,
        task=study.recipe.task,
        model=study.model.name,
        placement=arm.placements[order],
        learning_rate=rate,
        data=data,
        training=training,
        evaluation=evaluation_of(study.recipe),
        labels=study.splits.labels,
        revision=study.model.revision,
        weights=study.model.weights,
    )


def evaluation_of(recipe: Proof) -> EvaluationSettings:
    """Return how trials are judged: the metric by name, the folder of tasks by its whole path."""
    settings = recipe.evaluation
    folder = settings.include_path
    return dataclasses.replace(
        settings,
        metric=metric_of(recipe.task, settings),
        include_path=None if folder is None else str(Path(folder).expanduser().resolve()),
    )


# --------------------------------------------------------------------------- the record


def make_plan(
    study: Study,
    finished: Sequence[TrialResult] = (),
    *,
    rates: Mapping[str, float] | None = None,
    unmeasured: Sequence[str] = (),
) -> VerificationPlan:
    """Return what a study would run, how long, for how much, and what it could detect.

    Args:
        study: with the arms that are known.
        finished: trials of it that are done, whose time says what the others take.
        rates: of the arms that have one already, which their confirmation will have.
        unmeasured: arms whose types follow from a signal that is measured only when it runs.
    """
    recipe, splits, seeds = study.recipe, study.splits, study.seeds
    arms = len(study.arms) + len(unmeasured)
    middle = study.rates[len(study.rates) // 2]
    ladder = ladder_specs(study)
    confirm = confirm_specs(study, {arm.name: middle for arm in study.arms} | dict(rates or {}))
    tokens = splits.characters() / CHARACTERS_A_TOKEN
    untrained = untrained_specs(study)
    works = [(spec, _work(study, spec, tokens)) for spec in (*ladder, *confirm, *untrained)]
    time = estimate(works, finished)
    seconds = time.seconds * arms / len(study.arms)
    hourly = recipe.price.hourly
    seed_sd, item_sd = ASSUMED_SD[study.higher]
    return VerificationPlan(
        model=study.scores.model,
        task=recipe.task,
        metric=study.metric,
        margin=study.margin,
        budget=study.budget,
        arms=(*map(_arm_plan, study.arms), *(_unmeasured(n, study.budget) for n in unmeasured)),
        seeds=seeds,
        learning_rates=study.rates,
        ladder_trials=len(ladder) // len(study.arms) * arms,
        confirm_trials=len(seeds) * arms,
        untrained_trials=len(untrained),
        train_rows=len(splits.train),
        ladder_rows=study.ladder_rows,
        selection_rows=len(splits.selection),
        report_rows=len(splits.report),
        seconds=seconds,
        money=None if hourly is None else seconds / 3600 * hourly,
        detectable=(
            None
            if len(seeds) < LEAST_SEEDS
            else detectable(len(seeds), len(splits.report), seed_sd, item_sd)
        ),
        seed_sd=seed_sd,
        item_sd=item_sd,
        quick=recipe.quick,
        notes=(*study.notes, *splits.notes, *_plan_notes(study, time.source, len(finished))),
    )


def _plan_notes(study: Study, source: str, finished: int) -> tuple[str, ...]:
    price, training = study.recipe.price, study.recipe.training
    notes = _passes(study)
    if training.schedule in WITHOUT_WARMUP and training.warmup:
        notes.append(
            f"the schedule {training.schedule} has no warm-up, so warmup {training.warmup:g} does "
            "nothing; constant_with_warmup has one"
        )
    notes += [f"the time of all trials is estimated {source}"]
    notes += [f"{finished} of the trials are finished and will not run again"] * bool(finished)
    notes += [] if price.hourly is None else [
        f"the money is at {price.hourly:g} {price.currency} a device-hour"
    ]  # fmt: skip
    return tuple(notes)


def _passes(study: Study) -> list[str]:
    """Say what a trial of each phase sees."""
    task, rows = study.recipe.task, len(study.splits.train)
    found = [f"a deciding trial takes {passes_of(task, study.recipe.training, rows)} of {rows:,}"]
    if ladder := ladder_specs(study):
        seen = passes_of(task, ladder[0].training, study.ladder_rows)
        found.append(f"a trial that chooses a rate takes {seen} of {study.ladder_rows:,}")
    return found


def _work(study: Study, spec: TrialSpec, tokens: float) -> Work:
    ladder = spec.phase == LADDER
    return Work(
        train_rows=study.ladder_rows if ladder else len(study.splits.train),
        evaluation_rows=len(study.splits.selection if ladder else study.splits.report),
        tokens=tokens,
        parameters=study.scores.model.parameters,
    )


def _arm_plan(arm: Arm) -> ArmPlan:
    first = arm.placements[0]
    ranks = [site.rank for site in first.sites]
    return ArmPlan(
        arm=arm.name,
        parameters=first.trainable_parameters,
        mismatch=arm.mismatch,
        types=tuple(dict.fromkeys(site.type for site in first.sites)),
        ranks=(min(ranks), max(ranks)),
        nfn=arm.nfn,
        note=arm.note,
    )


def _unmeasured(name: str, budget: int) -> ArmPlan:
    return ArmPlan(
        arm=name,
        parameters=budget,
        mismatch=0.0,
        types=(),
        ranks=(0, 0),
        nfn=None,
        note="its types are measured when it runs",
    )
