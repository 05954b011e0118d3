"""Intervals over seeds and items hold what they promise, at the few seeds that people can pay."""

from __future__ import annotations

import math

import numpy as np
import pytest

from plop_lora.statistics import (
    components,
    detectable,
    holm,
    items_needed,
    paired_bootstrap,
    paired_t,
    seeds_needed,
)

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


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5, 8])
@pytest.mark.parametrize("name", SPREADS)
def test_the_interval_covers_the_truth(name: str, seeds: int) -> None:
    """At 95 % a plain bootstrap of two seeds covers far less; both corrections are needed."""
    rng = np.random.default_rng(seeds)
    repeats = 800
    misses = above = 0
    for repeat in range(repeats):
        table = 0.7 + _table(rng, seeds, 40, SPREADS[name])
        interval = paired_bootstrap(table, draws=600, seed=repeat)
        misses += not interval.low <= 0.7 <= interval.high
        above += interval.lower_bound() > 0.7
    assert 1 - misses / repeats >= 0.93
    assert above / repeats <= 0.065


@pytest.mark.slow
def test_binary_outcomes_are_covered() -> None:
    """Right or wrong answers of two arms that share hard items: skewed, with many zeros."""
    rng = np.random.default_rng(3)
    misses = 0
    for repeat in range(600):
        hard_I = rng.beta(1, 3, 60)
        first, second = rng.random((2, 3, 60)) < np.stack([hard_I, hard_I])[:, None]
        interval = paired_bootstrap(first * 1.0 - second, draws=600, seed=repeat)
        misses += not interval.low <= 0 <= interval.high
    assert misses / 600 <= 0.065


def test_a_plain_bootstrap_of_three_seeds_would_fail() -> None:
    """The positive control of the coverage test: without the corrections it misses too often."""
    rng = np.random.default_rng(0)
    misses = 0
    for _ in range(1000):
        seed_S = _table(rng, 3, 40, SPREADS["seeds"]).mean(axis=1)
        means_D = seed_S[rng.integers(0, 3, (400, 3))].mean(axis=1)
        low, high = np.quantile(means_D, [0.025, 0.975])
        misses += not low <= 0 <= high
    assert misses / 1000 > 0.15


def test_many_seeds_and_items_give_the_normal_interval() -> None:
    """The corrections fade: with 60 seeds and 400 items the width is that of the components."""
    table = _table(np.random.default_rng(1), 60, 400, (0.1, 0.4, 0.3))
    interval = paired_bootstrap(table, draws=20_000)
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


def test_p_and_interval_agree() -> None:
    rng = np.random.default_rng(5)
    for _ in range(60):
        interval = paired_bootstrap(
            0.1 * rng.standard_normal() + _table(rng, 4, 30, (0.1, 0.2, 0.2))
        )
        outside = not interval.low <= 0 <= interval.high
        assert outside == (interval.p < 0.05) or abs(interval.p - 0.05) < 0.002
        assert interval.p_above(0.0) + interval.p_below(0.0) == pytest.approx(1, abs=0.001)


def test_the_same_seed_gives_the_same_interval() -> None:
    table = _table(np.random.default_rng(6), 3, 20, SPREADS["both"])
    first, second = (paired_bootstrap(table, draws=500, seed=4) for _ in range(2))
    assert (first.low, first.high, first.p) == (second.low, second.high, second.p)


def test_no_difference_at_all_is_a_point() -> None:
    interval = paired_bootstrap(np.zeros((3, 10)))
    assert (interval.low, interval.high, interval.p) == (0, 0, 1)


def test_t_over_seeds_is_students() -> None:
    interval = paired_t(np.array([0.1, 0.2, 0.4]))
    assert interval.low == pytest.approx(0.23333 - 4.3027 * 0.08819, abs=2e-3)
    assert interval.p == pytest.approx(0.1181, abs=1e-3)


@pytest.mark.parametrize("table", [np.zeros((1, 5)), np.zeros((3, 1)), np.zeros(4)])
def test_too_small_tables_are_refused(table: np.ndarray) -> None:
    with pytest.raises(ValueError, match="Two seeds"):
        paired_bootstrap(table)


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        paired_bootstrap(np.array([[1.0, np.nan], [0.0, 0.0]]))
    with pytest.raises(ValueError, match="Two seeds"):
        paired_t(np.array([0.1]))


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 8])
def test_what_is_called_detectable_is_detected(seeds: int) -> None:
    """The planned power of 0.8 is that of the interval that is used."""
    rng = np.random.default_rng(7)
    effect = detectable(seeds, 50, 0.02, 0.1, noise_sd=0.1)
    found = 0
    for repeat in range(500):
        table = effect + _table(rng, seeds, 50, (0.02, 0.1, 0.1))
        found += paired_bootstrap(table, draws=500, seed=repeat).low > 0
    assert 0.7 < found / 500 < 0.9


def test_how_many_are_needed() -> None:
    effect = detectable(6, 200, 0.02, 0.2)
    assert seeds_needed(effect, 200, 0.02, 0.2) == 6
    assert items_needed(effect, 6, 0.02, 0.2) == 200
    assert seeds_needed(0.001, 200, 0.02, 0.2) is None
    assert items_needed(0.001, 6, 0.02, 0.2) is None
    assert detectable(1, 200, 0.02, 0.2) == math.inf
    assert detectable(4, None, 0.0, 0.0) == 0.0
    assert detectable(5, None, 0.02, 0.0) < detectable(3, None, 0.02, 0.0)
