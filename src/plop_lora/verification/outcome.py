"""From finished trials to the record: arms ranked, the decision, what it cost. No torch."""

from __future__ import annotations

from collections.abc import Mapping

from plop_lora._version import __version__
from plop_lora.cost import full_search, ledger
from plop_lora.errors import MeasurementError
from plop_lora.indicators.signal import Signal
from plop_lora.placement import PLOP, groups_of
from plop_lora.records import CostLedger, Predictive, Scores, TrialCost, Verification
from plop_lora.records.trial import CONFIRM, LADDER, higher_is_better
from plop_lora.study.compare import Outcome, cause_of, outcome_of, value_of
from plop_lora.verification.arm_results import arm_results
from plop_lora.verification.collateral import general_of
from plop_lora.verification.design import UNTRAINED_MODEL, Design
from plop_lora.verification.predictive import predictive
from plop_lora.verification.references import references_of
from plop_lora.verification.trials import Trials, course_of, margin_of


def conclude(design: Design, trials: Trials) -> Verification:
    """Return the record of a design whose trials are finished.

    Raises:
        MeasurementError: the shortlist has no value at all, or no rival has.
    """
    study = design.study
    metric = design.outcome
    _demand_values(design, trials, metric)
    course = course_of(design, trials)
    assert course.decision is not None, "its trials are finished"
    decision = course.decision
    outcomes = {arm.name: outcome_of(trials.of(arm.name), metric) for arm in design.arms}
    higher = higher_is_better(metric)
    arms = arm_results(design, trials, course, outcomes)
    sign = -1.0 if higher else 1.0
    ranked = sorted(arms, key=lambda arm: (arm.mean is None, sign * (arm.mean or 0.0), arm.arm))
    first = {arm.name: arm.placements[0] for arm in design.arms}
    splits = study.splits
    references = references_of(study, metric, trials.untrained, len(design.seeds))
    taken = max((len(outcome.values_S) for outcome in outcomes.values()), default=0)
    return Verification(
        model=study.scores.model,
        task=study.task.name,
        metric=metric,
        higher_is_better=higher,
        margin=margin_of(design, trials),
        budget=study.budget,
        shortlist=PLOP,
        verdict=decision.verdict,
        better=decision.better,
        more=decision.more,
        arms=tuple(ranked),
        ladder=trials.rates.steps,
        seeds=design.seeds,
        report_rows=len(splits.report),
        selection_rows=len(splits.selection),
        train_rows=len(splits.train),
        predictive=_predictive(design, outcomes, higher=higher),
        cost=_cost(design, trials),
        placement=first[PLOP],
        better_placement=None if decision.better is None else first[decision.better],
        quick=design.quick,
        scores_digest=study.scores.digest(),
        plop_version=__version__,
        notes=_notes(design, trials),
        references=tuple(reference for reference, _ in references),
        looks=tuple(look for look in design.looks if look.seeds <= taken),
        beside=design.beside,
        general=general_of(trials.untrained, study.general_source),
    )


def _predictive(design: Design, outcomes: Mapping[str, Outcome], *, higher: bool) -> Predictive:
    return predictive(
        {
            arm.name: [
                sorted({site.type for site in placement.sites}) for placement in arm.placements
            ]
            for arm in design.arms
        },
        {group.type: group.value for group in groups_of(design.study.scores)},
        {arm: outcome.mean for arm, outcome in outcomes.items()},
        higher=higher,
    )


def _demand_values(design: Design, trials: Trials, metric: str) -> None:
    """Refuse to judge where one side of every comparison failed."""
    reached = {result.arm for result in trials.confirm if value_of(result, metric) is not None}
    if not trials.confirm:
        reached = {*trials.rates.best}
    if PLOP in reached and len(reached) > 1:
        return
    who = "Every rival" if PLOP in reached else f"The shortlist ({PLOP})"
    failed = [
        (result, cause)
        for result in (*trials.ladder.trials, *trials.confirm)
        if (cause := cause_of(result, metric)) and (result.arm == PLOP) != (PLOP in reached)
    ]
    result, cause = failed[-1]
    raise MeasurementError(
        f"{who} failed in all of its trials, so nothing can be compared. {result.arm}, seed "
        f"{result.seed}, learning rate {result.learning_rate:g}: {cause.rstrip('.')}. Mend the "
        "recipe, or give --arms without the rivals that cannot be trained."
    )


def _notes(design: Design, trials: Trials) -> tuple[str, ...]:
    notes = [*design.notes, *design.study.splits.notes, *trials.rates.notes]
    notes += [f"{arm.name}: {arm.note}" for arm in design.arms if arm.note]
    for arm in design.arms:
        planned = {placement.trainable_parameters for placement in arm.placements}
        done = [r for r in (*trials.ladder.trials, *trials.confirm) if r.arm == arm.name and r.done]
        counted = {result.trainable_parameters for result in done}
        if counted - planned:
            notes.append(
                f"{arm.name}: {sorted(counted)[0]:,} parameters were trained, "
                f"{sorted(planned)[0]:,} were planned"
            )
        batches = sorted({result.batch_size for result in done})
        if batches and batches[0] < design.study.training.batch_size:
            notes.append(
                f"{arm.name}: the batch went down to {batches[0]} sequences for want of memory"
            )
    notes += dict.fromkeys(note for result in trials.confirm for note in result.notes)
    return tuple(dict.fromkeys(notes))


# --------------------------------------------------------------------------- cost


def _cost(design: Design, trials: Trials) -> CostLedger:
    """Return the ledger; the search beside it is every usual placement, each as a rival."""
    study = design.study
    price, device = study.price, study.scores.provenance.device
    return ledger(
        {
            "scoring": [scoring_cost(study.scores)],
            "selectors": [signal_cost(signal, device) for signal in trials.signals],
            LADDER: trials.ladder.trials,
            CONFIRM: trials.confirm,
            UNTRAINED_MODEL: [
                result for result in (trials.ladder.untrained, trials.untrained) if result
            ],
        },
        price.hourly,
        price.currency,
        full_search(rates=len(design.rates), seeds=len(design.seeds)),
    )


def scoring_cost(scores: Scores) -> TrialCost:
    """Return what scoring took, from its provenance."""
    made = scores.provenance
    return TrialCost(
        wall_seconds=made.elapsed_seconds,
        train_seconds=0.0,
        evaluate_seconds=0.0,
        devices=1,
        device=made.device,
        accelerator=not made.device.startswith("cpu"),
        peak_memory=made.peak_memory_bytes,
        tokens=scores.tokens,
    )


def signal_cost(signal: Signal, device: str) -> TrialCost:
    """Return what a selector took; it ran on the device that scoring ran on."""
    return TrialCost(
        wall_seconds=signal.seconds,
        train_seconds=0.0,
        evaluate_seconds=0.0,
        devices=1,
        device=device,
        accelerator=not device.startswith("cpu"),
        peak_memory=signal.peak_memory,
        tokens=0,
    )
