"""The lines of a record: what each arm came to, in what decides and beside it. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from plop_lora.placement import PLOP
from plop_lora.records import ArmResult, TrialResult
from plop_lora.records.trial import GENERAL_LOSS, LearningCurve, higher_is_better
from plop_lora.records.verification import BesideResult
from plop_lora.statistics import POWER
from plop_lora.study.compare import Outcome, Paired, cause_of, compare_to_reference, outcome_at
from plop_lora.verification.arms import Arm
from plop_lora.verification.collateral import forgetting_of, time_and_memory
from plop_lora.verification.course import Course
from plop_lora.verification.decide import FAILED, SCREENED, ArmComparison
from plop_lora.verification.design import Design
from plop_lora.verification.trials import Trials, doubtful, screened_out


def arm_results(
    design: Design, trials: Trials, course: Course, outcomes: Mapping[str, Outcome]
) -> list[ArmResult]:
    """Return what each arm came to, in the order of the arms."""
    assert course.decision is not None
    metric = design.outcome
    screened = screened_out(design, trials)
    compared = {row.arm: row for row in course.decision.comparisons}
    doubts = doubtful(trials, trials.confirm, metric)
    beside = _beside_results(design, trials)
    forgetting = forgetting_of(_by_arm(design, trials, GENERAL_LOSS), trials.untrained, PLOP)
    found = []
    for arm in design.arms:
        name, verdict = arm.name, SCREENED if arm.name in screened else FAILED
        against = compared.get(name, ArmComparison(name, None, 0, verdict=verdict))
        own = trials.of(name)
        failures = [cause for result in own if (cause := cause_of(result, metric))]
        doubt = doubts.get(name)
        seconds, peak_memory = time_and_memory(own)
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
            forgetting=forgetting.get(name),
            seconds=seconds,
            peak_memory=peak_memory,
            curves=_curves(own),
        ))  # fmt: skip
    return found


def _curves(results: Sequence[TrialResult]) -> tuple[LearningCurve | None, ...]:
    """Return the curves of trials in their order; nothing where no trial has one."""
    curves = tuple(result.curve for result in results)
    return curves if any(curves) else ()


def _of(arm: str, results: Sequence[TrialResult]) -> list[TrialResult]:
    return [result for result in results if result.arm == arm]


def _by_arm(design: Design, trials: Trials, metric: str) -> dict[str, Outcome]:
    """Return what the arms reached at all seeds, None at those that an arm does not have."""
    return {arm.name: outcome_at(trials.of(arm.name), design.seeds, metric) for arm in design.arms}


def _beside_results(design: Design, trials: Trials) -> dict[str, BesideResult]:
    """Compare the arms by the other outcome, over the seeds that they have."""
    metric = design.beside
    if metric is None:
        return {}
    outcomes = _by_arm(design, trials, metric)
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
