"""The looks of a verification: at how many seeds it is judged, and what error each look may make.

The fixed design has one look, at all seeds. The sequential design looks after every further seed,
and an arm that is settled is trained no further. Both make false claims equally often. Pure; no
torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from scipy import special

from plop_lora.records.verification import Look
from plop_lora.statistics import Interval, looks, nominal_levels
from plop_lora.study.compare import Paired

RISK = 0.05
"""How often a verification may confirm, or name a better rival, wrongly."""
FUTILE = 0.1
"""The chance of being settled with all seeds below which an arm is not trained further."""


def planned_looks(seeds: int, rivals: int, *, sequential: bool) -> tuple[Look, ...]:
    """Return the looks of a design, fixed before the first trial.

    Args:
        seeds: of an arm that is not settled before.
        rivals: of the shortlist, those included that turn out to be hopeless.
        sequential: whether to look before all seeds are there.
    """
    at = looks(seeds) if sequential else (seeds,)
    single, corrected = nominal_levels(at, RISK), nominal_levels(at, RISK / max(1, rivals))
    return tuple(
        Look(seeds=count, error=error, corrected=smaller)
        for count, error, smaller in zip(at, single, corrected, strict=True)
    )


@dataclass(frozen=True, slots=True)
class Bounds:
    """What decides about a rival: the difference lies between `low` and `high`.

    `low` is shared by all rivals: with an error in one of 20 studies, one of them is below its own.
    Above 0 it is corrected for the number of rivals, as `high` is.
    """

    low: float
    high: float


def bounds_at(paired: Paired, look: Look) -> Bounds:
    """Return between which bounds the difference to a rival lies, at a look.

    Each has an error of its own, so this is no interval of one level. A rival is better where
    `high` lies below minus the margin; the shortlist is not worse where `low` lies above it.
    """
    sure = paired.interval.lower_bound(1 - look.corrected)
    cautious = paired.cautious.lower_bound(1 - look.error)
    return Bounds(
        low=sure if sure > 0 else min(cautious, 0.0),
        high=paired.interval.upper_bound(1 - look.corrected),
    )


# --------------------------------------------------------------------------- what is still possible


@dataclass(frozen=True, slots=True)
class Chance:
    """How likely a rival is settled at a later look, if its difference goes on as it is.

    `better` counts the claim that the rival is better, `within` that the shortlist is not worse.
    """

    better: float
    within: float

    @property
    def settled(self) -> float:
        """The chance of either."""
        return min(1.0, self.better + self.within)


def chance_of(now: Paired, then: Paired, margin: float, look: Look) -> Chance:
    """Return the chance that a rival is settled by what it is expected to be at a look.

    The difference then is predicted with the uncertainty of the present one and of its spread
    (Student's t), so that a promise of 80 % is kept in 80 %.
    """
    reach_low = then.cautious.margin(1 - look.error)
    reach_high = then.interval.margin(1 - look.corrected)
    value, freedom = now.interval.value, now.interval.seed_freedom
    spread = math.sqrt(max(0.0, now.interval.error**2 - then.interval.error**2))
    if not spread:
        return Chance(float(value + reach_high < -margin), float(value - reach_low >= -margin))
    return Chance(
        better=float(special.stdtr(freedom, -(value + reach_high + margin) / spread)),
        within=float(special.stdtr(freedom, (value - reach_low + margin) / spread)),
    )


def with_seeds(paired: Paired, seeds: int) -> Paired:
    """Return what a comparison is expected to be with further seeds."""

    def grown(interval: Interval) -> Interval:
        return replace(
            interval,
            seed_variance=interval.seed_variance * paired.seeds / seeds,
            seed_freedom=interval.seed_freedom + seeds - paired.seeds,
        )

    return replace(
        paired, seeds=seeds, interval=grown(paired.interval), cautious=grown(paired.cautious)
    )


def with_rows(paired: Paired, rows: int) -> Paired:
    """Return what a comparison is expected to be with further rows."""

    def grown(interval: Interval) -> Interval:
        share = (paired.items or rows) / rows
        return replace(
            interval, item_variance=interval.item_variance * share, item_freedom=rows - 1.0
        )

    return replace(
        paired, items=rows, interval=grown(paired.interval), cautious=grown(paired.cautious)
    )
