"""Moderated seed variances: more degrees of freedom where arms vary alike, never a false claim."""

from __future__ import annotations

import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from plop_lora.statistics import SeedVariances, moderated_variances, paired_bootstrap, paired_t
from plop_lora.study.compare import Outcome, compare_to_reference

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from seed_variance import RATIO, beaten, confirmed, power, spreads


def _differences(seed_sds: list[float], seeds: int, seed: int = 0) -> np.ndarray:
    """Return reference minus rivals for arms with these spreads, the reference first."""
    rng = np.random.default_rng(seed)
    values_AS = np.array(seed_sds)[:, None] * rng.standard_normal((len(seed_sds), seeds))
    return values_AS[0] - values_AS[1:]


def test_many_seeds_need_no_moderation() -> None:
    """With 400 seeds and unlike arms each variance is nearly its own."""
    sds = [0.5, 1.0, 2.0, *[1.0] * 7]
    found = moderated_variances(_differences(sds, 400))
    assert found is not None
    assert 399 <= found[0].freedom < 410
    # Each is drawn to the mean over arms (1.325) by a ninth, since seeds' effects are removed.
    expected = [8 / 9 * sd**2 + 1.325 / 9 for sd in sds]
    assert found[0].reference == pytest.approx(expected[0], rel=0.15)
    assert found[1].rival == pytest.approx(expected[2], rel=0.15)


def test_arms_that_vary_alike_share_what_they_know() -> None:
    """Ten arms, three seeds: at most half of the other arms' degrees of freedom are lent."""
    found = [moderated_variances(_differences([1.0] * 10, 3, seed)) for seed in range(200)]
    freedoms = [arms[0].freedom for arms in found if arms is not None]
    assert max(freedoms) == 2 + 8
    assert np.median(freedoms) > 6
    means = [np.mean([arm.rival for arm in arms]) for arms in found if arms is not None]
    assert np.mean(means) == pytest.approx(1, rel=0.05)
    moderated = [arms[0].rival for arms in found if arms is not None]
    assert np.std(moderated) < 0.6  # of three seeds alone the variance deviates by 1


def test_what_all_arms_share_at_a_seed_is_no_variance() -> None:
    differences_RS = _differences([1.0] * 5, 3)
    values_AS = np.vstack([np.zeros(3), -differences_RS]) + np.array([5.0, -7.0, 100.0])
    again = moderated_variances(values_AS[0] - values_AS[1:])
    assert again is not None
    assert again[0].total == pytest.approx(moderated_variances(differences_RS)[0].total)


def test_the_reference_keeps_its_own_variance_at_least() -> None:
    """Its noise is in every comparison, so a small one makes all of them wrong together."""
    for seed in range(50):
        differences_RS = _differences([4.0] + [1.0] * 9, 3, seed)
        found = moderated_variances(differences_RS)
        assert found is not None
        own = np.var(differences_RS.mean(axis=0), ddof=1) * 0.9**2 / 0.9
        assert found[0].reference >= own * (1 - 1e-9)
        assert {arm.reference for arm in found} == {found[0].reference}


@pytest.mark.parametrize("rivals", [1, 2])
def test_few_arms_are_left_as_they_are(rivals: int) -> None:
    assert moderated_variances(_differences([1.0] * (rivals + 1), 3)) is None


def test_arms_without_any_spread() -> None:
    """Accuracies of few rows may repeat: a logarithm of 0 must not make a variance of NaN."""
    found = moderated_variances(np.zeros((4, 3)))
    assert found is not None
    assert {arm.total for arm in found} == {0.0}
    some = moderated_variances(np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.1, 0.0, 0.2]]))
    assert some is not None
    assert all(np.isfinite(arm.freedom) and arm.total > 0 for arm in some)


def test_values_that_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        moderated_variances(np.array([[0.1, np.nan]] * 4))
    with pytest.raises(ValueError, match="Two"):
        moderated_variances(np.zeros((4, 1)))


def test_given_variances_make_the_interval() -> None:
    """Many degrees of freedom: the normal interval of the two variances, whatever the rows did."""
    variances = SeedVariances(reference=0.09, rival=0.07, freedom=1e4)
    expected = 1.96 * (0.16 / 4) ** 0.5
    interval = paired_t(np.array([0.1, 0.2, 0.3, 0.4]), draws=100_000, variances=variances)
    assert (interval.high - interval.low) / 2 == pytest.approx(expected, rel=0.02)
    table_SI = np.repeat(np.array([[0.1], [0.2], [0.3], [0.4]]), 30, axis=1)
    interval = paired_bootstrap(table_SI, draws=100_000, variances=variances)
    assert (interval.high - interval.low) / 2 == pytest.approx(expected, rel=0.02)


def test_the_noise_of_cells_is_the_least_that_seeds_vary() -> None:
    rng = np.random.default_rng(0)
    table_SI = rng.standard_normal((4, 50))
    none = SeedVariances(0.0, 0.0, 20.0)
    interval = paired_bootstrap(table_SI, variances=none)
    assert interval.high - interval.low > 2 * 1.9 / (4 * 50) ** 0.5


def test_a_rival_that_lost_a_seed_is_compared_by_itself() -> None:
    rng = np.random.default_rng(1)
    values = rng.standard_normal((6, 3)).tolist()
    outcomes = {f"rival-{n}": Outcome(tuple(row)) for n, row in enumerate(values[1:])}
    outcomes["rival-0"] = Outcome((values[1][0], None, values[1][2]))
    found = compare_to_reference(outcomes, Outcome(tuple(values[0])), higher=True)
    assert found["rival-0"].freedom == 1
    assert found["rival-0"].interval is found["rival-0"].alone
    assert {found[f"rival-{n}"].freedom for n in range(1, 5)} == {found["rival-1"].freedom}
    assert found["rival-1"].freedom > 2
    assert found["rival-1"].interval.value == pytest.approx(found["rival-1"].alone.value)


# --------------------------------------------------------------------------- claims


@pytest.mark.slow
def test_power_is_several_times_that_of_two_arms_alone() -> None:
    """A rival better by 0.10, ten arms, three seeds: the seeds of two arms find it in 2 of 10."""
    with patch("plop_lora.study.compare.moderated_variances", return_value=None):
        before = power(80, 3, 10)
    assert before < 0.4
    assert power(80, 3, 10) > 0.6


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize("case", ["equal", "noisy shortlist", "noisy rival"])
def test_equal_arms_are_seldom_called_better_whatever_their_spreads(case: str, seeds: int) -> None:
    """Variances pooled over arms, without a bound on their weight, named one in 10 of 100."""
    assert RATIO == 4
    assert beaten(150, seeds, spreads(10)[case]) <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("case", ["equal", "noisy rival"])
def test_a_shortlist_at_the_margin_is_seldom_confirmed(case: str) -> None:
    """A moderated bound confirmed 12 of 100 against a noisy rival; two arms' own does not."""
    assert confirmed(200, 3, spreads(5)[case]) <= 0.065
