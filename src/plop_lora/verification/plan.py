"""The plan of a verification: what it would run, how long, at what price. No torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from plop_lora.records import ArmPlan, TrialResult, TrialSpec, VerificationPlan
from plop_lora.records.trial import CONFIRM, LADDER, WITHOUT_WARMUP
from plop_lora.study.estimate import CHARACTERS_A_TOKEN, Work, arithmetic, estimate
from plop_lora.study.splits import REPORT
from plop_lora.verification.arms import Arm
from plop_lora.verification.design import Design, confirm_specs, untrained_spec
from plop_lora.verification.ladder import Ladder, choose_rates, ladder_specs
from plop_lora.verification.promise import promise


def make_plan(
    ladder: Ladder, finished: Sequence[TrialResult] = (), *, unmeasured: Sequence[str] = ()
) -> VerificationPlan:
    """Return what a design would run, how long, for how much, and what it could detect.

    Args:
        ladder: of the design, with those of its stages that are finished.
        finished: trials of the design that are done, whose time says what the others take.
        unmeasured: arms whose types follow from a signal that is measured only when it runs.
    """
    design = ladder.design
    study, splits, seeds = design.study, design.study.splits, design.seeds
    arms = len(design.arms) + len(unmeasured)
    climbing = (*ladder.specs, *ladder_specs(ladder))
    confirm, untrained = planned_confirm(ladder), (untrained_spec(design, REPORT),)
    rungs = sum(spec.phase == LADDER for spec in climbing)
    tokens = splits.characters(study.task) / CHARACTERS_A_TOKEN
    works = [(spec, _work(design, spec, tokens)) for spec in (*climbing, *confirm, *untrained)]
    promised = promise(design, arms - 1)
    time = estimate(works, finished)
    deciding = sum(arithmetic(spec, work) for spec, work in works if spec.phase == CONFIRM)
    left_out = deciding / sum(arithmetic(*each) for each in works) * (1 - promised.trials)
    seconds = time.seconds * (1 - left_out) * arms / len(design.arms)
    hourly = study.price.hourly
    return VerificationPlan(
        model=study.scores.model,
        task=study.task.name,
        metric=design.outcome,
        margin=design.margin.value,
        margin_share=design.margin.share,
        budget=study.budget,
        arms=(*map(_arm_plan, design.arms), *(_unmeasured(n, study.budget) for n in unmeasured)),
        seeds=seeds,
        learning_rates=ladder.rates,
        ladder_trials=round(rungs / len(design.arms) * arms),
        ladder_trials_at_most=_most_rungs(design) * arms,
        widen=design.widen,
        confirm_trials=len(seeds) * arms,
        untrained_trials=len(untrained) + len(climbing) - rungs,
        train_rows=len(splits.train),
        ladder_rows=design.ladder.rows,
        selection_rows=len(splits.selection),
        report_rows=len(splits.report),
        seconds=seconds,
        money=None if hourly is None else seconds / 3600 * hourly,
        detectable=promised.detectable,
        confirms=promised.confirms,
        expected_confirm_trials=promised.trials * len(seeds) * arms,
        seed_sd=promised.spread.seed_sd,
        item_sd=promised.spread.item_sd,
        noise_sd=promised.spread.noise_sd,
        looks=design.looks,
        beside=design.beside,
        quick=design.quick,
        notes=(*design.notes, *splits.notes, *_plan_notes(design, time.source, len(finished))),
    )


def planned_confirm(ladder: Ladder) -> tuple[TrialSpec, ...]:
    """Return the trials that decide, at the middle rate of an arm whose ladder is not finished."""
    design = ladder.design
    middle = {arm.name: design.rates[len(design.rates) // 2] for arm in design.arms}
    known = {} if ladder_specs(ladder) else choose_rates(ladder).best
    return confirm_specs(design, middle | dict(known))


def _most_rungs(design: Design) -> int:
    """Return how many trials the ladder of an arm has, wide, and tried again on all rows."""
    if len(design.rates) == 1:
        return 0
    wide = len(design.rates) + 2 * design.widen
    return wide if design.takes_all_rows else 2 * wide


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
    if len(design.rates) > 1:
        short = dataclasses.replace(study.training, steps=design.ladder.steps)
        seen = study.task.passes(short, design.ladder.rows)
        found.append(f"a trial that chooses a rate takes {seen} of {design.ladder.rows:,}")
    return found


def _work(design: Design, spec: TrialSpec, tokens: float) -> Work:
    splits, data = design.study.splits, spec.data
    reported = data.evaluation == design.study.data(REPORT).evaluation
    return Work(
        train_rows=data.rows or len(splits.train),
        evaluation_rows=len(splits.report if reported else splits.selection),
        tokens=tokens,
        parameters=design.study.scores.model.parameters,
        task=design.study.task,
        general_tokens=splits.general_characters / CHARACTERS_A_TOKEN if data.general else 0.0,
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
