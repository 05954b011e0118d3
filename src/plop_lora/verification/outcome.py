"""From finished trials to the record: arms ranked, the decision, what it cost. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
from plop_lora.records.trial import CONFIRM, LADDER, higher_is_better
from plop_lora.records.verification import BesideResult
from plop_lora.study.compare import (
    Outcome,
    Paired,
    cause_of,
    cause_within,
    compare_to_reference,
    outcome_at,
    outcome_of,
    value_of,
)
from plop_lora.verification.arm_rules import COMPULSORY
from plop_lora.verification.arms import Arm
from plop_lora.verification.course import Course, Ended, follow
from plop_lora.verification.decide import (
    FAILED,
    SCREENED,
    ArmComparison,
    Decision,
    Doubts,
    decide,
)
from plop_lora.verification.design import UNTRAINED_MODEL, Design
from plop_lora.verification.ladder import Ladder, Rates
from plop_lora.verification.looks import Look, look_record
from plop_lora.verification.predictive import predictive
from plop_lora.verification.references import best_reference, references_of
from plop_lora.verification.remedy import POWER
from plop_lora.verification.screening import hopeless
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
    untrained: TrialResult
    confirm: tuple[TrialResult, ...] = ()

    def of(self, arm: str) -> list[TrialResult]:
        """Return the deciding trials of an arm."""
        return [result for result in self.confirm if result.arm == arm]


def course_of(design: Design, trials: Trials) -> Course:
    """Return what the looks so far came to, and which look lacks trials."""
    metric, arms = _deciding(design, trials), compared_arms(design, trials)
    margin = _margin(design, trials)

    def decide_at(look: Look, ended: Ended) -> Decision | None:
        seeds = design.seeds[: look.seeds]
        present = {(result.arm, result.seed) for result in trials.confirm}
        trained = [arm for arm in arms if arm in trials.rates.best and arm not in ended]
        if any((arm, seed) not in present for arm in trained for seed in seeds):
            return None
        so_far = [result for result in trials.confirm if result.seed in seeds]
        return decide(
            {arm: outcome_at(trials.of(arm), seeds, metric) for arm in arms},
            shortlist=PLOP, margin=margin, higher=higher_is_better(metric), look=look,
            doubts=_doubts(design, trials, so_far, len(seeds)), ended=ended,
        )  # fmt: skip

    if PLOP not in trials.rates.best or not {*arms} & {*trials.rates.best} - {PLOP}:
        return Course()
    return follow(design.looks, margin, decide_at)


def compared_arms(design: Design, trials: Trials) -> tuple[str, ...]:
    """Return the arms that are not screened out."""
    screened = _screened(design, trials)
    return tuple(arm.name for arm in design.arms if arm.name not in screened)


def _margin(design: Design, trials: Trials) -> float:
    """Return the margin by what the shortlist reached with the seeds of the first look."""
    seeds = design.seeds[: design.looks[0].seeds]
    first = outcome_at(trials.of(PLOP), seeds, _deciding(design, trials))
    return design.margin.of(first.mean or 0.0)


def _deciding(design: Design, trials: Trials) -> str:
    """Return what decides: the held-out loss where trials have it, unless the metric is to."""
    return design.study.metric if design.by_metric else trials.ladder.criterion


def _screened(design: Design, trials: Trials) -> dict[str, str]:
    """Return the hopeless rivals of a sequential design, each with the reason."""
    if len(design.looks) == 1:
        return {}
    first = trials.ladder.of(PLOP)
    level = 0.0 if first is None or first.rung.value is None else first.rung.value
    return hopeless(trials.ladder, design.margin.of(level), shortlist=PLOP, kept=COMPULSORY)


def conclude(design: Design, trials: Trials) -> Verification:
    """Return the record of a design whose trials are finished.

    Raises:
        MeasurementError: the shortlist has no value at all, or no rival has.
    """
    study = design.study
    metric = _deciding(design, trials)
    _demand_values(design, trials, metric)
    course = course_of(design, trials)
    assert course.decision is not None, "its trials are finished"
    decision = course.decision
    outcomes = {arm.name: outcome_of(trials.of(arm.name), metric) for arm in design.arms}
    higher = higher_is_better(metric)
    arms = _arm_results(design, trials, course, outcomes)
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
        margin=_margin(design, trials),
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
        looks=tuple(look_record(look) for look in design.looks if look.seeds <= taken),
        beside=_beside(design, trials),
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


def _doubts(design: Design, trials: Trials, confirm: Sequence[TrialResult], seeds: int) -> Doubts:
    """Return what forbids a claim, by the deciding trials so far."""
    metric = _deciding(design, trials)
    name, level = best_reference(
        references_of(design.study, metric, trials.untrained, seeds),
        higher=higher_is_better(metric),
    )
    return Doubts(_doubtful(trials, confirm, metric), level, name)


def _doubtful(trials: Trials, confirm: Sequence[TrialResult], metric: str) -> dict[str, str]:
    """Say of each arm why its numbers may not be those of its placement, if anything says so."""
    found = {
        **unsettled(trials.ladder, confirm, trials.untrained),
        **equal_seeds(confirm),
        **trials.rates.blind,
        **trials.rates.lost,
    }
    if (constant := constant_metric(confirm, metric)) is not None:
        found[PLOP] = constant
    for result in confirm:
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


def _demand_values(design: Design, trials: Trials, metric: str) -> None:
    """Refuse to judge where one side of every comparison failed."""
    reached = {result.arm for result in trials.confirm if value_of(result, metric) is not None}
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


# --------------------------------------------------------------------------- arms


def _arm_results(
    design: Design, trials: Trials, course: Course, outcomes: Mapping[str, Outcome]
) -> list[ArmResult]:
    assert course.decision is not None
    metric = _deciding(design, trials)
    screened = _screened(design, trials)
    compared = {row.arm: row for row in course.decision.comparisons}
    doubts = _doubtful(trials, trials.confirm, metric)
    beside = _beside_results(design, trials)
    found = []
    for arm in design.arms:
        name, verdict = arm.name, SCREENED if arm.name in screened else FAILED
        against = compared.get(name, ArmComparison(name, None, 0, verdict=verdict))
        own = trials.of(name)
        failures = [cause for result in own if (cause := cause_of(result, metric))]
        doubt = doubts.get(name)
        found.append(ArmResult(
            arm=name,
            parameters=_counted(arm, (*own, *_of(name, trials.ladder.trials))),
            mismatch=arm.mismatch,
            learning_rate=trials.rates.best.get(name),
            nfn=arm.nfn,
            mean=outcomes[name].mean,
            values=outcomes[name].values_S,
            difference=against.difference,
            low=against.low,
            high=against.high,
            p=against.p,
            verdict=against.verdict,
            causes=(
                *trials.rates.causes.get(name, ()),
                *([doubt] if doubt else []),
                *dict.fromkeys(failures),
            ),
            freedom=against.freedom,
            ended=screened.get(name) or course.endings.get(name, ""),
            beside=beside.get(name),
        ))  # fmt: skip
    return found


def _of(arm: str, results: Sequence[TrialResult]) -> list[TrialResult]:
    return [result for result in results if result.arm == arm]


def _beside(design: Design, trials: Trials) -> str | None:
    """Return the outcome that is reported beside the one that decides, None where there is none."""
    other = trials.ladder.criterion if design.by_metric else design.study.metric
    return None if other == _deciding(design, trials) else other


def _beside_results(design: Design, trials: Trials) -> dict[str, BesideResult]:
    """Compare the arms by the other outcome, over the seeds that they have."""
    metric = _beside(design, trials)
    if metric is None:
        return {}
    outcomes = {
        arm.name: outcome_at(trials.of(arm.name), design.seeds, metric) for arm in design.arms
    }
    paired = compare_to_reference(
        {name: own for name, own in outcomes.items() if name != PLOP},
        outcomes[PLOP],
        higher=higher_is_better(metric),
    )
    return {name: _beside_result(own, paired.get(name)) for name, own in outcomes.items()}


def _beside_result(outcome: Outcome, paired: Paired | None) -> BesideResult:
    if paired is None:
        return BesideResult(mean=outcome.mean)
    found = paired.interval
    return BesideResult(
        mean=outcome.mean,
        difference=found.value,
        low=found.low,
        high=found.high,
        detectable=found.margin(0.5 + found.level / 2) + found.margin(POWER),
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
