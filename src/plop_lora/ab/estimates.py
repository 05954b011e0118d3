"""The value of a metric in every arm, with the influence of each unit on it.

Everything after this is the same for means, shares and ratios, adjusted or not: a value is a sum
of influences of independent units.

Shape letters: U units of one arm. Imports numpy; no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plop_lora.ab.observations import UnitValues
from plop_lora.records import Metric
from plop_lora.records.experiment import RATIO, PerUnit
from plop_lora.statistics import Estimate, adjusted, mean_estimate, ratio_estimate

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class ArmEstimates:
    """A metric in all arms.

    Attributes:
        raw: Arm → the value without any adjustment; None where no unit has one.
        arms: Arm → the estimate that is compared; None where no unit has a value.
        missing: Arm → number of units without a value.
        reduction: Share of the variance that values from before took away; None without `cuped`.
    """

    raw: Mapping[str, float | None]
    arms: Mapping[str, Estimate | None]
    missing: Mapping[str, int]
    reduction: float | None


def estimate_arms(metric: Metric, arms: Mapping[str, UnitValues]) -> ArmEstimates:
    """Return the value of a metric in every arm.

    Args:
        metric: Metric.
        arms: Arm → the values of its units.
    """
    known = {arm: _known(metric, values) for arm, values in arms.items()}
    plain = {
        arm: _estimate(metric, values, known[arm]) if known[arm].any() else None
        for arm, values in arms.items()
    }
    estimates, reduction = plain, None
    if metric.cuped and any(one is not None for one in plain.values()):
        estimates, reduction = _adjusted(metric, arms, known, plain)
    return ArmEstimates(
        raw={arm: None if one is None else one.value for arm, one in plain.items()},
        arms=estimates,
        missing={arm: int((~known_U).sum()) for arm, known_U in known.items()},
        reduction=reduction,
    )


def _known(metric: Metric, values: UnitValues) -> NDArray[np.bool_]:
    """Say of each unit whether it has all values of a metric."""
    found = np.ones(values.units, dtype=np.bool_)
    for name in metric.values:
        found &= values.counts[name] > 0
    return found


def _estimate(metric: Metric, values: UnitValues, known_U: NDArray[np.bool_]) -> Estimate | None:
    """Return the mean over units or the ratio of sums; None for a ratio to 0."""
    if metric.kind is RATIO:
        over_U = values.sums[metric.numerator][known_U]
        under_U = values.sums[metric.denominator][known_U]
        return ratio_estimate(over_U[None], under_U[None]) if under_U.sum() else None
    sums_U = values.sums[metric.name][known_U]
    if metric.per_unit is PerUnit.SUM:
        return mean_estimate(sums_U)
    return mean_estimate(sums_U / values.counts[metric.name][known_U])


def _adjusted(
    metric: Metric,
    arms: Mapping[str, UnitValues],
    known: Mapping[str, NDArray[np.bool_]],
    plain: Mapping[str, Estimate | None],
) -> tuple[dict[str, Estimate | None], float]:
    """Return the estimates without the spread that values from before predict."""
    there = {arm: one for arm, one in plain.items() if one is not None}
    covariates = _covariates(metric, [arms[arm] for arm in there], [known[arm] for arm in there])
    found = adjusted(list(there.values()), covariates)
    better = dict(zip(there, found.arms, strict=True))
    return {arm: better.get(arm) for arm in plain}, found.reduction


def _covariates(
    metric: Metric, arms: list[UnitValues], known: list[NDArray[np.bool_]]
) -> list[Floats]:
    """Return one number of each unit from before, NaN where there is none.

    Of a ratio it is numerator - R * denominator, where R is the ratio of all units together. R is
    the same number for all arms, so that no difference between them is lost.
    """
    if metric.kind is not RATIO:
        pairs = zip(arms, known, strict=True)
        return [values.before[metric.name][known_U] for values, known_U in pairs]
    parts = [
        (values.before[metric.numerator][known_U], values.before[metric.denominator][known_U])
        for values, known_U in zip(arms, known, strict=True)
    ]
    total = sum(float(np.nansum(over_U + 0 * under_U)) for over_U, under_U in parts)
    base = sum(float(np.nansum(under_U + 0 * over_U)) for over_U, under_U in parts)
    ratio = total / base if base else 0.0
    return [over_U - ratio * under_U for over_U, under_U in parts]
