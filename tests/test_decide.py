"""The verdict: finds a planted winner, says nothing where there is nothing, forgets no arm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from plop_lora.errors import MeasurementError, UsageError
from plop_lora.records.verification import BEATEN, CONFIRMED, INCONCLUSIVE
from plop_lora.study.compare import Outcome
from plop_lora.verification.decide import (
    BETTER,
    FAILED,
    NON_INFERIOR,
    SHORTLIST,
    UNSEPARATED,
    WORSE,
    decide,
)

RIVALS = [f"rival-{n}" for n in range(7)]


def _outcomes(
    rng: np.random.Generator,
    *,
    seeds: int,
    items: int = 30,
    gains: Sequence[float] = (0.0,) * 7,
    spread: tuple[float, float, float] = (0.02, 0.2, 0.1),
) -> dict[str, Outcome]:
    """Return a shortlist and rivals that are better by `gains`, on the same hard and easy items."""
    seed_sd, item_sd, noise_sd = spread
    hardness_I = rng.standard_normal(items)
    outcomes = {}
    for arm, gain in zip(["plop", *RIVALS], [0.0, *gains], strict=False):
        items_SI = (
            0.5
            + gain
            + hardness_I
            + item_sd * rng.standard_normal(items)
            + seed_sd * rng.standard_normal((seeds, 1))
            + noise_sd * rng.standard_normal((seeds, items))
        )
        outcomes[arm] = _outcome(items_SI)
    return outcomes


def _outcome(items_SI: np.ndarray) -> Outcome:
    rows = tuple(tuple(row) for row in items_SI.tolist())
    return Outcome(tuple(float(np.mean(row)) for row in rows), rows)


def _verdicts(decision) -> dict[str, str]:
    return {row.arm: row.verdict for row in decision.comparisons}


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_equal_arms_are_seldom_called_better(seeds: int) -> None:
    """Seven rivals, none better: with a margin of 0 one of them is named in 5 of 100 at most."""
    rng = np.random.default_rng(seeds)
    repeats, beaten = 500, 0
    for _ in range(repeats):
        outcomes = _outcomes(rng, seeds=seeds)
        decision = decide(outcomes, shortlist="plop", margin=0.0, higher=True)
        beaten += decision.verdict == BEATEN
    assert beaten / repeats <= 0.05


def test_noise_above_the_margin_cannot_be_separated() -> None:
    decision = decide(
        _outcomes(np.random.default_rng(0), seeds=3), shortlist="plop", margin=0.01, higher=True
    )
    assert decision.verdict == INCONCLUSIVE
    assert decision.better is None
    assert "more seeds" in decision.more or "seeds more" in decision.more
    assert UNSEPARATED in _verdicts(decision).values()


def test_equal_arms_within_a_wide_margin_confirm() -> None:
    decision = decide(
        _outcomes(np.random.default_rng(1), seeds=5), shortlist="plop", margin=0.5, higher=True
    )
    assert decision.verdict == CONFIRMED
    assert decision.more is None
    assert set(_verdicts(decision).values()) == {SHORTLIST, NON_INFERIOR}


@pytest.mark.slow
def test_a_better_rival_is_found() -> None:
    """Power: five seeds find a rival that is better by ten times the seeds' spread."""
    found = 0
    for repeat in range(60):
        outcomes = _outcomes(
            np.random.default_rng(repeat),
            seeds=5,
            gains=(0.0, 0.0, 0.25, 0.0, 0.0, 0.0, 0.0),
            spread=(0.02, 0.1, 0.1),
        )
        decision = decide(outcomes, shortlist="plop", margin=0.01, higher=True)
        found += decision.verdict == BEATEN and decision.better == "rival-2"
    assert found / 60 > 0.9


def test_a_worse_rival_is_called_worse() -> None:
    outcomes = _outcomes(
        np.random.default_rng(2), seeds=5, gains=(-0.5,) * 7, spread=(0.02, 0.1, 0.1)
    )
    decision = decide(outcomes, shortlist="plop", margin=0.01, higher=True)
    assert decision.verdict == CONFIRMED
    assert _verdicts(decision) == {"plop": SHORTLIST, **dict.fromkeys(RIVALS, WORSE)}
    assert all(row.low > 0 and row.p < 0.05 for row in decision.comparisons[1:])


def test_lower_can_be_better() -> None:
    """The same numbers read as a loss give the opposite verdict."""
    outcomes = _outcomes(
        np.random.default_rng(2), seeds=5, gains=(-0.5,) * 7, spread=(0.02, 0.1, 0.1)
    )
    decision = decide(outcomes, shortlist="plop", margin=0.01, higher=False)
    assert decision.verdict == BEATEN
    assert set(_verdicts(decision).values()) == {SHORTLIST, BETTER}
    assert decision.comparisons[1].difference < 0


