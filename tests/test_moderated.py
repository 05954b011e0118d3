"""Moderated seed variances: more degrees of freedom where arms vary alike, never a false claim."""

from __future__ import annotations

import numpy as np
import pytest

from plop_lora.statistics import ArmVariances, SeedVariance, paired_interval, seed_variances
from plop_lora.study.compare import Outcome, compare_to_reference


def _differences(seed_sds: list[float], seeds: int, seed: int = 0) -> np.ndarray:
    """Return reference minus rivals for arms with these spreads, the reference first."""
    rng = np.random.default_rng(seed)
    values_AS = np.array(seed_sds)[:, None] * rng.standard_normal((len(seed_sds), seeds))
    return values_AS[0] - values_AS[1:]


def test_many_seeds_need_no_moderation() -> None:
    """With 400 seeds and unlike arms each variance is nearly its own."""
    sds = [0.5, 1.0, 2.0, *[1.0] * 7]
    found = seed_variances(_differences(sds, 400))
    assert found is not None
    assert (found.freedom_R >= 399).all()
    assert (found.freedom_R < 410).all()
    # Each is drawn to the mean over arms (1.325) by a ninth, since seeds' effects are removed.
    expected = [8 / 9 * sd**2 + 1.325 / 9 for sd in sds]
    assert found.moderated_R[1] == pytest.approx(expected[0] + expected[2], rel=0.15)


def test_arms_that_vary_alike_share_what_they_know() -> None:
    """Ten arms, three seeds: at most half of the other arms' degrees of freedom are lent."""
    found = [seed_variances(_differences([1.0] * 10, 3, seed)) for seed in range(200)]
    freedoms = [arms.freedom_R[0] for arms in found if arms is not None]
    assert max(freedoms) == pytest.approx(2 + 8)
    assert np.median(freedoms) > 6
    totals = np.array([arms.moderated_R for arms in found if arms is not None])
    # The reference never gets less than its own, so the mean lies a little above 2.
    assert 2 < totals.mean() < 2.3
    own = np.array([_differences([1.0] * 10, 3, seed)[0].var(ddof=1) for seed in range(200)])
    assert totals[:, 0].std() < 0.75 * own.std()


def test_what_all_arms_share_at_a_seed_is_no_variance() -> None:
    differences_RS = _differences([1.0] * 5, 3)
    values_AS = np.vstack([np.zeros(3), -differences_RS]) + np.array([5.0, -7.0, 100.0])
    again = seed_variances(values_AS[0] - values_AS[1:])
    first = seed_variances(differences_RS)
    assert again is not None
    assert first is not None
    np.testing.assert_allclose(again.moderated_R, first.moderated_R)


def test_a_cautious_variance_is_never_below_that_of_its_arms() -> None:
    for seed in range(50):
        differences_RS = _differences([4.0] + [1.0] * 9, 3, seed)
        found = seed_variances(differences_RS)
        assert found is not None
        # The reference's own is in all of them.
        own = np.var(differences_RS.mean(axis=0), ddof=1) * 0.9**2 / 0.9
        assert (found.cautious_R >= own * (1 - 1e-9)).all()
        assert (found.cautious_freedom_R <= 2.5).all()


def test_arms_of_other_numbers_of_seeds_count_in_the_mean() -> None:
    """Two arms are left open: what the settled ones have shown is not forgotten."""
    differences_RS = _differences([1.0, 1.0], 4)
    assert seed_variances(differences_RS) is None
    settled = ArmVariances(np.full(8, 1.0), np.full(8, 2.0))
    found = seed_variances(differences_RS, settled)
    assert found is not None
    assert found.moderated_R.shape == (1,)
    assert found.freedom_R[0] > 6


def test_batches_are_independent() -> None:
    tables = np.stack([_differences([1.0] * 6, 3, seed) for seed in range(5)])
    together = seed_variances(tables)
    assert together is not None
    for table, moderated in zip(tables, together.moderated_R, strict=True):
        alone = seed_variances(table)
        assert alone is not None
        np.testing.assert_allclose(moderated, alone.moderated_R)


@pytest.mark.parametrize("rivals", [1, 2])
def test_few_arms_are_left_as_they_are(rivals: int) -> None:
    assert seed_variances(_differences([1.0] * (rivals + 1), 3)) is None


def test_arms_without_any_spread() -> None:
    """Accuracies of few rows may repeat: a logarithm of 0 must not make a variance of NaN."""
    found = seed_variances(np.zeros((4, 3)))
    assert found is not None
    assert set(found.moderated_R) == {0.0}
    some = seed_variances(np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.1, 0.0, 0.2]]))
    assert some is not None
    assert np.isfinite(some.freedom_R).all()
    assert (some.moderated_R > 0).all()


def test_values_that_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        seed_variances(np.array([[0.1, np.nan]] * 4))
    with pytest.raises(ValueError, match="Two"):
        seed_variances(np.zeros((4, 1)))


def test_given_variances_make_the_interval() -> None:
    """Many degrees of freedom: the normal interval of the variance, whatever the rows did."""
    variance = SeedVariance(0.16, 1e6)
    expected = 1.96 * (0.16 / 4) ** 0.5
    interval = paired_interval(np.array([[0.1], [0.2], [0.3], [0.4]]), variance)
    assert (interval.high - interval.low) / 2 == pytest.approx(expected, rel=0.001)
    table_SI = np.repeat(np.array([[0.1], [0.2], [0.3], [0.4]]), 30, axis=1)
    interval = paired_interval(table_SI, variance)
    assert (interval.high - interval.low) / 2 == pytest.approx(expected, rel=0.001)


def test_the_noise_of_cells_is_the_least_that_seeds_vary() -> None:
    table_SI = np.random.default_rng(0).standard_normal((4, 50))
    interval = paired_interval(table_SI, SeedVariance(0.0, 20.0))
    assert interval.high - interval.low > 2 * 1.9 / (4 * 50) ** 0.5


def test_a_rival_that_lost_a_seed_is_compared_by_itself() -> None:
    rng = np.random.default_rng(1)
    values = rng.standard_normal((6, 3)).tolist()
    outcomes = {f"rival-{n}": Outcome(tuple(row)) for n, row in enumerate(values[1:])}
    outcomes["rival-0"] = Outcome((values[1][0], None, values[1][2]))
    found = compare_to_reference(outcomes, Outcome(tuple(values[0])), higher=True)
    assert found["rival-0"].interval.seed_freedom == 1
    assert found["rival-0"].interval == found["rival-0"].cautious
    freedoms = {found[f"rival-{n}"].interval.seed_freedom for n in range(1, 5)}
    assert len(freedoms) == 1
    assert freedoms.pop() > 2
