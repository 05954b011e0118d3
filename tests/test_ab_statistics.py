"""Statistics of A/B tests against textbook formulas, scipy, and each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, stats

from plop_lora.statistics import (
    adjusted,
    chi_square_p,
    mean_estimate,
    one_sided_quantile,
    ratio_estimate,
    sequential_split_p,
    two_sided_quantile,
    welch,
)
from plop_lora.statistics.estimates import Estimate
from plop_lora.statistics.sample_ratio import CONCENTRATION


def published_half_width(variance: float, units: int, error: float, planned: float) -> float:
    """Return equation 9 of arXiv 2103.06476 as it is printed, for a mean of so many units."""
    rho = math.sqrt((-2 * math.log(error) + math.log(-2 * math.log(error) + 1)) / planned)
    growth = units * rho**2 + 1
    inside = 2 * growth / (units * rho) ** 2 * math.log(math.sqrt(growth) / error)
    return math.sqrt(variance) * math.sqrt(inside)


@pytest.mark.parametrize("units", [1, 50, 1000, 10_000, 1_000_000])
@pytest.mark.parametrize("error", [0.05, 0.001])
def test_the_two_sided_sequence_is_the_published_one(units: int, error: float) -> None:
    error_of_mean = math.sqrt(2.5 / units)
    ours = error_of_mean * float(two_sided_quantile(units, error=error, planned=10_000))
    assert ours == pytest.approx(published_half_width(2.5, units, error, 10_000), rel=1e-12)


@pytest.mark.parametrize("growth", [0.01, 0.5, 8.0, 500.0])
@pytest.mark.parametrize("error", [0.05, 0.0125])
def test_the_one_sided_bound_is_close_to_the_exact_mixture(growth: float, error: float) -> None:
    """A bound inside the exact one would not keep its error; one far outside would waste units."""
    planned = 1000.0
    width = -2 * math.log(2 * error)
    units = growth * planned / (width + math.log1p(width))
    shrink = growth / (1 + growth)

    def excess(quantile: float) -> float:
        x = quantile * math.sqrt(shrink)
        log_mixture = math.log(2 * stats.norm.cdf(x)) + x**2 / 2 - math.log1p(growth) / 2
        return log_mixture + math.log(error)

    exact = optimize.brentq(excess, 0, 200)
    ours = float(one_sided_quantile(units, error=error, planned=planned))
    assert exact <= ours <= 1.01 * exact


def test_quantiles_take_arrays_and_are_tightest_near_the_planned_total() -> None:
    units = np.array([0, 1000, 10_000, 100_000])
    for quantile in (two_sided_quantile, one_sided_quantile):
        found = quantile(units, error=0.05, planned=10_000)
        assert np.isinf(found[0])
        assert found[2] < min(found[1], found[3])
    early = two_sided_quantile(1000, error=0.05, planned=1000)
    assert early < two_sided_quantile(1000, error=0.05, planned=100_000)
    with pytest.raises(ValueError, match="cannot be met"):
        two_sided_quantile(10, error=0.0, planned=10)


def test_welch_is_that_of_scipy() -> None:
    draw = np.random.default_rng(1)
    first, second = draw.normal(0, 1, 40), draw.normal(0.4, 3, 25)
    found = welch(mean_estimate(second), mean_estimate(first))
    theirs = stats.ttest_ind(second, first, equal_var=False)
    assert found.freedom == pytest.approx(theirs.df)
    assert found.value / math.sqrt(found.variance) == pytest.approx(theirs.statistic)
    assert welch(mean_estimate(first[:1]), mean_estimate(second)) is None
    constant = mean_estimate(np.ones(5))
    assert welch(constant, constant).variance == 0


def test_the_ratio_has_the_variance_of_the_delta_method() -> None:
    """Requests of one account are not independent; only their sums by account are."""
    draw = np.random.default_rng(2)
    requests = draw.poisson(5, 4000) + 1.0
    tokens = draw.gamma(2, 50, 4000) * requests
    found = ratio_estimate(tokens[None], requests[None])
    mean, base = tokens.mean(), requests.mean()
    (vy, cov), (_, vx) = np.cov(tokens, requests)
    formula = vy / base**2 - 2 * mean * cov / base**3 + mean**2 * vx / base**4
    assert found.value == pytest.approx(mean / base)
    assert found.influence_S.var(ddof=1) == pytest.approx(formula)
    share = requests / requests.sum()
    assert found.value == pytest.approx(float(tokens / requests @ share))


def test_the_adjustment_is_the_regression_on_arms_and_covariate() -> None:
    """With one slope for all arms it is the analysis of covariance, to the last digit."""
    draw = np.random.default_rng(3)
    covariates = [draw.normal(10, 2, 300), draw.normal(10.3, 2, 200)]
    values = [
        0.8 * covariate + draw.normal(shift, 1, covariate.size)
        for covariate, shift in zip(covariates, (0.0, 0.5), strict=True)
    ]
    found = adjusted([mean_estimate(value) for value in values], covariates)
    arm = np.repeat([0.0, 1.0], [300, 200])
    design = np.column_stack([np.ones(500), arm, np.concatenate(covariates)])
    fitted, *_ = np.linalg.lstsq(design, np.concatenate(values), rcond=None)
    assert found.theta == pytest.approx(fitted[2])
    assert found.arms[1].value - found.arms[0].value == pytest.approx(fitted[1])
    pooled = np.concatenate(
        [z - z.mean() for z in covariates]), np.concatenate([v - v.mean() for v in values]
    )  # fmt: skip
    correlation = np.corrcoef(*pooled)[0, 1]
    assert found.reduction == pytest.approx(correlation**2)


def test_units_without_a_covariate_are_average_ones() -> None:
    values = [np.array([1.0, 2.0, 3.0, 10.0]), np.array([2.0, 4.0, 6.0])]
    before = [np.array([1.0, 2.0, 3.0, np.nan]), np.array([1.0, 2.0, 3.0])]
    found = adjusted([mean_estimate(value) for value in values], before)
    assert found.arms[0].influence_S[3] == pytest.approx(10.0 - 4.0)
    flat = adjusted([mean_estimate(value) for value in values], [v * 0 for v in values])
    assert (flat.theta, flat.reduction) == (0.0, 0.0)
    assert flat.arms[0].value == 4.0
    none = adjusted([Estimate(4.0, values[0] - 4.0)], [np.full(4, np.nan)])
    assert none.arms[0].value == 4.0


def test_the_split_is_tested_like_scipy_does() -> None:
    counts, shares = [480, 330, 190], [0.5, 0.3, 0.2]
    theirs = stats.chisquare(counts, [500, 300, 200]).pvalue
    assert chi_square_p(counts, shares) == pytest.approx(theirs)
    assert chi_square_p([0, 0], [0.5, 0.5]) == 1.0
    for seen in ([600, 250, 150], [5, 0, 0], [480, 330, 190]):
        prior = CONCENTRATION * np.array(shares)
        factor = stats.dirichlet_multinomial.logpmf(seen, prior, sum(seen))
        factor -= stats.multinomial.logpmf(seen, sum(seen), shares)
        expected = min(1.0, math.exp(-factor))
        assert sequential_split_p(seen, shares) == pytest.approx(expected)
    assert sequential_split_p([0, 0], [0.5, 0.5]) == 1.0
    assert sequential_split_p([9000, 1000], [0.5, 0.5]) == pytest.approx(0, abs=1e-200)
