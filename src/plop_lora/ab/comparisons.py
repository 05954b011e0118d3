"""One metric of one arm against the control: its intervals, its bounds, and its verdict.

A difference is always the arm minus the control. A *gain* is the same with the sign by which a
positive number is an improvement.

Imports numpy and scipy; no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from scipy import special

from plop_lora.ab import words
from plop_lora.ab.estimates import ArmEstimates
from plop_lora.records import Experiment, Metric, MetricComparison
from plop_lora.records.analysis import FIXED, Design, MetricVerdict, Role
from plop_lora.records.experiment import SHARE
from plop_lora.statistics import (
    Estimate,
    Welch,
    one_sided_quantile,
    sequential_split_p,
    two_sided_quantile,
    welch,
)

FEWEST_UNITS = 50
"""Units of an arm below which nothing is said: the intervals rest on the central limit theorem."""
MISMATCH = 0.001
"""The p below which numbers of units are not believed, and with them no metric."""
_FARTHEST = 1_000
"""How many times the present number of units is looked ahead for a decision."""


@dataclass(frozen=True, slots=True)
class Errors:
    """Errors that the bounds of one comparison may make.

    Attributes:
        effect: Two-sided, of the interval of the difference.
        margin: One-sided, of the bound that must lie above minus the margin.
        harm: One-sided, of the bound by which an arm is called harmful.
    """

    effect: float
    margin: float
    harm: float

    @classmethod
    def of(cls, experiment: Experiment) -> Errors:
        """Share the errors of an experiment out over its arms, and that of harm over its metrics.

        An arm has to pass all guardrails, so that more of them make no error likelier.
        """
        arms = len(experiment.candidates)
        watched = 1 + len(experiment.guardrails)
        return cls(
            effect=experiment.error / arms,
            margin=experiment.error / arms,
            harm=experiment.harm_error / (arms * watched),
        )


@dataclass(frozen=True, slots=True)
class Scale:
    """How many standard errors an interval or bound reaches, at any number of units.

    Attributes:
        design: Whether the data may be looked at once or at any time.
        planned: Number of units of both arms at which the sequences are tightest.
        errors: Errors that the bounds may make.
    """

    design: Design
    planned: float
    errors: Errors

    def effect(self, units: int, freedom: float) -> float:
        """Return the reach of the two-sided interval."""
        if self.design is FIXED:
            return -float(special.stdtrit(freedom, self.errors.effect / 2))
        return float(two_sided_quantile(units, error=self.errors.effect, planned=self.planned))

    def margin(self, units: int, freedom: float) -> float:
        """Return the reach of the bound that is compared with the margin."""
        if self.design is FIXED:
            return -float(special.stdtrit(freedom, self.errors.margin))
        return float(one_sided_quantile(units, error=self.errors.margin, planned=self.planned))

    def harm(self, units: int) -> float:
        """Return the reach of the bound of harm, which may be looked at under both designs."""
        return float(one_sided_quantile(units, error=self.errors.harm, planned=self.planned))


def scale_of(experiment: Experiment, arm: str, design: Design) -> Scale:
    """Return the scale of the comparison of an arm with the control."""
    share = experiment.split[arm] + experiment.split[experiment.control]
    return Scale(design, experiment.planned_units * share, Errors.of(experiment))


def compare_arm(
    experiment: Experiment, arm: str, metric: Metric, estimates: ArmEstimates, scale: Scale
) -> MetricComparison:
    """Compare a metric of an arm with the control.

    Args:
        experiment: Experiment.
        arm: Name of the arm.
        metric: Metric.
        estimates: Values of the metric in all arms.
        scale: How far its intervals reach.
    """
    control = experiment.control
    mine, theirs = estimates.arms[arm], estimates.arms[control]
    counts = [0 if one is None else one.influence_S.size for one in (mine, theirs)]
    empty = MetricComparison(
        arm=arm,
        metric=metric.name,
        role=_role(experiment, metric),
        higher_is_better=metric.higher_is_better,
        verdict=MetricVerdict.NOT_ENOUGH_DATA,
        reason="",
        units=sum(counts),
        missing=estimates.missing[arm] + estimates.missing[control],
        control_value=estimates.raw[control],
        arm_value=estimates.raw[arm],
        margin=_margin(experiment, metric),
        reduction=estimates.reduction,
    )
    found = None if mine is None or theirs is None else welch(mine, theirs)
    if found is not None and mine is not None and theirs is not None and metric.kind is SHARE:
        found = _with_least_variance(found, (mine, theirs))
    if found is None or min(counts) < FEWEST_UNITS or not found.variance:
        return words.explained(empty, fewest=FEWEST_UNITS)
    judged = _judged(empty, found, scale)
    missing = [estimates.missing[one] for one in (arm, control)]
    # Harm that is shown is acted on, whatever else is wrong: to stop is the safe error.
    if judged.verdict is not MetricVerdict.HARM and _is_selection(counts, missing):
        judged = replace(judged, verdict=MetricVerdict.VOID, units_needed=None)
    return words.explained(judged, fewest=FEWEST_UNITS)


def _is_selection(counts: list[int], missing: list[int]) -> bool:
    """Whether one arm has more units without a value than chance allows."""
    units = [count + lost for count, lost in zip(counts, missing, strict=True)]
    return sequential_split_p(missing, [unit / sum(units) for unit in units]) < MISMATCH


def _with_least_variance(found: Welch, arms: Sequence[Estimate]) -> Welch:
    """Return a difference of shares in which no arm without any spread is taken for certain.

    Where all units of an arm are alike, such as where every request of it fails, its variance is
    that with one unit more of each outcome.

    Source: Agresti and Caffo, The American Statistician 54 (2000).
    """
    added = 0.0
    for one in arms:
        if not one.influence_S.any():
            count = one.influence_S.size + 2
            share = (one.value * (count - 2) + 1) / count
            added += share * (1 - share) / count
    if not added:
        return found
    freedom = min(one.influence_S.size for one in arms) - 1.0
    return found._replace(variance=found.variance + added, freedom=min(found.freedom, freedom))


def _judged(row: MetricComparison, found: Welch, scale: Scale) -> MetricComparison:
    """Fill in the bounds, the verdict, and how many units would decide."""
    error = math.sqrt(found.variance)
    gain = found.value if row.higher_is_better else -found.value
    reach = scale.effect(row.units, found.freedom) * error
    worst = gain - scale.margin(row.units, found.freedom) * error
    best = gain + scale.harm(row.units) * error
    verdict = _verdict(row, gain - reach, gain + reach, worst, best)
    needed = None
    if verdict is MetricVerdict.UNDECIDED:
        needed = _units_needed(row, gain, found.variance * row.units, scale)
    return replace(
        row,
        difference=found.value,
        low=found.value - reach,
        high=found.value + reach,
        worst=worst,
        best=best,
        verdict=verdict,
        units_needed=needed,
    )


def _verdict(
    row: MetricComparison, low: float, high: float, worst: float, best: float
) -> MetricVerdict:
    """Return the verdict from the ends of the interval and the bounds, all of gains.

    A guardrail that passes is no harm, even if the arm is shown to be a little worse: its margin
    allows that.
    """
    if row.role is Role.OTHER:
        return (
            MetricVerdict.BETTER if low > 0
            else MetricVerdict.WORSE if high < 0
            else MetricVerdict.UNDECIDED
        )  # fmt: skip
    passes = row.margin is not None and worst > -row.margin
    if best < 0 and not passes:
        return MetricVerdict.HARM
    if row.role is Role.GUARDRAIL:
        return MetricVerdict.NON_INFERIOR if passes else MetricVerdict.UNDECIDED
    return MetricVerdict.BETTER if low > 0 else MetricVerdict.UNDECIDED


def _units_needed(
    row: MetricComparison, gain: float, variance_of_unit: float, scale: Scale
) -> int | None:
    """Return the number of units that would decide at this gain; None where none in reach would."""

    def decides(units: int) -> bool:
        error = math.sqrt(variance_of_unit / units)
        if row.role is Role.GUARDRAIL and row.margin is not None:
            passes = gain + row.margin > scale.margin(units, math.inf) * error
        else:
            passes = abs(gain) > scale.effect(units, math.inf) * error
        return passes or -gain > scale.harm(units) * error

    return first_that(decides, row.units, _FARTHEST * row.units)


def first_that(holds: Callable[[int], bool], low: int, high: int) -> int | None:
    """Return the smallest number from `low` to `high` that fulfils a condition, which then stays.

    >>> first_that(lambda number: number * number >= 50, 1, 100)
    8
    """
    if not holds(high):
        return None
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return high


def _role(experiment: Experiment, metric: Metric) -> Role:
    if metric.name == experiment.primary:
        return Role.PRIMARY
    return Role.OTHER if _margin(experiment, metric) is None else Role.GUARDRAIL


def _margin(experiment: Experiment, metric: Metric) -> float | None:
    margins = {guardrail.metric: guardrail.margin for guardrail in experiment.guardrails}
    return margins.get(metric.name)
