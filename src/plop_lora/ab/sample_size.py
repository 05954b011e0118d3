"""How many units an experiment needs, how long that takes, and what a given number can show.

Imports scipy; no torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import special

from plop_lora import __version__
from plop_lora.ab.past_data import Baseline
from plop_lora.errors import UsageError
from plop_lora.records import ExperimentPlan, SampleSize
from plop_lora.records.analysis import Design
from plop_lora.statistics import POWER, one_sided_quantile, two_sided_quantile

_MOST_UNITS = 10**12


def plan(
    baseline: Baseline,
    *,
    effect: float | None = None,
    margin: float | None = None,
    units: int | None = None,
    weights: Sequence[float] = (0.5, 0.5),
    traffic: tuple[float, float] | None = None,
    power: float = POWER,
    error: float = 0.05,
) -> ExperimentPlan:
    """Plan an experiment, for one look at its end and for any number of looks.

    Exactly one of three is given: `effect` or `margin` asks for the number of units, and `units`
    for the effect that they can show.

    Args:
        baseline: Mean and spread of the metric.
        effect: True difference from the control that is to be shown.
        margin: Margin of a guardrail that is to be passed by an arm that equals the control.
        units: Number of units in all arms.
        weights: Share of each arm, the control first. With more than one candidate the error is
            shared out among them, and the plan is that of the smallest.
        traffic: New units a day, and the share of them that take part.
        power: Probability of showing the effect.
        error: Two-sided error of the effect, or one-sided error of the margin.

    Raises:
        UsageError: Not exactly one of the three is given, or a number is out of range.
    """
    _check(effect, margin, units, weights, traffic)
    for what, value in (("power", power), ("error", error)):
        if not 0 < value < 1:
            raise UsageError(f"The {what} is {value:g}; it must be above 0 and below 1.")
    asked = _Question(
        baseline=baseline,
        distance=margin if effect is None else abs(effect),
        difference=effect or 0.0,
        weights=tuple(weights),
    )
    shares = _Error(error / (len(weights) - 1), 2 if margin is None else 1, power)
    return ExperimentPlan(
        mean=baseline.mean,
        sd=baseline.sd,
        source=baseline.source,
        effect=effect,
        margin=margin,
        weights=tuple(weights),
        units_per_day=None if traffic is None else traffic[0],
        coverage=1.0 if traffic is None else traffic[1],
        power=power,
        error=error,
        sizes=tuple(
            _size(design, asked, shares.reach(design), units, traffic) for design in Design
        ),
        plop_version=__version__,
        notes=_notes(baseline, weights),
    )


@dataclass(frozen=True, slots=True)
class _Error:
    """The error of one comparison, its number of sides, and the power."""

    error: float
    sides: int
    power: float

    def reach(self, design: Design) -> float:
        """Return how many standard errors a difference must have at the last look."""
        if design is Design.FIXED:
            quantile = -float(special.ndtri(self.error / self.sides))
        else:
            bound = two_sided_quantile if self.sides == 2 else one_sided_quantile
            quantile = float(bound(1, error=self.error, planned=1))
        return quantile + float(special.ndtri(self.power))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """The distance that is to be shown, and the true difference at which it is to be."""

    baseline: Baseline
    distance: float | None
    difference: float
    weights: tuple[float, ...]

    def error_of(self, total: float) -> float:
        """Return the standard error of the difference with so many units in all arms."""
        control, arm = self.weights[0], min(self.weights[1:])
        mine = _variance(self.baseline, self.difference)
        return math.sqrt((self.baseline.sd**2 / control + mine / arm) / total)


def _size(
    design: Design,
    asked: _Question,
    reach: float,
    units: int | None,
    traffic: tuple[float, float] | None,
) -> SampleSize:
    """Return the number of units for a distance, or the distance for a number of units."""
    total = _total(asked, reach) if units is None else units
    each = tuple(math.ceil(total * weight) for weight in asked.weights)
    days = None if traffic is None else math.ceil(sum(each) / (traffic[0] * traffic[1]))
    distance = reach * asked.error_of(total) if asked.distance is None else asked.distance
    return SampleSize(design=design, units=each, total=sum(each), days=days, detectable=distance)


def _total(asked: _Question, reach: float) -> int:
    distance = asked.distance or 0.0
    total = math.ceil((reach * asked.error_of(1) / distance) ** 2)
    if total > _MOST_UNITS:
        raise UsageError(
            f"A difference of {distance:g} would need more than {_MOST_UNITS:,} units. Plan for a "
            "larger one."
        )
    return max(total, 2)


def _variance(baseline: Baseline, difference: float) -> float:
    """Return the variance of a unit in an arm that differs from the baseline by so much."""
    if not baseline.binary:
        return baseline.sd**2
    share = baseline.mean + difference
    if not 0 <= share <= 1:
        raise UsageError(
            f"A share of {baseline.mean:g} cannot change by {difference:+g}; it would be {share:g}."
        )
    return share * (1 - share)


def _notes(baseline: Baseline, weights: Sequence[float]) -> tuple[str, ...]:
    notes = []
    if baseline.units is not None and baseline.units < 100:
        notes.append(f"the spread comes from {baseline.units} units only, so it may be far off")
    if len(weights) > 2:
        notes.append(f"the error is shared out among {len(weights) - 1} arms")
    return tuple(notes)


def _check(
    effect: float | None,
    margin: float | None,
    units: int | None,
    weights: Sequence[float],
    traffic: tuple[float, float] | None,
) -> None:
    if sum(one is not None for one in (effect, margin, units)) != 1:
        raise UsageError("Give exactly one of effect, margin and units.")
    if effect is not None and (not effect or not math.isfinite(effect)):
        raise UsageError(f"The effect is {effect:g}; it must be a finite number other than 0.")
    if margin is not None and not 0 < margin < math.inf:
        raise UsageError(f"The margin is {margin:g}; it must be above 0.")
    if units is not None and units < 2:
        raise UsageError(f"{units} units are too few; at least 2 are needed.")
    if len(weights) < 2 or min(weights) <= 0 or abs(math.fsum(weights) - 1) > 1e-9:
        raise UsageError(f"The weights {list(weights)} are not two or more that add up to 1.")
    if traffic is not None and (traffic[0] <= 0 or not 0 < traffic[1] <= 1):
        raise UsageError(
            f"The traffic is {traffic[0]:g} units a day, of which {traffic[1]:g} take part; both "
            "must be above 0, and the share at most 1."
        )
