"""The bounds of a gate: how often they err at the limit, and the p that belongs to them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plop_lora.gating.bounds import LEVEL, gain_of, loss_p

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
ERRS_AT_MOST = 0.05
RARE = ("10 % shifted by 5 spreads", "5 % shifted by 10 spreads", "2 % shifted by 10 spreads")
"""Shapes of which few items show the tail."""
WIDE = "log-normal, σ 1"


def _slack(draws: int) -> float:
    """Return three standard errors of a simulated share."""
    return 3 * (ERRS_AT_MOST * (1 - ERRS_AT_MOST) / draws) ** 0.5


@pytest.fixture(scope="module")
def simulation():
    """The benchmark whose tables the documentation quotes."""
    before = list(sys.path)
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("gate_bounds")
    finally:
        sys.path[:] = before
        sys.modules.pop("gate_bounds", None)


@pytest.mark.parametrize("binary", [False, True])
def test_the_simulated_bounds_are_those_of_a_gate(simulation, binary: bool) -> None:
    """A simulation of another rule would say nothing of the gate."""
    random = np.random.default_rng(0)
    rows, starts = simulation.questions(12, simulation.ONE_TO_FIVE)
    gains = random.lognormal(0, 1, (3, sum(rows)))
    if binary:
        gains = random.integers(-1, 2, gains.shape).astype(float)
    groups = np.repeat([str(place) for place in range(12)], rows).tolist()
    found = simulation.sampled(gains, starts, binary=binary)
    for place, gains_I in enumerate(gains):
        gain = gain_of(gains_I, groups, binary=binary)
        assert gain.low == pytest.approx(found.low_D[place])
        assert gain.high == pytest.approx(found.high_D[place])


@pytest.mark.parametrize("items", [10, 30])
@pytest.mark.parametrize("shape", ["normal", "log-normal, σ 0.5", "gamma, 0.5", WIDE])
def test_skewed_gains_at_the_limit_err_in_five_percent(simulation, shape: str, items: int) -> None:
    """Few items with skewed losses let a bad adapter pass in up to 13 % of gates."""
    draws = 10_000
    found = simulation.errors(simulation.SHAPES[shape], items, draws, seed=1)
    assert max(found) <= ERRS_AT_MOST + _slack(draws)
    if items == 30:
        assert max(found) > 0.02  # the bounds are not so wide that nothing is decided


def test_the_width_for_normal_gains_is_near_that_of_student(simulation) -> None:
    """Bounds that hold by being wide would leave every gate undecided."""
    widths = [simulation.width(simulation.SHAPES["normal"], items, 4000) for items in (20, 30, 100)]
    assert all(1 <= found < most for found, most in zip(widths, (1.2, 1.1, 1.03), strict=True))


@pytest.mark.slow
def test_every_shape_at_the_limit(simulation) -> None:
    """Each number of items and each shape, beside those that few items do not show."""
    draws = 20_000
    for shape, draw in simulation.SHAPES.items():
        for items in simulation.ITEMS:
            missed, opposite = simulation.errors(draw, items, draws, seed=2)
            assert opposite <= ERRS_AT_MOST + _slack(draws), (shape, items)
            assert shape in RARE or missed <= ERRS_AT_MOST + _slack(draws), (shape, items)


@pytest.mark.slow
def test_losses_that_the_sample_does_not_show_are_missed(simulation) -> None:
    """The documentation says from how many items on a kind of loss is seen: about 3 / its share."""
    for shape, share in zip(RARE, (0.1, 0.05, 0.02), strict=True):
        enough, few = round(4 / share), round(1 / share)
        missed, _ = simulation.errors(simulation.SHAPES[shape], enough, 10_000, seed=3)
        assert missed <= ERRS_AT_MOST + _slack(10_000), shape
        missed, _ = simulation.errors(simulation.SHAPES[shape], few, 10_000, seed=3)
        assert missed > 0.07, shape


@pytest.mark.slow
def test_rows_of_one_question_at_the_limit(simulation) -> None:
    """Questions of unequal size weigh unequally, so that skewed gains err a little more often."""
    draws = 20_000
    for shape in simulation.CLUSTERED:
        for items in simulation.ITEMS:
            draw, sizes = simulation.SHAPES[shape], simulation.ONE_TO_FIVE
            found = simulation.errors(draw, items, draws, sizes=sizes, seed=4)
            most = {"normal": 0.05, "log-normal, σ 0.5": 0.053, WIDE: 0.068}[shape]
            assert max(found) <= most + _slack(draws), (shape, items)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [0.01, 0.05, 0.1])
def test_answers_at_the_limit(simulation, limit: float) -> None:
    draws = 20_000
    for either in (0.0, 0.02, 0.1, 0.3):
        for items in (*simulation.ITEMS, 140, 260, 600):
            found = simulation.answer_errors(limit, items, draws, either=either, seed=5)
            assert max(found) <= ERRS_AT_MOST + _slack(draws), (either, items)


# --------------------------------------------------------------------------- the p of a loss


@pytest.mark.parametrize("binary", [False, True])
def test_the_p_of_a_loss_agrees_with_the_upper_bound(binary: bool) -> None:
    """A group of items would fail by one of them and not by the other."""
    random = np.random.default_rng(6)
    for items in (2, 10, 40):
        groups = [str(place // 2) for place in range(2 * items)]
        for skewed in (1.0, -1.0):
            gains = skewed * random.lognormal(0, 1, 2 * items)
            if binary:
                gains = random.integers(-1, 2, 2 * items).astype(float)
            high = gain_of(gains, groups, binary=binary).high
            step = 1e-9 * max(1.0, abs(high))
            assert loss_p(gains, groups, high + step, binary=binary) < 1 - LEVEL
            assert loss_p(gains, groups, high - step, binary=binary) > 1 - LEVEL


def test_the_p_of_a_loss_falls_with_the_limit() -> None:
    gains = np.random.default_rng(7).lognormal(0, 1, 30)
    groups = [str(place) for place in range(30)]
    found = [loss_p(gains, groups, limit, binary=False) for limit in np.linspace(0, 9, 40)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.99
    assert found[-1] < 0.01


def test_gains_without_spread_are_certain() -> None:
    """A division by their spread, which is 0, has no result."""
    gains, groups = np.full(12, -0.5), [str(place) for place in range(12)]
    assert loss_p(gains, groups, 0.0, binary=False) == 0.0
    assert loss_p(gains, groups, -0.5, binary=False) == 1.0
    gain: Any = gain_of(gains, groups, binary=False)
    assert gain.low == gain.high == -0.5


def test_one_group_has_no_p() -> None:
    with pytest.raises(ValueError, match="at least two groups of items"):
        loss_p(np.array([1.0, 2.0]), ["a", "a"], 0.0, binary=False)
