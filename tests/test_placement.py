"""Property tests of budgets and strategies, on records without any model."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

import plop_lora as plop
from plop_lora.errors import UsageError
from plop_lora.placement import default_choice, parse_layers
from plop_lora.placement.budget import RankCost, allocate, parse_budget
from plop_lora.records import DECIDED, UNDECIDED, AdapterSettings

COSTS = st.lists(
    st.builds(RankCost, st.integers(1, 500), st.integers(1, 64), st.integers(0, 3)),
    min_size=1,
    max_size=12,
)


def _total(costs: list[RankCost], ranks: list[int]) -> int:
    return sum(c.parameters_per_rank * r for c, r in zip(costs, ranks, strict=True))


@given(COSTS, st.integers(0, 20_000))
def test_budget_is_never_exceeded_and_nothing_more_fits(costs: list[RankCost], extra: int) -> None:
    budget = _total(costs, [1] * len(costs)) + extra
    ranks = allocate(costs, budget)
    left = budget - _total(costs, ranks)
    assert left >= 0
    for cost, rank in zip(costs, ranks, strict=True):
        assert 1 <= rank <= cost.largest_rank
        assert rank == cost.largest_rank or cost.parameters_per_rank > left


@given(COSTS, st.integers(0, 5000), st.integers(0, 5000))
def test_the_even_part_grows_with_the_budget(costs: list[RankCost], one: int, two: int) -> None:
    smallest = _total(costs, [1] * len(costs))
    low, high = sorted((one, two))
    less, more = allocate(costs, smallest + low), allocate(costs, smallest + high)
    open_less = [r for c, r in zip(costs, less, strict=True) if r < c.largest_rank]
    open_more = [r for c, r in zip(costs, more, strict=True) if r < c.largest_rank]
    if open_less and open_more:
        assert min(open_less) <= min(open_more)


@pytest.mark.slow
@given(st.randoms(use_true_random=False))
def test_order_of_the_record_does_not_matter(scores, random) -> None:
    """The same scores with their types shuffled and sorted again give the same placement."""
    types = list(scores.types)
    random.shuffle(types)
    shuffled = dataclasses.replace(
        scores, types=tuple(sorted(types, key=lambda row: (row.nfn, row.type)))
    )
    assert plop.place(shuffled, budget="5%").sites == plop.place(scores, budget="5%").sites


def test_too_small_a_budget_names_the_smallest(scores) -> None:
    with pytest.raises(UsageError, match=r"smallest that works is (\d|,)+: use --budget \d+") as e:
        plop.place(scores, budget=10)
    smallest = int(str(e.value).split("--budget ")[1].split(",")[0])
    assert {site.rank for site in plop.place(scores, budget=smallest).sites} == {1}
    with pytest.raises(UsageError):
        plop.place(scores, budget=smallest - 1)


@pytest.mark.parametrize(
    ("strategy", "options", "expected"),
    [
        ("attention", {}, {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ("mlp", {}, {"gate_proj", "up_proj", "down_proj"}),
        ("query-value", {}, {"q_proj", "v_proj"}),
        ("custom", {"types": ["o_proj"]}, {"o_proj"}),
    ],
)
def test_strategies(scores, strategy: str, options: dict, expected: set[str]) -> None:
    placement = plop.place(scores, strategy=strategy, **options)
    assert {site.type for site in placement.sites} == expected


def test_plop_takes_the_lowest_and_inverse_the_highest(scores) -> None:
    names = scores.type_names()
    assert [choice.type for choice in plop.place(scores).choices] == names[:3]
    inverse = plop.place(scores, strategy="plop-inverse", top=2)
    assert [choice.type for choice in inverse.choices] == names[::-1][:2]


def test_random_follows_its_seed(scores) -> None:
    drawn = [
        [choice.type for choice in plop.place(scores, strategy="random", seed=seed).choices]
        for seed in (1, 1, 2, 3, 4)
    ]
    assert drawn[0] == drawn[1]
    assert len({tuple(names) for names in drawn}) > 1


def test_verdict_follows_the_paired_intervals(scores) -> None:
    placement = plop.place(scores, top=1)
    (choice,) = placement.choices
    assert choice.next is not None
    assert choice.next.other == scores.type_names()[1]
    separated = choice.left_out.low > 0
    assert placement.verdict == (DECIDED if separated else UNDECIDED)
    assert choice.next.difference == pytest.approx(scores.types[1].nfn - scores.types[0].nfn)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 8}, "these scores have 7 module types"),
        ({"top": 0}, "top is 0; it must be 1 or more"),
        ({"strategy": "atention"}, "Did you mean 'attention'"),
        ({"strategy": "custom", "types": ["q_prj"]}, "Did you mean 'q_proj'"),
        ({"strategy": "custom"}, "--types NAME"),
        ({"strategy": "mlp", "top": 2}, "no meaning"),
        ({"types": ["q_proj"]}, "--strategy custom"),
        ({"rank": 4, "budget": "1M"}, "not both"),
        ({"rank": 0}, "rank is 0; it must be 1 or more"),
        ({"scaling": 0.0}, "above 0"),
        ({"settings": AdapterSettings(init="pissa_niter_0")}, "Allowed: default, .*pissa_niter_N"),
        ({"budget": "ten"}, "Cannot read the budget 'ten'"),
        ({"budget": "0%"}, "allows no parameter"),
    ],
)
def test_requests_that_cannot_work(scores, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plop.place(scores, **options)


def test_parse_budget() -> None:
    assert parse_budget("10M", 1) == 10_000_000
    assert parse_budget("0.5%", 8_000_000) == 40_000
    assert parse_budget(1234, 1) == 1234


def test_chosen_types_without_weights_in_the_layers_are_not_left_out_by_score(scores) -> None:
    """In a hybrid model a type may stand in other blocks; its neighbours are the same as before."""
    first = plop.place(scores).choices[0].type
    hosts = tuple(host for host in scores.hosts if (host.type, host.layer) != (first, 1))
    hybrid = dataclasses.replace(scores, hosts=hosts)
    everywhere, second = plop.place(hybrid), plop.place(hybrid, layers={1})
    assert first not in {choice.type for choice in second.choices}
    assert [choice.left_out for choice in second.choices] == [
        choice.left_out for choice in everywhere.choices if choice.type != first
    ]
    assert second.notes == (f"{first} chosen, but not in these layers",)


def test_only_some_layers(scores) -> None:
    """Types are chosen by all layers; adapters stand in those that were asked for."""
    everywhere, second = plop.place(scores), plop.place(scores, layers={1})
    assert [c.type for c in everywhere.choices] == [c.type for c in second.choices]
    assert {site.layer for site in second.sites} == {1}
    assert 2 * second.trainable_parameters == everywhere.trainable_parameters
    assert {site.name for site in everywhere.sites} - {site.name for site in second.sites} <= set(
        second.untouched
    )
    second.to_peft()
    with pytest.raises(UsageError, match="--layers names 7, but the chosen types occur"):
        plop.place(scores, layers={1, 7})
    with pytest.raises(UsageError, match="Cannot read the layers 'first'"):
        parse_layers("first")


def test_a_placement_takes_as_many_types_as_scoring_decided_for(scores) -> None:
    """`score --top 2` stopped as decided, and `place` took a third type, never decided."""
    two = dataclasses.replace(scores, stopping=dataclasses.replace(scores.stopping, top=2))
    assert len(plop.place(two).choices) == 2
    assert len(plop.place(two, top=3).choices) == 3
    assert len(plop.place(dataclasses.replace(scores, stopping=None)).choices) == 3
    assert len(default_choice(two)) == 2
