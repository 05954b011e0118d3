"""From draws to the result of a variant: how often the choice changes, and how far the ranking.

Every draw is a resample of the texts. The choice of a draw is compared with the one that is made on
all texts, since that is the one which would be used; the ranking of a draw is compared with that of
the original texts of the same draw.

Shape letters: N texts, R draws, K types.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plop_lora.scoring.reference import exchange_margin
from plop_lora.statistics import exact_interval, kendall_taus, lowest, percentile_interval
from plop_lora.statistics.estimates import Floats
from plop_lora.variants.sample import Sample

DRAWS = 1000
"""Resamples of every variant."""


@dataclass(frozen=True, slots=True, eq=False)
class Base:
    """The measurement that every variant is compared with.

    Attributes:
        sample: The sums of all texts.
        top: Number of types to choose.
        tolerance: Difference in NFN that does not matter.
        seed: Seed of every draw.
    """

    sample: Sample
    top: int
    tolerance: float
    seed: int

    @property
    def point_1K(self) -> Floats:
        """NFN of each type over all texts."""
        return self.sample.point()

    @property
    def chosen(self) -> tuple[str, ...]:
        """The types of the lowest NFN, lowest first."""
        return self.named(self.point_1K[0], lowest(self.point_1K, self.top)[0])

    def named(self, values_K: Floats, chosen_K: NDArray[np.bool_]) -> tuple[str, ...]:
        """Return the names of the chosen types, lowest first."""
        order = np.argsort(values_K, kind="stable")
        return tuple(self.sample.types[index] for index in order if chosen_K[index])

    def generator(self) -> np.random.Generator:
        """Return the generator of a variant, so that none depends on which others there are."""
        return np.random.default_rng(self.seed)

    def by_type(self, values_K: Floats) -> dict[str, float]:
        """Return values by the name of their type; a type that was not seen has none."""
        pairs = zip(self.sample.types, values_K, strict=True)
        return {name: float(value) for name, value in pairs if np.isfinite(value)}


def resamples(size: int, generator: np.random.Generator) -> Floats:
    """Return how often each text is in each resample with replacement, [R, N]."""
    counts: Floats = generator.multinomial(size, np.full(size, 1 / size), DRAWS).astype(np.float64)
    return counts


def judge_point(
    base: Base, point_1K: Floats, draws_RK: Floats, base_draws_RK: Floats
) -> dict[str, Any]:
    """Return the fields of the result of a variant that has one value per type.

    Args:
        base: What it is compared with.
        point_1K: NFN of each type in the variant.
        draws_RK: The same in each draw.
        base_draws_RK: NFN on the original texts of each draw.
    """
    tau = kendall_taus(base.point_1K, point_1K)
    return _judged(
        base, point_1K[0], lowest(point_1K, base.top)[0], float(tau[0]), draws_RK,
        kendall_taus(base_draws_RK, draws_RK),
        lowest(base.point_1K, base.top),
    )  # fmt: skip


def judge_samples(
    base: Base, draws_RK: Floats, *, against_RK: Floats | None = None
) -> dict[str, Any]:
    """Return the fields of the result of a variant that is a set of samples.

    Args:
        base: What the samples are compared with.
        draws_RK: NFN of each type in each sample.
        against_RK: NFN in the sample that each is compared with; by default on all texts.
    """
    compared_RK = base.point_1K if against_RK is None else against_RK
    taus_R = kendall_taus(compared_RK, draws_RK)
    tau = float(np.nanmedian(taus_R)) if not np.isnan(taus_R).all() else float("nan")
    patterns_XK, counts_X = np.unique(lowest(draws_RK, base.top), axis=0, return_counts=True)
    return _judged(
        base, draws_RK.mean(axis=0), patterns_XK[counts_X.argmax()], tau, draws_RK, taus_R,
        lowest(compared_RK, base.top),
    )  # fmt: skip


def _judged(
    base: Base,
    values_K: Floats,
    chosen_K: NDArray[np.bool_],
    tau: float,
    draws_RK: Floats,
    taus_R: Floats,
    usual_RK: NDArray[np.bool_],
) -> dict[str, Any]:
    choices_RK = lowest(draws_RK, base.top)
    same_R = (choices_RK == usual_RK).all(axis=1)
    share = exact_interval(float(same_R.mean()), len(same_R))
    bounds = None if np.isnan(tau) else percentile_interval(taus_R)
    chosen = base.named(values_K, chosen_K)
    rival, margin = _rival(base, values_K, chosen, choices_RK)
    return {
        "nfn": base.by_type(values_K),
        "chosen": chosen,
        "same_choice": set(chosen) == set(base.chosen),
        "rival": rival,
        "margin": margin,
        "near_tie": margin is not None and margin <= base.tolerance,
        "tau": None if np.isnan(tau) else tau,
        "tau_low": None if bounds is None else min(bounds[0], tau),
        "tau_high": None if bounds is None else max(bounds[1], tau),
        "draws": len(same_R),
        "unchanged": share.value,
        "unchanged_low": share.low,
        "unchanged_high": share.high,
    }


def _rival(
    base: Base, values_K: Floats, chosen: tuple[str, ...], choices_RK: NDArray[np.bool_]
) -> tuple[tuple[str, ...], float | None]:
    """Return the other choice that comes nearest, and the NFN by which its types differ."""
    usual, values = set(base.chosen), base.by_type(values_K)
    if set(chosen) != usual:
        return chosen, exchange_margin(base.by_type(base.point_1K[0]), values, usual, set(chosen))
    patterns_XK, counts_X = np.unique(choices_RK, axis=0, return_counts=True)
    for index in np.argsort(-counts_X, kind="stable"):
        rival = base.named(values_K, patterns_XK[index])
        here, there = usual - set(rival), set(rival) - usual
        if there:
            known = (here | there) <= values.keys()
            apart = max(values[n] for n in there) - min(values[n] for n in here) if known else None
            return rival, apart
    return (), None
