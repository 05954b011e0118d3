"""Looks: many of them err no more often than one, and what they leave out was not worth it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import special

from plop_lora.records.verification import BEATEN, CONFIRMED
from plop_lora.statistics import Components, Interval, SeedVariance, looks, nominal_levels
from plop_lora.study.compare import Paired
from plop_lora.verification.course import follow
from plop_lora.verification.decide import (
    NON_INFERIOR,
    SHORTLIST,
    UNSEPARATED,
    ArmComparison,
    Decision,
    decision_of,
)
from plop_lora.verification.looks import (
    bounds_at,
    chance_of,
    planned_looks,
    with_rows,
    with_seeds,
)
from plop_lora.verification.power import Setting, detectable, simulate
from plop_lora.verification.spreads import OF_ANSWERS, OF_LOSS

ROOT = Path(__file__).parents[1]
RIVALS, MARGIN, ROWS = 12, 0.02, 160


# --------------------------------------------------------------------------- levels


@pytest.mark.parametrize("seeds", [(2, 3), (2, 3, 4, 5, 6), looks(40)])
def test_all_looks_together_err_as_often_as_one(seeds: tuple[int, ...]) -> None:
    levels = nominal_levels(seeds, 0.05)
    sums = np.random.default_rng(0).standard_normal((200_000, seeds[-1])).cumsum(axis=1)
    crossed = np.zeros(len(sums), dtype=bool)
    for count, level in zip(seeds, levels, strict=True):
        crossed |= sums[:, count - 1] > special.ndtri(1 - level) * count**0.5
    assert crossed.mean() == pytest.approx(0.05, abs=0.002)
    assert list(levels) == sorted(levels), "little is spent early"
    assert 0.035 < levels[-1] < 0.05, "the last look keeps most of the level"


def test_one_look_has_the_whole_level() -> None:
    (look,) = planned_looks(5, RIVALS, sequential=False)
    assert (look.seeds, look.error, look.corrected) == (5, 0.05, 0.05 / RIVALS)
    assert planned_looks(1, RIVALS, sequential=True)[0].seeds == 1
    assert len(looks(1000)) <= 12


# --------------------------------------------------------------------------- one comparison


def _paired(value: float, seeds: int = 3, seed_sd: float = 0.01, item_sd: float = 0.1) -> Paired:
    own = SeedVariance(seed_sd**2, seeds - 1.0)
    interval = Interval(value, seed_sd**2 / seeds, item_sd**2 / ROWS, 8.0, ROWS - 1.0)
    cautious = Interval(value, seed_sd**2 / seeds, item_sd**2 / ROWS, seeds - 0.5, ROWS - 1.0)
    return Paired(interval, cautious, Components(seed_sd, item_sd, 0.0), seeds, ROWS, own)


def test_a_lower_bound_above_zero_is_corrected_for_the_rivals() -> None:
    """A rival is called worse as one of many, so the bound that says so counts all of them."""
    look = planned_looks(3, RIVALS, sequential=False)[0]
    far = bounds_at(_paired(0.3), look)
    assert far.low == pytest.approx(_paired(0.3).interval.lower_bound(1 - look.corrected))
    near = _paired(0.015)
    assert near.cautious.lower_bound(0.95) < 0
    assert bounds_at(near, look).low == near.cautious.lower_bound(0.95)
    between = _paired(0.03, seeds=6)
    assert between.cautious.lower_bound(0.95) > 0 > between.interval.lower_bound(1 - 0.05 / 120)
    assert bounds_at(between, planned_looks(6, 120, sequential=False)[0]).low == 0


def test_the_chance_of_a_claim_is_kept() -> None:
    """Where 80 % are promised from the present difference, 80 % of the runs that go on claim it."""
    rng = np.random.default_rng(0)
    look = planned_looks(8, 1, sequential=False)[0]
    promised, kept = [], []
    for _ in range(4000):
        seeds_S = 0.01 * rng.standard_normal(8)
        paired = [_of_seeds(seeds_S[:count]) for count in (3, 8)]
        chance = chance_of(paired[0], with_seeds(paired[0], 8), 0.01, look).within
        if 0.7 < chance < 0.9:
            promised.append(chance)
            kept.append(bounds_at(paired[1], look).low >= -0.01)
    assert len(kept) > 300
    assert np.mean(kept) > np.mean(promised) - 0.06


def _of_seeds(seeds_S: np.ndarray) -> Paired:
    own = SeedVariance(float(seeds_S.var(ddof=1)), len(seeds_S) - 1.0)
    interval = Interval(float(seeds_S.mean()), own.value / len(seeds_S), 0.0, own.freedom, 1.0)
    return Paired(interval, interval, Components(own.value**0.5, 0.0, 0.0), len(seeds_S), None, own)


def test_more_rows_help_where_rows_are_the_limit() -> None:
    look = planned_looks(3, 1, sequential=False)[0]
    limited = _paired(0.0, seed_sd=0.001, item_sd=0.3)
    few = chance_of(limited, limited, MARGIN, look)
    assert few.settled == 0
    assert chance_of(limited, with_rows(limited, 100 * ROWS), MARGIN, look).settled > 0.6


# --------------------------------------------------------------------------- the course


def _decision(*verdicts: str) -> Decision:
    rows = [ArmComparison("plop", 1.0, 2, verdict=SHORTLIST)]
    rows += [
        ArmComparison(f"rival-{n}", 1.0, 2, verdict=verdict, paired=_paired(0.0))
        for n, verdict in enumerate(verdicts)
    ]
    return decision_of(rows)


def test_settled_arms_are_not_judged_again() -> None:
    given = []

    def decide_at(look, ended):
        given.append((look.seeds, sorted(ended)))
        first = _decision(NON_INFERIOR, UNSEPARATED)
        return first if look.seeds == 2 else _decision(NON_INFERIOR, NON_INFERIOR)

    course = follow(planned_looks(4, 2, sequential=True), 0.2, decide_at)
    assert given == [(2, []), (3, ["rival-0"])]
    assert course.next is None
    assert course.decision is not None
    assert course.decision.verdict == CONFIRMED
    assert course.endings == {"rival-0": "settled at 2 seeds", "rival-1": "settled at 3 seeds"}


def test_a_look_without_its_trials_is_next() -> None:
    planned = planned_looks(4, 2, sequential=True)
    course = follow(
        planned, 0.2, lambda look, _: _decision(UNSEPARATED) if look.seeds < 3 else None
    )
    assert course.next == planned[1]
    assert not course.endings


def test_what_is_out_of_reach_is_given_up() -> None:
    """A spread of 25 margins cannot be separated by two seeds more."""
    hopeless = _paired(0.0, seeds=4, seed_sd=0.5)

    def decide_at(look, ended):
        row = ArmComparison("noisy", 1.0, look.seeds, verdict=UNSEPARATED, paired=hopeless)
        return decision_of([ArmComparison("plop", 1.0, look.seeds, verdict=SHORTLIST), row])

    course = follow(planned_looks(6, RIVALS, sequential=True), MARGIN, decide_at)
    assert course.endings == {"noisy": "at 2 seeds: out of reach with 6"}


# --------------------------------------------------------------------------- claims


def _setting(spread: Components, *, sequential: bool, margin: float = MARGIN) -> Setting:
    seeds = 6 if sequential else 5
    return Setting(
        planned_looks(seeds, RIVALS, sequential=sequential), spread, ROWS, RIVALS, margin
    )


CASES = {
    "equal": lambda sd: [sd] * (RIVALS + 1),
    "noisy shortlist": lambda sd: [2 * sd] + [sd / 2] * RIVALS,
    "noisy rival": lambda sd: [sd / 2, 2 * sd] + [sd / 2] * (RIVALS - 1),
    "every other": lambda sd: [2 * sd if arm % 2 else sd / 2 for arm in range(RIVALS + 1)],
}
"""Standard deviations over seeds, by arm: alike, or 4 : 1."""
DRAWS = 1000


@pytest.mark.slow
@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_no_design_errs_more_often_than_it_says(case: str, sequential: bool) -> None:
    """Of seeds alone, where rows add nothing: at most 5 %, up to the error of the simulation."""
    spread = Components(0.01, 0.0, 0.0)
    sds_A = CASES[case](0.01 / 2**0.5)
    beaten = simulate(
        _setting(spread, sequential=sequential, margin=0.0), seed_sds_A=sds_A, draws=DRAWS
    )
    assert beaten.share(BEATEN) <= 0.065
    at_margin = [MARGIN, *[-9.0] * (RIVALS - 1)]
    confirmed = simulate(
        _setting(spread, sequential=sequential), at_margin, seed_sds_A=sds_A, draws=DRAWS
    )
    assert confirmed.share(CONFIRMED) <= 0.065


@pytest.mark.slow
@pytest.mark.parametrize("spread", [OF_LOSS["sft"], Components(0.0045, 0.026, 0.0265)])
def test_a_sequential_design_costs_less_and_finds_as_much(spread: Components) -> None:
    fixed, sequential = (_setting(spread, sequential=each) for each in (False, True))
    costs = []
    for gains in ([], [2 * MARGIN], [4 * MARGIN], [-MARGIN * n / 3 for n in range(RIVALS)]):
        before = simulate(fixed, gains, draws=400)
        after = simulate(sequential, gains, draws=400)
        for verdict in (BEATEN, CONFIRMED):
            assert after.share(verdict) >= before.share(verdict) - 0.06
        costs.append(np.median(after.trials) / np.median(before.trials))
    assert np.median(costs) <= 0.65
    assert max(costs) < 1


@pytest.mark.slow
def test_a_detectable_gain_is_detected() -> None:
    setting = _setting(OF_LOSS["sft"], sequential=True)
    gain = detectable(setting)
    assert gain is not None
    assert 0.7 < simulate(setting, [gain], draws=400, seed=9).share(BEATEN) < 0.93


def test_the_spreads_are_those_of_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a plan promises follows from trials that are in the repository."""
    path = ROOT / "scripts" / "experiments" / "spreads.py"
    monkeypatch.syspath_prepend(path.parent)
    given = importlib.util.spec_from_file_location("spreads", path)
    assert given is not None
    assert given.loader is not None
    script = sys.modules["spreads"] = importlib.util.module_from_spec(given)
    given.loader.exec_module(script)
    found = script.measured(script.RESULTS)
    for key, kept in (
        (("sft", "loss"), OF_LOSS["sft"]),
        (("classify", "loss"), OF_LOSS["classify"]),
        (("classify", "accuracy"), OF_ANSWERS["classify"]),
    ):
        for name in ("seed_sd", "item_sd", "noise_sd"):
            assert getattr(found[key], name) == pytest.approx(getattr(kept, name), rel=0.02)
