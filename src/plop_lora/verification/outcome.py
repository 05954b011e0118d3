"""From finished trials to the record: arms ranked, the decision, what it cost. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from plop_lora._version import __version__
from plop_lora.cost import full_search, ledger
from plop_lora.errors import MeasurementError
from plop_lora.indicators.signal import Signal
from plop_lora.placement import PLOP, groups_of
from plop_lora.records import (
    ArmResult,
    CostLedger,
    Predictive,
    Scores,
    TrialCost,
    TrialResult,
    Verification,
)
from plop_lora.records.trial import CONFIRM, LADDER
from plop_lora.study.compare import Outcome, cause_of, cause_within, outcome_of
from plop_lora.verification.arms import Arm
from plop_lora.verification.collateral import forgetting_of, general_of, time_and_memory
from plop_lora.verification.decide import ArmComparison, Doubts, decide
from plop_lora.verification.design import UNTRAINED_MODEL, Design
from plop_lora.verification.ladder import Ladder, Rates
from plop_lora.verification.predictive import predictive
from plop_lora.verification.references import best_reference, references_of
from plop_lora.verification.self_checks import constant_metric, equal_seeds
from plop_lora.verification.settled import unsettled


@dataclass(frozen=True, slots=True, eq=False)
class Trials:
    """Everything that ran: signals that were measured, the ladder, the confirmation.

    `untrained` is the trial that judged the model as it was, on the report split.
    """

    signals: Sequence[Signal]
    ladder: Ladder
    rates: Rates
    confirm: Sequence[TrialResult]
    untrained: TrialResult


def conclude(design: Design, trials: Trials) -> Verification:
    """Return the record of a design whose trials are finished.

    Raises:
        MeasurementError: the shortlist has no value at all, or no rival has.
    """
    study = design.study
    outcomes = _outcomes(design, trials)
    _demand_values(design, trials, outcomes)
    references = references_of(study, trials.untrained, len(design.seeds))
    name, level = best_reference(references, higher=study.higher)
    doubts = _doubts(trials, study.metric)
    decision = decide(
        outcomes, shortlist=PLOP, margin=design.margin, higher=study.higher,
        doubts=Doubts(doubts, level, name),
    )  # fmt: skip
    forgetting = forgetting_of(
        {arm.name: _of(arm.name, trials.confirm) for arm in design.arms}, trials.untrained, PLOP
    )
    arms = [
        _arm_result(design, arm, trials, outcomes[arm.name], against, doubts)
        for arm, against in zip(design.arms, decision.comparisons, strict=True)
    ]
    sign = -1.0 if study.higher else 1.0
    arms = [replace(arm, forgetting=forgetting.get(arm.arm)) for arm in arms]
    ranked = sorted(arms, key=lambda arm: (arm.mean is None, sign * (arm.mean or 0.0), arm.arm))
    first = {arm.name: arm.placements[0] for arm in design.arms}
    splits = study.splits
    return Verification(
        model=study.scores.model,
        task=study.task.name,
        metric=study.metric,
        higher_is_better=study.higher,
        margin=design.margin,
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
        predictive=_predictive(design, outcomes),
        cost=_cost(design, trials),
        placement=first[PLOP],
        better_placement=None if decision.better is None else first[decision.better],
        quick=design.quick,
        scores_digest=study.scores.digest(),
        plop_version=__version__,
        notes=_notes(design, trials),
        references=tuple(reference for reference, _ in references),
        general=general_of(trials.untrained, study.general_source),
    )


def _predictive(design: Design, outcomes: Mapping[str, Outcome]) -> Predictive:
    study = design.study
    return predictive(
        {
            arm.name: [
                sorted({site.type for site in placement.sites}) for placement in arm.placements
            ]
            for arm in design.arms
        },
        {group.type: group.value for group in groups_of(study.scores)},
        {arm: outcome.mean for arm, outcome in outcomes.items()},
        higher=study.higher,
    )


def _doubts(trials: Trials, metric: str) -> dict[str, str]:
    """Say of each arm why its numbers may not be those of its placement, if anything says so."""
    found = {
        **unsettled(trials.ladder, trials.confirm, trials.untrained),
        **equal_seeds(trials.confirm),
        **trials.rates.blind,
        **trials.rates.lost,
    }
    if (constant := constant_metric(trials.confirm, metric)) is not None:
        found[PLOP] = constant
    for result in trials.confirm:
        if result.mendable:
            # The seeds that are left may be the luckier ones.
            found[result.arm] = (
                f"its trial with the seed {result.seed} was lost to the machine "
                f"({cause_within(result)}), so it has fewer seeds than the others; start again to "
                "run it"
            )
        elif result.nothing_learned:
            found[result.arm] = (
                f"its trial with the seed {result.seed} has learnt nothing: "
                f"{'; '.join(result.nothing_learned)}"
            )
    return found


def _outcomes(design: Design, trials: Trials) -> dict[str, Outcome]:
    """Return the values of every arm, seed by seed; an arm without a rate has none."""
    nothing = (None,) * len(design.seeds)
    outcomes = {}
    for arm in design.arms:
        own = _of(arm.name, trials.confirm)
        outcomes[arm.name] = (
            outcome_of(own, design.study.metric) if own else Outcome(nothing, nothing)
        )
    return outcomes


def _of(arm: str, results: Sequence[TrialResult]) -> list[TrialResult]:
    return [result for result in results if result.arm == arm]


def _demand_values(design: Design, trials: Trials, outcomes: Mapping[str, Outcome]) -> None:
    """Refuse to judge where one side of every comparison failed."""
    reached = {name for name, outcome in outcomes.items() if outcome.mean is not None}
    if PLOP in reached and len(reached) > 1:
        return
    who = "Every rival" if PLOP in reached else f"The shortlist ({PLOP})"
    failed = [
        (result, cause)
        for result in (*trials.ladder.trials, *trials.confirm)
        if (cause := cause_of(result, design.study.metric))
        and (result.arm == PLOP) != (PLOP in reached)
    ]
    result, cause = failed[-1]
    raise MeasurementError(
        f"{who} failed in all of its trials, so nothing can be compared. {result.arm}, seed "
        f"{result.seed}, learning rate {result.learning_rate:g}: {cause.rstrip('.')}. Mend the "
        "recipe, or give --arms without the rivals that cannot be trained."
    )


def _arm_result(
    design: Design,
    arm: Arm,
    trials: Trials,
    outcome: Outcome,
    against: ArmComparison,
    doubts: Mapping[str, str],
) -> ArmResult:
    own = _of(arm.name, trials.confirm)
    seconds, peak_memory = time_and_memory(own)
    causes = [cause for result in own if (cause := cause_of(result, design.study.metric))]
    return ArmResult(
        arm=arm.name,
        parameters=_counted(arm, (*own, *_of(arm.name, trials.ladder.trials))),
        mismatch=arm.mismatch,
        learning_rate=trials.rates.best.get(arm.name),
        nfn=arm.nfn,
        mean=outcome.mean,
        values=outcome.values_S,
        difference=against.difference,
        low=against.low,
        high=against.high,
        p=against.p,
        verdict=against.verdict,
        causes=(
            *trials.rates.causes.get(arm.name, ()),
            *([doubt] if (doubt := doubts.get(arm.name)) else []),
            *dict.fromkeys(causes),
        ),
        bound=against.bound,
        freedom=against.freedom,
        seconds=seconds,
        peak_memory=peak_memory,
    )


def _counted(arm: Arm, results: Sequence[TrialResult]) -> int:
    """Return the parameters that were counted in the model, planned ones where none trained."""
    for result in results:
        if result.done:
            return result.trainable_parameters
    return arm.placements[0].trainable_parameters


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
