"""The stopping rule of scoring: whether the choice is decided. Pure.

The choice is the `top` groups of lowest NFN. It is decided when no group left out is better than
a chosen one by more than the tolerance, with the confidence asked for, however often one looks.

The total error probability, 1 − confidence, is divided as follows:

1. A tenth on order. A group that is strictly better than enough others is in for sure, one that
   enough others beat is out for sure. Where the choice is wrong, its worst member should be out
   and the best group left out should be in, so neither is sure: only groups that are still
   contested can be exchanged wrongly.
2. The rest on the pairs of a contested chosen and a contested left-out group, in equal parts.

That the number of contested pairs depends on the data is not covered by the theorem behind
`sequential_margin`. A wrong stop needs every pair at once to look right, which leaves a margin:
the simulations of the tests hold the errors, 1 % for well-behaved texts, where 5 % are allowed.
A rare kind of long texts breaks that: with one such text in twenty, up to 39 % of the runs of
`benchmarks/population.py` stop with a wrong choice, with one in ten 16 %. Interleaved groups bring
this to none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plop_lora.records import BoundaryPair
from plop_lora.statistics import CONFIDENCE, Estimate, sequential_margin

LEAST = 16
"""Sequences before the first look: a kind of text that makes up a fifth of the data is missing
from 16 of them 3 times in 100, from 8 of them 17 times."""

EXPECTED = 40
"""The number of sequences at which the bounds are tightest."""

ORDER_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class StopSettings:
    """The number of groups to choose, the tolerance (in NFN) and the confidence (probability)."""

    top: int
    tolerance: float
    confidence: float = CONFIDENCE


@dataclass(frozen=True, slots=True)
class StopDecision:
    """The current choice; `ties` and `undecided` are pairs whose order is not certain.

    `leaves_out` says whether there is any type outside the choice.
    """

    chosen: tuple[str, ...]
    decided: bool
    leaves_out: bool = True
    ties: tuple[BoundaryPair, ...] = ()
    undecided: tuple[BoundaryPair, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class _Gaps:
    """Paired gaps between K groups, column minus row, and their spread over sequences."""

    gap_KK: NDArray[np.float64]
    spread_KK: NDArray[np.float64]
    sequences: int

    def radius_KK(self, level: float) -> NDArray[np.float64]:
        """Half the width of the interval at a given one-sided error probability."""
        margin = sequential_margin(self.sequences, level, expected=EXPECTED)
        # Two groups that differ by the same amount in every sequence have no spread.
        return np.where(self.spread_KK > 0, margin, 0.0) * np.where(
            self.spread_KK > 0, self.spread_KK, 1.0
        )


def examine(estimates: Mapping[str, Estimate], rule: StopSettings) -> StopDecision:
    """Return whether the choice is decided by the estimates of all eligible groups so far.

    Args:
        estimates: Group → NFN with the influence of each sequence, over the same sequences.
        rule: Settings of the decision.

    Returns:
        The choice, which is undecided below `LEAST` sequences. If all groups are chosen there is
        nothing to decide, and the choice is undecided as well, so that all sequences are scored.
    """
    names = sorted(estimates, key=lambda name: (estimates[name].value, name))
    chosen = tuple(names[: rule.top])
    sequences = estimates[names[0]].influence_S.size if names else 0
    if len(names) <= rule.top or sequences < LEAST:
        return StopDecision(chosen, decided=False, leaves_out=len(names) > rule.top)
    gaps = _gaps([estimates[name] for name in names], sequences)
    inside, outside = _contested(gaps, rule)
    if not inside or not outside:
        return StopDecision(chosen, decided=True)
    level = (1 - rule.confidence) * (1 - ORDER_SHARE) / (len(inside) * len(outside))
    radius_KK = gaps.radius_KK(level)
    pairs = [
        BoundaryPair(
            chosen=names[row],
            left_out=names[column],
            difference=float(gaps.gap_KK[row, column]),
            low=float(gaps.gap_KK[row, column] - radius_KK[row, column]),
            high=float(gaps.gap_KK[row, column] + radius_KK[row, column]),
        )
        for row in inside
        for column in outside
    ]
    undecided = tuple(pair for pair in pairs if not pair.low > -rule.tolerance)
    ties = tuple(pair for pair in pairs if -rule.tolerance < pair.low <= 0)
    return StopDecision(chosen, not undecided, ties=ties, undecided=undecided)


def _gaps(estimates: list[Estimate], sequences: int) -> _Gaps:
    values_K = np.array([estimate.value for estimate in estimates])
    influence_KS = np.array([estimate.influence_S for estimate in estimates])
    differences_KKS = influence_KS[None] - influence_KS[:, None]
    return _Gaps(values_K[None] - values_K[:, None], differences_KKS.std(axis=2, ddof=1), sequences)


def _contested(gaps: _Gaps, rule: StopSettings) -> tuple[list[int], list[int]]:
    """Return the chosen and the other groups whose place in or outside the choice is uncertain."""
    groups = len(gaps.gap_KK)
    level = (1 - rule.confidence) * ORDER_SHARE / (groups * (groups - 1))
    better_KK = gaps.gap_KK - gaps.radius_KK(level) > 0
    surely_in_K = better_KK.sum(axis=1) >= groups - rule.top
    surely_out_K = better_KK.sum(axis=0) >= rule.top
    inside = [row for row in range(rule.top) if not surely_in_K[row]]
    outside = [row for row in range(rule.top, groups) if not surely_out_K[row]]
    return inside, outside
