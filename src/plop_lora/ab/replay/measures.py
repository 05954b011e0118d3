"""Compare the arms of a replay pair by pair. No torch.

Shares are compared by McNemar's exact test where every unit has one prompt. All else, and shares
where units have several prompts, is compared by the mean of the differences with an error over
units. The p-values are adjusted by Holm's step-down over all measures of the replay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from plop_lora.ab.replay.metrics import ReplayMetric, Values
from plop_lora.gating.bounds import gain_of
from plop_lora.gating.decide import verdict_of
from plop_lora.records import ReplayMeasure
from plop_lora.statistics import holm

Floats = NDArray[np.float64]


def compared(
    metric: ReplayMetric,
    arm: str,
    values: tuple[Values, Values],
    units: Sequence[str],
    margin: float | None,
) -> ReplayMeasure | None:
    """Compare one quantity of an arm with the control's, over the prompts on which both have it.

    Args:
        metric: The quantity.
        arm: Name of the arm.
        values: Values of the control and of the arm, for each prompt.
        units: Unit of each prompt.
        margin: By how much the arm may be worse, if that is asked.

    Returns:
        The comparison, with a p that is not adjusted; None where no prompt has both values.
    """
    rows = [
        (before, after, unit)
        for before, after, unit in zip(*values, units, strict=True)
        if before is not None and after is not None
    ]
    if not rows:
        return None
    control_I, arm_I = (np.asarray([row[side] for row in rows], dtype=float) for side in (0, 1))
    own = [row[2] for row in rows]
    count = len(set(own))
    differences_I = arm_I - control_I
    sign = 1 if metric.higher_is_better else -1
    gain = gain_of(sign * differences_I, own, binary=metric.binary)
    ends = sorted(sign * end + 0.0 for end in gain.ends) if gain and count > 1 else (None, None)
    alone = count == len(rows)
    return ReplayMeasure(
        arm=arm,
        metric=metric.name,
        higher_is_better=metric.higher_is_better,
        prompts=len(rows),
        units=count,
        control=float(control_I.mean()),
        value=float(arm_I.mean()),
        difference=float(differences_I.mean()),
        low=ends[0],
        high=ends[1],
        p=_sign_p(differences_I) if metric.binary and alone else _mean_p(differences_I, own),
        margin=margin,
        verdict=None if margin is None else verdict_of(gain, count, -margin, 0.0),
    )


def _sign_p(differences_I: Floats) -> float:
    """Return the exact p of "of those that changed, half go either way"; McNemar's for shares."""
    from scipy.stats import binomtest

    gained, lost = int((differences_I > 0).sum()), int((differences_I < 0).sum())
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def _mean_p(differences_I: Floats, units: Sequence[str]) -> float | None:
    """Return the p of a mean difference of 0; None for one unit.

    Differences that are all the same show no spread, so only their sign is tested.
    """
    found = gain_of(differences_I, units, binary=False)
    if found is None:
        return None
    if not found.interval.error:
        return _sign_p(np.full(len(set(units)), found.interval.value))
    return found.interval.p


def adjusted(measures: Sequence[ReplayMeasure]) -> tuple[ReplayMeasure, ...]:
    """Return measures whose p-values are adjusted for how many there are."""
    known: Mapping[int, float] = {
        place: one.p for place, one in enumerate(measures) if one.p is not None
    }
    found = dict(zip(known, holm(list(known.values())), strict=True))
    return tuple(replace(one, p=found.get(place)) for place, one in enumerate(measures))
