"""The design of a verification: which trials decide, at which rates and seeds.

A design is a study with its arms. From it come the trials of the ladder (every arm at every rate,
first seed, a share of the rows, judged on the selection split) and of the confirmation (every arm
at its own best rate, every seed, all rows, judged on the report split). No torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from plop_lora.indicators.signal import Signal
from plop_lora.placement import PLOP
from plop_lora.recipe import VerifyDesign
from plop_lora.records import (
    ArmPlan,
    TrialResult,
    TrialSpec,
    VerificationPlan,
)
from plop_lora.records.trial import CONFIRM, LADDER, UNTRAINED, WITHOUT_WARMUP
from plop_lora.statistics import detectable
from plop_lora.study.estimate import CHARACTERS_A_TOKEN, Work, estimate
from plop_lora.study.rates import Length, rounded, shortened
from plop_lora.study.splits import REPORT, SELECT
from plop_lora.study.study import Study
from plop_lora.verification.arms import COMPULSORY, DEFAULT_ARMS, Arm, make_arms

UNTRAINED_MODEL = "untrained model"
QUICK_SEEDS = 2
LEAST_SEEDS = 2
"""One seed has no spread, so nothing can be told from it."""
ASSUMED_SD = {True: (0.01, 0.5), False: (0.01, 0.1)}
"""Standard deviations over seeds and over items, by whether higher is better (a share of right
answers) or not (nats a token)."""


@dataclass(frozen=True, slots=True, eq=False)
class Design:
    """A study with its arms, and how they are compared.

    Attributes:
        study: what all trials have in common.
        arms: the shortlist first.
        rates: learning rates of the ladder, rising.
        seeds: of the confirmation; the ladder runs on the first.
        margin: loss of the metric that is accepted.
        ladder: how much a trial of the ladder sees.
        quick: whether this is a smoke test.
        notes: what a reader should know.
    """

    study: Study
    arms: tuple[Arm, ...]
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    margin: float
    ladder: Length
    quick: bool
    notes: tuple[str, ...]


def arm_names(wanted: VerifyDesign) -> tuple[str, ...]:
    """Return the arms that are asked for, the shortlist first, the strongest rival among them.

    Those of no design of its own may be fewer in the end: a rule may find nothing in a model.
    """
    return tuple(dict.fromkeys((PLOP, *(wanted.arms or DEFAULT_ARMS), COMPULSORY)))


def make_design(
    study: Study,
    wanted: VerifyDesign,
    *,
    signals: Mapping[str, Signal] | None = None,
    names: Sequence[str] | None = None,
) -> Design:
    """Make the arms of a study, and fill in what is left open of how they are compared.

    Args:
        study: what the trials have in common.
        wanted: arms, rates, seeds and margin, as the user wrote them.
        signals: of the arms that need one, by selector.
        names: the arms; by default those that are wanted.

    Raises:
        UsageError: an unknown arm, a budget that an arm cannot meet.
    """
    count = QUICK_SEEDS if wanted.quick else wanted.seeds
    seeds = tuple(range(study.seed, study.seed + count))
    arms = make_arms(
        wanted.arms if names is None else names,
        study.scores,
        budget=study.budget,
        top=study.top,
        seeds=seeds,
        signals=signals,
        largest_rank=study.task.largest_rank,
    )
    rates = _rates(study, wanted)
    notes: tuple[str, ...] = ()
    if len(rates) == 1:
        notes = ("all arms train at one learning rate, which favours those that it suits",)
    return Design(
        study=study,
        arms=arms,
        rates=rates,
        seeds=seeds,
        margin=study.usual_margin if wanted.margin is None else wanted.margin,
        ladder=shortened(study, wanted.ladder_share),
        quick=wanted.quick,
        notes=notes,
    )


def _rates(study: Study, wanted: VerifyDesign) -> tuple[float, ...]:
    if wanted.learning_rates is not None:
        return wanted.learning_rates
    return tuple(rounded(study.usual_rate * factor, 6) for factor in wanted.ladder)


# --------------------------------------------------------------------------- trials


def ladder_specs(design: Design) -> tuple[TrialSpec, ...]:
    """Return the trials that choose each arm's rate, by arm and rate; none for a single rate."""
    if len(design.rates) == 1:
        return ()
    return tuple(
        design.study.trial_spec(
            arm.name, arm.placements[0], learning_rate=rate, seed=design.seeds[0], phase=LADDER,
            judged_on=SELECT, rows=design.ladder.rows, steps=design.ladder.steps,
        )
        for arm in design.arms
        for rate in design.rates
    )  # fmt: skip


