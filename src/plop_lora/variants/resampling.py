"""Variants that need no forward pass: samples and mixtures of the texts that are measured already.

Each returns the fields of its results by their setting. Shape letters: S sites, N texts, R draws,
K types.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from plop_lora.statistics.estimates import Floats
from plop_lora.variants.judging import DRAWS, Base, judge_point, judge_samples, resamples
from plop_lora.variants.sample import Sample

FEWEST_TEXTS = 8
SHARES = (0.10, 0.25, 0.50)
"""Shares of general text in the mixtures."""
MAJORITY = 0.9
"""Share of the weight of the group that an imbalance favours."""
MOST_GROUPS = 8
"""Groups that are favoured in turn, the largest first."""

Found = Iterator[tuple[str, int, dict[str, Any]]]
"""Setting, number of texts and fields of each result."""


def bootstrap(base: Base) -> Found:
    """Draw as many texts again, with replacement."""
    drawn_RN = resamples(base.sample.size, base.generator())
    yield "", base.sample.size, judge_samples(base, base.sample.values(drawn_RN))


def half_splits(base: Base) -> Found:
    """Compare one random half of the texts with the other."""
    half = base.sample.size // 2
    places_RN = _shuffled(base)
    first_RK = base.sample.values((places_RN < half).astype(np.float64))
    second_RK = base.sample.values((places_RN >= base.sample.size - half).astype(np.float64))
    yield f"{half} texts", half, judge_samples(base, first_RK, against_RK=second_RK)


def fewer_texts(base: Base) -> Found:
    """Draw 8, 16, 32, … of the texts, without replacement."""
    places_RN, size = _shuffled(base), FEWEST_TEXTS
    while size < base.sample.size:
        few_RN = (places_RN < size).astype(np.float64)
        yield f"{size} texts", size, judge_samples(base, base.sample.values(few_RN))
        size *= 2


def imbalance(base: Base, groups: Sequence[str]) -> Found:
    """Weight the texts so that all groups count the same, or one has 90 % of the weight.

    Args:
        base: What it is compared with.
        groups: Group of each text, of which there are at least two.
    """
    sizes = Counter(groups)
    equal_N = np.array([1 / sizes[group] for group in groups])
    yield "balanced", base.sample.size, _weighted(base, equal_N)
    for favoured, size in sizes.most_common(MOST_GROUPS):
        others = base.sample.size - size
        weights_N = np.array([
            MAJORITY / size if group == favoured else (1 - MAJORITY) / others for group in groups
        ])  # fmt: skip
        yield (
            f"{MAJORITY:.0%} {favoured}".replace("%", " %"),
            base.sample.size,
            _weighted(base, weights_N),
        )


def general_mixture(base: Base, general: Sample) -> Found:
    """Give the general text a share of the weight."""
    for share in SHARES:
        fields = _mixed(base, general, share)
        yield f"{share * 100:.0f} %", base.sample.size + general.size, fields


def general_text(base: Base, general: Sample) -> Found:
    """Take the general text alone."""
    yield "", general.size, _mixed(base, general, 1.0)


def measured(base: Base, variant: Sample, *, of: Sample | None = None) -> dict[str, Any]:
    """Return the fields of a variant that was measured.

    Args:
        base: What it is compared with.
        variant: Its measurement.
        of: The original texts of the variant, in its order. A draw then has the same texts of
            both. None compares two independent samples.
    """
    generator = base.generator()
    original = base.sample if of is None else of
    drawn_RN = resamples(original.size, generator)
    own_RN = resamples(variant.size, generator) if of is None else drawn_RN
    return judge_point(base, variant.point(), variant.values(own_RN), original.values(drawn_RN))


def _shuffled(base: Base) -> np.typing.NDArray[np.int64]:
    """Return the place of each text in a random order, [R, N]."""
    places_RN = np.tile(np.arange(base.sample.size), (DRAWS, 1))
    return base.generator().permuted(places_RN, axis=1)


def _weighted(base: Base, weights_N: Floats) -> dict[str, Any]:
    """Give every text a weight; a draw has the same texts with and without it."""
    drawn_RN = resamples(base.sample.size, base.generator())
    return judge_point(
        base, base.sample.values(weights_N[None]), base.sample.values(drawn_RN * weights_N),
        base.sample.values(drawn_RN),
    )  # fmt: skip


def _mixed(base: Base, general: Sample, share: float) -> dict[str, Any]:
    """Mix the means of every site, so that the general text has a share of the tokens."""
    generator = base.generator()
    drawn_RN = resamples(base.sample.size, generator)
    general_RN = resamples(general.size, generator)

    def mixed(weights_RN: Floats, others_RN: Floats) -> Floats:
        own_SR = base.sample.site_means(weights_RN)
        other_SR = general.site_means(others_RN)
        return base.sample.of_types(
            other_SR if share == 1 else (1 - share) * own_SR + share * other_SR
        )

    point_1K = mixed(np.ones((1, base.sample.size)), np.ones((1, general.size)))
    return judge_point(base, point_1K, mixed(drawn_RN, general_RN), base.sample.values(drawn_RN))
