"""The power of a verification: how often it would confirm, or find a better rival. No torch.

Verifications are simulated from spreads that were measured, and go through the same looks and
rules as a real one. What is promised is therefore the power of the verdict, with all its rivals,
its margin and its looks, and not that of one comparison.

Shape letters: D draws, A arms, R rivals, S seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from plop_lora.records.verification import BEATEN, Look, Verdict
from plop_lora.statistics import (
    POWER,
    Components,
    Interval,
    SeedVariance,
    SeedVariances,
    seed_variances,
)
from plop_lora.study.compare import Paired
from plop_lora.verification.course import Ended, follow
from plop_lora.verification.decide import (
    SHORTLIST,
    ArmComparison,
    Decision,
    compared,
    decision_of,
)

DRAWS = 200
_MOST_DOUBLINGS = 12
_HALVINGS = 4
_REFERENCE = "shortlist"

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Simulated:
    """What simulated verifications came to.

    Attributes:
        verdicts: one for each.
        trials: how many deciding trials each one took.
    """

    verdicts: tuple[Verdict, ...]
    trials: tuple[int, ...]

    def share(self, verdict: Verdict) -> float:
        """Return the share of a verdict."""
        return fmean(found == verdict for found in self.verdicts)


@dataclass(frozen=True, slots=True)
class Setting:
    """What a simulated verification is made of.

    Attributes:
        looks: at how many seeds it is judged.
        spread: standard deviations of the difference of two arms.
        rows: that it reports on; None for an outcome that is no mean over rows.
        rivals: how many there are.
        margin: loss that is accepted.
    """

    looks: tuple[Look, ...]
    spread: Components
    rows: int | None
    rivals: int
    margin: float


def simulate(
    setting: Setting,
    gains_R: Sequence[float] = (),
    *,
    seed_sds_A: Sequence[float] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Simulated:
    """Simulate verifications.

    Args:
        setting: of each.
        gains_R: how much better each rival truly is; those that are not given are equal.
        seed_sds_A: standard deviation over seeds of each arm, the shortlist first, in place of
            that of the setting.
        draws: how many.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    arms, most = setting.rivals + 1, setting.looks[-1].seeds
    means_A = np.zeros(arms)
    means_A[1 : 1 + len(gains_R)] = gains_R
    sds_A = np.full(arms, setting.spread.seed_sd / 2**0.5)
    if seed_sds_A is not None:
        sds_A = np.asarray(seed_sds_A, dtype=np.float64)
    rows = setting.rows or 0
    noise = setting.spread.noise_sd / (2 * rows) ** 0.5 if rows else 0.0
    items = setting.spread.item_sd / (2 * rows) ** 0.5 if rows else 0.0
    at_seeds_DAS = rng.standard_normal((draws, arms, most)) * np.hypot(sds_A, noise)[:, None]
    at_seeds_DAS += means_A[:, None]
    at_items_DA = rng.standard_normal((draws, arms)) * items
    studies = _Studies(setting, at_seeds_DAS, at_items_DA)
    found = [studies.judge(draw) for draw in range(draws)]
    return Simulated(tuple(verdict for verdict, _ in found), tuple(trials for _, trials in found))


@dataclass(frozen=True, eq=False)
class _Studies:
    """The outcomes of all draws: what arms reached by seed, and what their rows add."""

    setting: Setting
    at_seeds_DAS: Floats
    at_items_DA: Floats

    @cached_property
    def variances(self) -> dict[int, SeedVariances | None]:
        """The seed variances of all draws at once, by the number of seeds of a look."""
        differences_DRS = self.at_seeds_DAS[:, :1] - self.at_seeds_DAS[:, 1:]
        return {
            look.seeds: seed_variances(differences_DRS[..., : look.seeds])
            for look in self.setting.looks
        }

    def judge(self, draw: int) -> tuple[Verdict, int]:
        """Return the verdict of one draw, and how many trials it took."""
        setting = self.setting
        seeds = dict.fromkeys(range(setting.rivals + 1), 0)

        def decide_at(look: Look, ended: Ended) -> Decision:
            open_arms = [arm for arm in seeds if not arm or str(arm) not in ended]
            seeds.update(dict.fromkeys(open_arms, look.seeds))
            rows = [ArmComparison(_REFERENCE, None, look.seeds, verdict=SHORTLIST)]
            for arm in range(1, setting.rivals + 1):
                rows.append(
                    ended.get(str(arm))
                    or compared(str(arm), self.pair(draw, arm, look.seeds), look, setting.margin)
                )
            return decision_of(rows)

        course = follow(setting.looks, setting.margin, decide_at)
        assert course.decision is not None, "no trial is missing"
        return course.decision.verdict, sum(seeds.values())

    def pair(self, draw: int, arm: int, seeds: int) -> Paired:
        """Return the shortlist compared with one rival."""
        values_AS, items_A = self.at_seeds_DAS[draw], self.at_items_DA[draw]
        differences_S = (values_AS[0] - values_AS[arm])[:seeds]
        value = float(differences_S.mean() + items_A[0] - items_A[arm])
        own = SeedVariance(float(differences_S.var(ddof=1)), seeds - 1.0)
        variances = self.variances[seeds]
        moderated, cautious = (own, own) if variances is None else variances.of(draw, arm - 1)
        rows, spread = self.setting.rows, self.setting.spread
        of_items = spread.item_sd**2 / rows if rows else 0.0

        def interval(variance: SeedVariance) -> Interval:
            return Interval(
                value, variance.value / seeds, of_items, variance.freedom, (rows or 2) - 1
            )

        return Paired(interval(moderated), interval(cautious), spread, seeds, rows, own)


def detectable(setting: Setting, *, power: float = POWER, draws: int = DRAWS) -> float | None:
    """Return by how much one rival must be better to be found with a power.

    Returns:
        In the unit of what decides, to about 5 %; None where nothing is found.
    """

    def is_found(gain: float) -> bool:
        return simulate(setting, [gain], draws=draws).share(BEATEN) >= power

    low, high = 0.0, 2 * setting.margin or setting.spread.seed_sd
    for _ in range(_MOST_DOUBLINGS):
        if is_found(high):
            break
        low, high = high, 2 * high
    else:
        return None
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if is_found(middle) else (middle, high)
    return high