def test_failed_seeds_are_left_out_in_pairs() -> None:
    """Seed 1 of the shortlist and seed 0 of the rival are gone: two remain, the right ones."""
    first = np.array([[5.0, 5.0], [9.0, 9.0], [1.0, 2.0], [2.0, 3.0]])
    second = first - np.array([[0.0], [0.0], [1.0], [1.0]])
    outcomes = {
        "plop": Outcome((5.0, None, 1.5, 2.5), (*first.tolist()[:1], None, *first.tolist()[2:])),
        "mlp": Outcome((None, 9.0, 0.5, 1.5), (None, *second.tolist()[1:])),
    }
    row = decide(outcomes, shortlist="plop", margin=0.1, higher=True).comparisons[1]
    assert (row.seeds, row.difference) == (2, 1.0)


def test_an_arm_without_a_result_prevents_confirmation() -> None:
    outcomes = _outcomes(np.random.default_rng(1), seeds=5)
    outcomes["rival-3"] = Outcome((None,) * 5, (None,) * 5)
    decision = decide(outcomes, shortlist="plop", margin=0.5, higher=True)
    assert decision.verdict == INCONCLUSIVE
    assert "no result of rival-3" in decision.more
    assert _verdicts(decision)["rival-3"] == FAILED
    assert len(decision.comparisons) == 8


def test_a_failed_shortlist_is_named() -> None:
    outcomes = _outcomes(np.random.default_rng(1), seeds=3)
    outcomes["plop"] = Outcome((None,) * 3, (None,) * 3)
    decision = decide(outcomes, shortlist="plop", margin=0.5, higher=True)
    assert decision.verdict == INCONCLUSIVE
    assert "no result of plop" in decision.more
    assert _verdicts(decision)["plop"] == FAILED


def test_one_seed_separates_nothing() -> None:
    decision = decide(
        _outcomes(np.random.default_rng(1), seeds=1), shortlist="plop", margin=9.0, higher=True
    )
    assert decision.verdict == INCONCLUSIVE
    assert "fewer than two seeds" in decision.more


def test_a_metric_without_items_is_compared_over_seeds() -> None:
    outcomes = {
        "plop": Outcome((0.80, 0.82, 0.81)),
        "mlp": Outcome((0.70, 0.72, 0.72)),
        "noisy": Outcome((0.9, 0.5, 0.8)),
    }
    decision = decide(outcomes, shortlist="plop", margin=0.01, higher=True)
    assert _verdicts(decision) == {"plop": SHORTLIST, "mlp": WORSE, "noisy": UNSEPARATED}
    assert "rows" not in decision.more


def test_what_would_separate_does() -> None:
    """The number of seeds that is named is enough in the share of cases that is promised."""
    spread = (0.02, 0.02, 0.02)
    named = enough = 0
    for repeat in range(400):
        rng = np.random.default_rng(repeat)
        few = decide(
            _outcomes(rng, seeds=3, gains=(0.0,), spread=spread),
            shortlist="plop", margin=0.05, higher=True,
        )  # fmt: skip
        if few.verdict != INCONCLUSIVE or " seeds an arm" not in few.more:
            continue
        named += 1
        seeds = int(few.more.split("about ")[1].split(" ")[0])
        # The seeds that are there stay: the run goes on with others.
        more = _outcomes(rng, seeds=seeds, gains=(0.0,), spread=spread)
        many = decide(more, shortlist="plop", margin=0.05, higher=True)
        enough += many.verdict != INCONCLUSIVE
    assert named > 100
    assert enough / named > 0.75


def test_hopeless_cases_are_capped() -> None:
    outcomes = {"plop": Outcome((0.1, 0.9)), "mlp": Outcome((0.9, 0.1))}
    decision = decide(outcomes, shortlist="plop", margin=0.0, higher=True)
    assert "not even 50 seeds more" in decision.more


@pytest.mark.parametrize(
    ("outcomes", "margin", "error"),
    [
        ({"plop": Outcome((0.1, 0.2))}, 0.1, UsageError),
        ({"a": Outcome((0.1, 0.2)), "b": Outcome((0.1, 0.2))}, 0.1, UsageError),
        ({"plop": Outcome((0.1, 0.2)), "b": Outcome((0.1, 0.2))}, -1, UsageError),
        ({"plop": Outcome((0.1, 0.2)), "b": Outcome((0.1,))}, 0.1, MeasurementError),
        ({"plop": Outcome((0.1, 0.2)), "b": Outcome((0.1, float("nan")))}, 0.1, MeasurementError),
        (
            {
                "plop": Outcome((0.5, 0.5), ((0.0, 1.0), (1.0, 0.0))),
                "b": Outcome((0.5, 0.5), ((0.0, 1.0), (1.0, 0.0, 0.5))),
            },
            0.1,
            MeasurementError,
        ),
    ],
)
def test_outcomes_that_cannot_be_compared(outcomes, margin, error) -> None:
    with pytest.raises(error):
        decide(outcomes, shortlist="plop", margin=margin, higher=True)
