"""Whether the score goes with the outcome: types are permuted, since arms are not independent."""

from __future__ import annotations

import itertools
import random

import pytest
from scipy.stats import spearmanr

from plop_lora.verification.predictive import predictive

NFN = {"q": 1.6, "k": 1.5, "v": 0.9, "o": 1.2, "gate": 1.3, "up": 1.0, "down": 1.1}
ARMS = {
    "plop": ("v", "up", "down"), "plop-inverse": ("q", "k", "gate"),
    "attention": ("q", "k", "v", "o"), "mlp": ("gate", "up", "down"), "all-linear": tuple(NFN),
    "query-value": ("q", "v"), "v-o-down": ("v", "o", "down"), "random-1": ("q", "up", "o"),
    "random-2": ("k", "down", "gate"), "random-3": ("v", "k", "up"),
}  # fmt: skip
TYPES = {arm: (types,) for arm, types in ARMS.items()}


def mean(types: tuple[str, ...]) -> float:
    return sum(NFN[name] for name in types) / len(types)


def test_rho_is_that_of_the_arms() -> None:
    reached = {arm: random.Random(arm).random() for arm in ARMS}
    found = predictive(TYPES, NFN, reached, higher=True)
    wanted = spearmanr([mean(types) for types in ARMS.values()], list(reached.values())).statistic
    assert (found.rho, found.arms) == (pytest.approx(wanted), 10)
    assert predictive(TYPES, NFN, reached, higher=False).rho == pytest.approx(-wanted)


def test_p_counts_the_permutations_of_the_types() -> None:
    """Four arms of one type each: of 24 orders, two are as extreme as a perfect one."""
    types = {name: ((name,),) for name in ("v", "up", "down", "o")}
    reached = {name: -NFN[name] for name in types}
    found = predictive(types, NFN, reached, higher=True)
    assert (found.rho, found.p) == (pytest.approx(-1), pytest.approx(2 / 24))


@pytest.mark.slow
def test_a_false_relation_is_found_as_often_as_it_is_said() -> None:
    """Every type has its own effect, and none has to do with NFN; arms as independent find more."""
    rng = random.Random(5)
    ours, theirs, runs = 0, 0, 200
    for _ in range(runs):
        effect = {name: rng.gauss(0, 1) for name in NFN}
        reached = {
            arm: sum(effect[name] for name in types) / len(types) for arm, types in ARMS.items()
        }
        found = predictive(TYPES, NFN, reached, higher=True)
        assert found.p is not None
        ours += found.p < 0.05
        naive = spearmanr([mean(types) for types in ARMS.values()], list(reached.values()))
        theirs += naive.pvalue < 0.05
    assert ours / runs == pytest.approx(0.06)
    assert theirs / runs == pytest.approx(0.27)


def test_arms_without_a_value_or_a_score_are_left_out() -> None:
    reached = dict.fromkeys(ARMS, 0.5) | {"plop": None, "mlp": 0.7}
    types = TYPES | {"tower": (("vision",),)}
    found = predictive(types, NFN, reached | {"tower": 0.9}, higher=True)
    assert found.arms == 9
    few = {arm: reached[arm] for arm in itertools.islice(ARMS, 4)}
    assert predictive(TYPES, NFN, few, higher=True).rho is None
    alike = predictive(TYPES, NFN, dict.fromkeys(ARMS, 0.5), higher=True)
    assert (alike.rho, alike.p) == (None, None)


def test_draws_that_differ_by_seed_count_with_all_their_types() -> None:
    types = TYPES | {"random": (("q",), ("v",))}
    reached = {arm: -mean(names) for arm, names in ARMS.items()}
    reached["random"] = -(NFN["q"] + NFN["v"]) / 2
    assert predictive(types, NFN, reached, higher=True).rho == pytest.approx(-1)
