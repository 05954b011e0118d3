"""Intervals over seeds and items hold what they promise, at the few seeds that people can pay."""

from __future__ import annotations

import math

import numpy as np
import pytest

from plop_lora.statistics import Interval, components, holm, paired_interval

SPREADS = {
    "items": (0.002, 0.4, 0.05),
    "seeds": (0.1, 0.05, 0.05),
    "noise": (0.0, 0.0, 0.4),
    "both": (0.03, 0.2, 0.1),
}
"""Standard deviations of seeds, items, and cells: what dominates the difference."""


def _table(
    rng: np.random.Generator, seeds: int, items: int, spread: tuple[float, float, float]
) -> np.ndarray:
    seed_sd, item_sd, noise_sd = spread
    return (
        seed_sd * rng.standard_normal((seeds, 1))
        + item_sd * rng.standard_normal((1, items))
        + noise_sd * rng.standard_normal((seeds, items))
    )


@pytest.mark.parametrize("seeds", [2, 3, 5, 8])
@pytest.mark.parametrize("name", SPREADS)
def test_the_interval_covers_the_truth(name: str, seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    repeats = 1500
    misses = above = 0
    for _ in range(repeats):
        interval = paired_interval(0.7 + _table(rng, seeds, 40, SPREADS[name]))
        misses += not interval.low <= 0.7 <= interval.high
        above += interval.lower_bound() > 0.7
    assert 1 - misses / repeats >= 0.935
    assert above / repeats <= 0.065


def test_binary_outcomes_are_covered() -> None:
    """Right or wrong answers of two arms that share hard items: skewed, with many zeros."""
    rng = np.random.default_rng(3)
    misses = 0
    for _ in range(1500):
        hard_I = rng.beta(1, 3, 60)
        first, second = rng.random((2, 3, 60)) < np.stack([hard_I, hard_I])[:, None]
        interval = paired_interval(first * 1.0 - second)
        misses += not interval.low <= 0 <= interval.high
    assert misses / 1500 <= 0.06


def test_one_number_of_degrees_of_freedom_would_miss() -> None:
    """The positive control: two seeds with Satterthwaite's degrees of freedom miss too often."""
    from scipy import stats

    rng = np.random.default_rng(0)
    misses = 0
    for _ in range(2000):
        interval = paired_interval(_table(rng, 2, 40, (0.06, 0.2, 0.0)))
        parts = (interval.seed_variance, interval.item_variance)
        freedom = sum(parts) ** 2 / (parts[0] ** 2 / 1 + parts[1] ** 2 / 39)
        misses += abs(interval.value) > stats.t.ppf(0.975, freedom) * interval.error
    assert misses / 2000 > 0.065


def test_many_seeds_and_items_give_the_normal_interval() -> None:
    """With 60 seeds and 400 items the width is that of the components."""
    table = _table(np.random.default_rng(1), 60, 400, (0.1, 0.4, 0.3))
    interval = paired_interval(table)
    parts = components(table)
    error = math.sqrt(
        parts.seed_sd**2 / 60 + parts.item_sd**2 / 400 + parts.noise_sd**2 / (60 * 400)
    )
    assert (interval.high - interval.low) / 2 == pytest.approx(1.98 * error, rel=0.04)


def test_components_are_found() -> None:
    parts = components(_table(np.random.default_rng(2), 300, 300, (0.2, 0.5, 0.3)))
    assert parts.seed_sd == pytest.approx(0.2, rel=0.1)
    assert parts.item_sd == pytest.approx(0.5, rel=0.1)
    assert parts.noise_sd == pytest.approx(0.3, rel=0.02)


def test_p_and_bounds_agree() -> None:
    rng = np.random.default_rng(5)
    for _ in range(60):
        interval = paired_interval(
            0.1 * rng.standard_normal() + _table(rng, 4, 30, (0.1, 0.2, 0.2))
        )
        outside = not interval.low <= 0 <= interval.high
        assert outside == (interval.p < 0.05)
        assert interval.p_above(0.0) + interval.p_below(0.0) == pytest.approx(1)
        for level in (0.9, 0.95, 0.9999):
            assert interval.p_above(interval.lower_bound(level)) == pytest.approx(1 - level)
            assert interval.p_below(interval.upper_bound(level)) == pytest.approx(1 - level)


@pytest.mark.parametrize(
    ("seed_variance", "item_variance", "freedom"), [(1.0, 0.0, 2.0), (0.0, 1.0, 29.0)]
)
def test_one_part_alone_is_students_t(seed_variance, item_variance, freedom) -> None:
    from scipy import stats

    interval = Interval(1.5, seed_variance, item_variance, 2.0, 29.0)
    assert interval.p_above(0.0) == pytest.approx(stats.t.sf(1.5, freedom))
    assert interval.lower_bound(0.975) == pytest.approx(1.5 - stats.t.ppf(0.975, freedom))


def test_p_values_far_out_are_small_and_never_fail() -> None:
    for value in (1.0, 30.0, 1e4, 1e300):
        interval = Interval(value, 0.5, 0.5, 2.0, 1e4)
        assert 0 <= interval.p <= 1
        assert 0 <= interval.p_above(-value) <= interval.p_above(0.0)


def test_no_difference_at_all_is_a_point() -> None:
    interval = paired_interval(np.zeros((3, 10)))
    assert (interval.low, interval.high, interval.p) == (0, 0, 1)
    assert Interval(0.3, 0.0, 0.0, 2.0, 9.0).p == 0


def test_t_over_seeds_is_students() -> None:
    interval = paired_interval(np.array([[0.1], [0.2], [0.4]]))
    assert interval.low == pytest.approx(0.23333 - 4.3027 * 0.08819, abs=1e-4)
    assert interval.p == pytest.approx(0.1181, abs=1e-3)


@pytest.mark.parametrize("table", [np.zeros((1, 5)), np.zeros((3, 0)), np.zeros(4)])
def test_too_small_tables_are_refused(table: np.ndarray) -> None:
    with pytest.raises(ValueError, match="Two seeds"):
        paired_interval(table)


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        paired_interval(np.array([[1.0, np.nan], [0.0, 0.0]]))


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
