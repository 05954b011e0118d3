"""Intervals hold what they promise."""

from __future__ import annotations

import numpy as np
import pytest

from plop_lora.records import UNDECIDED
from plop_lora.statistics import (
    kendall_tau,
    paired_difference,
    ratio_estimate,
    unpaired_difference,
)


def _sample(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Per-sequence sums and counts of two sites whose true mean NFN is 1.2 and 0.9."""
    counts = rng.integers(5, 80, size).astype(float)
    level = 0.1 * rng.standard_normal(size)
    means = np.array([1.2, 0.9])[:, None] + level + 0.05 * rng.standard_normal((2, size))
    return means * counts, np.tile(counts, (2, 1))


@pytest.mark.slow
def test_intervals_cover_the_truth_in_95_of_100() -> None:
    """Token weights make this a ratio; an interval for a plain mean would miss."""
    rng = np.random.default_rng(0)
    hits = paired_hits = 0
    for _ in range(1500):
        sums, counts = _sample(rng, 40)
        low, high = ratio_estimate(sums, counts).interval()
        hits += low <= 1.05 <= high
        first, second = (ratio_estimate(sums[i : i + 1], counts[i : i + 1]) for i in (0, 1))
        gap = paired_difference(second, first)
        paired_hits += gap.low <= -0.3 <= gap.high
    assert 0.93 < hits / 1500 < 0.97
    assert 0.93 < paired_hits / 1500 < 0.97


def test_pairing_narrows() -> None:
    sums, counts = _sample(np.random.default_rng(1), 60)
    first, second = (ratio_estimate(sums[i : i + 1], counts[i : i + 1]) for i in (0, 1))
    paired, unpaired = paired_difference(second, first), unpaired_difference(second, first)
    assert paired.value == unpaired.value
    assert paired.high - paired.low < 0.7 * (unpaired.high - unpaired.low)


def test_one_sequence_has_no_interval() -> None:
    estimate = ratio_estimate(np.array([[2.0]]), np.array([[2.0]]))
    assert estimate.value == 1.0
    assert estimate.interval() == (None, None)
    assert paired_difference(estimate, estimate).verdict == UNDECIDED


def test_kendall_tau() -> None:
    assert kendall_tau([1, 2, 3], [1, 2, 3]) == pytest.approx(1)
    assert kendall_tau([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert kendall_tau([1], [1]) is None
    assert kendall_tau([1, 1], [1, 2]) is None
