"""The textbook parts of A/B tests against statsmodels, which the library itself does not need."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.gof import chisquare
from statsmodels.stats.power import NormalIndPower, TTestIndPower
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from plop_lora.ab import Baseline, plan
from plop_lora.records.analysis import Design
from plop_lora.statistics import adjusted, chi_square_p, mean_estimate, ratio_estimate, welch


def fixed(**values: object) -> int:
    """Return the units of each arm for one look."""
    found = plan(Baseline.of_mean(100.0, 30.0), **values)
    return next(one.units[0] for one in found.sizes if one.design is Design.FIXED)


@pytest.mark.parametrize("power", [0.5, 0.8, 0.95])
def test_the_units_of_a_plan(power: float) -> None:
    """A plan with too few units ends as "no improvement shown" for a better adapter."""
    theirs = NormalIndPower().solve_power(5 / 30, alpha=0.05, power=power)
    assert fixed(effect=5.0, power=power) == pytest.approx(theirs, abs=1)
    student = TTestIndPower().solve_power(5 / 30, alpha=0.05, power=power)
    assert fixed(effect=5.0, power=power) == pytest.approx(student, abs=2)
    one_sided = NormalIndPower().solve_power(5 / 30, alpha=0.05, power=power, alternative="larger")
    assert fixed(margin=5.0, power=power) == pytest.approx(one_sided, abs=1)


def test_uneven_arms_need_what_their_ratio_says() -> None:
    theirs = NormalIndPower().solve_power(5 / 30, alpha=0.05, power=0.8, ratio=0.25)
    assert fixed(effect=5.0, weights=(0.8, 0.2)) == pytest.approx(theirs, abs=2)


def test_the_interval_of_welch() -> None:
    draw = np.random.default_rng(5)
    first, second = draw.normal(0, 1, 80), draw.exponential(2, 60)
    found = welch(mean_estimate(second), mean_estimate(first))
    theirs = CompareMeans(DescrStatsW(second), DescrStatsW(first)).tconfint_diff(usevar="unequal")
    reach = stats.t.ppf(0.975, found.freedom) * math.sqrt(found.variance)
    assert (found.value - reach, found.value + reach) == pytest.approx(theirs)


def test_the_split() -> None:
    theirs = chisquare(np.array([5_100, 4_900]), np.array([5_000, 5_000]))
    assert chi_square_p([5_100, 4_900], [0.5, 0.5]) == pytest.approx(theirs[1])


def test_a_ratio_has_the_variance_of_a_weighted_regression() -> None:
    """Requests that are taken for units would claim what is not so; see the simulations."""
    draw = np.random.default_rng(6)
    requests = draw.integers(1, 6, 400).astype(float)
    tokens = requests * draw.gamma(4, 25, 400)
    found = ratio_estimate(tokens[None], requests[None])
    theirs = sm.WLS(tokens / requests, np.ones(400), weights=requests).fit(cov_type="HC1")
    assert found.value == pytest.approx(theirs.params[0])
    assert mean_variance(found.influence_S) == pytest.approx(theirs.bse[0] ** 2, rel=1e-9)


def mean_variance(influence: np.ndarray) -> float:
    """Return the variance of an estimate from the influence of each unit."""
    count = influence.size
    return float((influence**2).sum() / (count - 1) / count)


def test_the_adjustment_is_that_of_least_squares() -> None:
    draw = np.random.default_rng(7)
    before = [draw.normal(size=300), draw.normal(size=200)]
    values = [
        0.8 * x + draw.normal(shift, 1, x.size) for x, shift in zip(before, (0, 0.3), strict=True)
    ]
    found = adjusted([mean_estimate(value) for value in values], before)
    arm = np.repeat([0.0, 1.0], [300, 200])
    columns = sm.add_constant(np.column_stack([arm, np.concatenate(before)]))
    theirs = sm.OLS(np.concatenate(values), columns).fit()
    assert found.theta == pytest.approx(theirs.params[2])
    difference = found.arms[1].value - found.arms[0].value
    assert difference == pytest.approx(theirs.params[1])
