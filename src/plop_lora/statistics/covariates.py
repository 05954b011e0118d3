"""Adjustment of an estimate by what was known of each unit before the study (CUPED).

Much of the spread of a metric is that of the units themselves: who used a service much last week
uses it much this week. A value from before the study cannot depend on the arm, so what it predicts
can be taken away from each unit without moving the expected difference of two arms. The variance
falls by the square of the correlation.

Shape letters: S units of one arm. Imports numpy; no torch.

Source: Deng, Xu, Kohavi, Walker, "Improving the Sensitivity of Online Controlled Experiments by
Utilizing Pre-Experiment Data", WSDM 2013. Here theta comes from the deviations from the means of
the arms, so that a difference between the arms is not taken for a relation with the covariate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plop_lora.statistics.estimates import Estimate

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Adjusted:
    """Estimates of all arms after the adjustment.

    Attributes:
        arms: Estimates in the order in which they were given.
        theta: Slope of the influences on the covariate, the same for all arms.
        reduction: Share of the variance that the adjustment has taken away.
    """

    arms: tuple[Estimate, ...]
    theta: float
    reduction: float


def adjusted(arms: Sequence[Estimate], covariates: Sequence[Floats]) -> Adjusted:
    """Adjust the estimates of all arms by a covariate with one slope.

    Args:
        arms: Estimate of each arm, with the influence of each of its units.
        covariates: For each arm, the covariate of its units in the same order. NaN stands for a
            unit without one, which is left as it is.

    Returns:
        The estimates as they are, with a slope of 0, if the covariate does not vary.
    """
    known = [~np.isnan(covariate_S) for covariate_S in covariates]
    pooled = _mean(np.concatenate([c_S[k_S] for c_S, k_S in zip(covariates, known, strict=True)]))
    filled = [np.where(k_S, c_S, pooled) for c_S, k_S in zip(covariates, known, strict=True)]
    means = [_mean(filled_S) for filled_S in filled]
    centred = [filled_S - mean for filled_S, mean in zip(filled, means, strict=True)]
    square = sum(float(z_S @ z_S) for z_S in centred)
    if not square:
        return Adjusted(tuple(arms), 0.0, 0.0)
    product = sum(float(z_S @ arm.influence_S) for z_S, arm in zip(centred, arms, strict=True))
    theta = product / square
    total = sum(float(arm.influence_S @ arm.influence_S) for arm in arms)
    return Adjusted(
        arms=tuple(
            Estimate(arm.value - theta * (mean - pooled), arm.influence_S - theta * z_S)
            for arm, mean, z_S in zip(arms, means, centred, strict=True)
        ),
        theta=theta,
        reduction=product * theta / total if total else 0.0,
    )


def _mean(values_S: Floats) -> float:
    return float(values_S.mean()) if values_S.size else 0.0