def confirm_specs(design: Design, rates: Mapping[str, float]) -> tuple[TrialSpec, ...]:
    """Return the trials of the report, by arm and seed, of every arm that has a rate."""
    return tuple(
        design.study.trial_spec(
            arm.name, placement, learning_rate=rates[arm.name], seed=seed, phase=CONFIRM,
            judged_on=REPORT,
        )
        for arm in design.arms
        if arm.name in rates
        for placement, seed in zip(arm.placements, design.seeds, strict=True)
    )  # fmt: skip


def untrained_specs(design: Design) -> tuple[TrialSpec, ...]:
    """Return the trial that judges the model as it was, on the report split.

    It takes one step at a learning rate of 0. The adapters of the shortlist start without effect,
    and keep it; so what is judged is the untrained model, by the same way as every arm.
    """
    study = design.study
    rows = study.training.batch_size * study.training.accumulation
    return (
        study.trial_spec(
            UNTRAINED_MODEL, design.arms[0].placements[0], learning_rate=0.0, seed=design.seeds[0],
            phase=UNTRAINED, judged_on=REPORT, rows=min(len(study.splits.train), rows), steps=1,
        ),
    )  # fmt: skip


# --------------------------------------------------------------------------- the record


def make_plan(
    design: Design,
    finished: Sequence[TrialResult] = (),
    *,
    rates: Mapping[str, float] | None = None,
    unmeasured: Sequence[str] = (),
) -> VerificationPlan:
    """Return what a design would run, how long, for how much, and what it could detect.

    Args:
        design: with the arms that are known.
        finished: trials of it that are done, whose time says what the others take.
        rates: of the arms that have one already, which their confirmation will have.
        unmeasured: arms whose types follow from a signal that is measured only when it runs.
    """
    study, splits, seeds = design.study, design.study.splits, design.seeds
    arms = len(design.arms) + len(unmeasured)
    middle = design.rates[len(design.rates) // 2]
    ladder, untrained = ladder_specs(design), untrained_specs(design)
    confirm = confirm_specs(design, {arm.name: middle for arm in design.arms} | dict(rates or {}))
    tokens = splits.characters(study.task) / CHARACTERS_A_TOKEN
    works = [(spec, _work(design, spec, tokens)) for spec in (*ladder, *confirm, *untrained)]
    time = estimate(works, finished)
    seconds = time.seconds * arms / len(design.arms)
    hourly = study.price.hourly
    seed_sd, item_sd = ASSUMED_SD[study.higher]
    return VerificationPlan(
        model=study.scores.model,
        task=study.task.name,
        metric=study.metric,
        margin=design.margin,
        budget=study.budget,
        arms=(*map(_arm_plan, design.arms), *(_unmeasured(n, study.budget) for n in unmeasured)),
        seeds=seeds,
        learning_rates=design.rates,
        ladder_trials=len(ladder) // len(design.arms) * arms,
        confirm_trials=len(seeds) * arms,
        untrained_trials=len(untrained),
        train_rows=len(splits.train),
        ladder_rows=design.ladder.rows,
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
        quick=design.quick,
        notes=(*design.notes, *splits.notes, *_plan_notes(design, time.source, len(finished))),
    )


def _plan_notes(design: Design, source: str, finished: int) -> tuple[str, ...]:
    price, training = design.study.price, design.study.training
    notes = _passes(design)
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


def _passes(design: Design) -> list[str]:
    """Say what a trial of each phase sees."""
    study, rows = design.study, len(design.study.splits.train)
    found = [f"a deciding trial takes {study.task.passes(study.training, rows)} of {rows:,}"]
    if ladder := ladder_specs(design):
        seen = study.task.passes(ladder[0].training, design.ladder.rows)
        found.append(f"a trial that chooses a rate takes {seen} of {design.ladder.rows:,}")
    return found


def _work(design: Design, spec: TrialSpec, tokens: float) -> Work:
    splits, ladder = design.study.splits, spec.phase == LADDER
    return Work(
        train_rows=design.ladder.rows if ladder else len(splits.train),
        evaluation_rows=len(splits.selection if ladder else splits.report),
        tokens=tokens,
        parameters=design.study.scores.model.parameters,
        task=design.study.task,
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
