"""Budgets and layers: parse `10M`, `0.5%` and `0-11`, and distribute a budget over ranks. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from plop_lora.errors import UsageError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9}
_LAYERS = re.compile(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?")
_MOST = 10**15
_LAST_LAYER = 100_000
"""Upper bound of a layer number, so that a mistyped range cannot fill the memory."""
_HALVINGS = 60
_LONGEST_SWAP = 8
_PATTERN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmbg%]?)\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class RankCost:
    """Parameters of one rank unit of a site, its largest useful rank, and its group."""

    parameters_per_rank: int
    largest_rank: int
    group: int


def parse_budget(text: str | int, model_parameters: int) -> int:
    """Return a budget as a number of trainable parameters.

    Args:
        text: `5000000`, `10M`, `750k`, `1.5B`, or `0.5%` of the model's parameters.
        model_parameters: Number of parameters to which a percentage refers.

    Raises:
        UsageError: The text has none of these forms, or the budget is zero or more than the model.

    >>> parse_budget("0.5%", 2_000_000)
    10000
    >>> parse_budget("1.5k", 0)
    1500
    """
    match = _PATTERN.fullmatch(str(text))
    if match is None:
        raise UsageError(
            f"Cannot read the budget {text!r}. Give trainable parameters such as 10M, 750k or "
            "5000000, or a share of the model's parameters such as 0.5%."
        )
    number, unit = float(match[1]), match[2].lower()
    if unit == "%" and number > 100:
        raise UsageError(
            f"The budget {text!r} is more than the whole model. Give a share of its parameters "
            "of at most 100%, such as 0.5%."
        )
    if not number < _MOST:
        raise UsageError(
            f"The budget {str(text)[:20]}… is larger than any model. Give less, such as 10M."
        )
    factor = model_parameters / 100 if unit == "%" else _UNITS[unit]
    budget = int(number * factor + 1e-6)
    if budget <= 0:
        raise UsageError(f"The budget {text!r} allows no parameter. Give more, such as 0.5%.")
    return budget


def parse_layers(text: str) -> set[int]:
    """Return layer numbers written as `0-11`, `0,2,4` or both.

    Raises:
        UsageError: The text has neither form.

    >>> sorted(parse_layers("0-2,5"))
    [0, 1, 2, 5]
    """
    layers: set[int] = set()
    for part in text.split(","):
        match = _LAYERS.fullmatch(part)
        if match is None:
            raise UsageError(f"Cannot read the layers {text!r}. Write 0-11 or 0,2,4.")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last <= _LAST_LAYER:
            raise UsageError(
                f"The layers {part.strip()!r} are not possible. Count blocks from 0, the lower "
                "number first: 0-11."
            )
        layers.update(range(first, last + 1))
    return layers


def allocate(costs: Sequence[RankCost], budget: int) -> list[int]:
    """Distribute a budget over the ranks as evenly as possible.

    All sites get the same rank. The remainder raises whole groups by one rank in their order, then
    single sites in their order, until no rank unit fits. A site never gets more than its
    `largest_rank`.

    Args:
        costs: One entry per site, at least one. Groups are numbered by preference from 0.
        budget: Number of trainable parameters.

    Returns:
        One rank per site, each at least 1.

    Raises:
        UsageError: Rank 1 everywhere exceeds the budget. The text names the smallest one that
            works.
    """
    smallest = _total(costs, [1] * len(costs))
    if budget < smallest:
        raise UsageError(
            f"The budget of {budget:,} parameters is too small for rank 1 on these "
            f"{len(costs)} weights. The smallest that works is {smallest:,}: use "
            f"--budget {smallest}, or choose fewer types with --top."
        )
    uniform = _largest_uniform_rank(costs, budget)
    ranks = [min(uniform, cost.largest_rank) for cost in costs]
    left = budget - _total(costs, ranks)
    for group in sorted({cost.group for cost in costs}):
        members = [index for index, cost in enumerate(costs) if cost.group == group]
        left = _raise_together(costs, ranks, members, left)
    _spend(costs, ranks, left, _by_preference(costs))
    return ranks


def share_out(costs: Sequence[RankCost], shares: Sequence[float], budget: int) -> list[int]:
    """Distribute a budget over the ranks in given proportions.

    Ranks are the shares times the largest common factor that the budget allows, rounded down, at
    least 1 and at most a site's `largest_rank`. The remainder raises single ranks, first those
    that rounding reduced most, until no rank unit fits.

    Args:
        costs: One entry per site, at least one.
        shares: One positive number per site, of which only the proportions count.
        budget: Number of trainable parameters, at least that of rank 1 everywhere.
    """
    low, high = 0.0, max(c.largest_rank / share for c, share in zip(costs, shares, strict=True))
    ranks = _scaled(costs, shares, high)
    if _total(costs, ranks) > budget:
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            fits = _total(costs, _scaled(costs, shares, middle)) <= budget
            low, high = (middle, high) if fits else (low, middle)
        ranks = _scaled(costs, shares, low)
    lost = [share * low - rank for share, rank in zip(shares, ranks, strict=True)]
    order = sorted(range(len(costs)), key=lambda site: (-lost[site], costs[site].group, site))
    _spend(costs, ranks, budget - _total(costs, ranks), order)
    return ranks


def tighten(costs: Sequence[RankCost], ranks: Sequence[int], budget: int, gap: int) -> list[int]:
    """Reduce the unused part of a budget by swaps, when no further rank unit fits.

    A swap lowers the rank of one site and raises that of another with a different cost, so that
    fewer parameters are unused. Swaps end when at most `gap` parameters are unused or none helps.
    """
    tight = list(ranks)
    while (left := budget - _total(costs, tight)) > gap:
        swaps = [
            (left + down * costs[giver].parameters_per_rank - up * costs[taker].parameters_per_rank,
             down + up, giver, taker, down, up)
            for giver in _one_a_price(costs, tight, lower=True)
            for taker in _one_a_price(costs, tight, lower=False)
            for down in range(1, min(tight[giver], _LONGEST_SWAP))
            for up in range(1, min(costs[taker].largest_rank - tight[taker], _LONGEST_SWAP) + 1)
            if costs[giver].parameters_per_rank != costs[taker].parameters_per_rank
        ]  # fmt: skip
        best = min((swap for swap in swaps if 0 <= swap[0] < left), default=None)
        if best is None:
            return tight
        _, _, giver, taker, down, up = best
        tight[giver] -= down
        tight[taker] += up
    return tight


def _one_a_price(costs: Sequence[RankCost], ranks: Sequence[int], *, lower: bool) -> list[int]:
    """Return one site per cost: the one whose rank can be lowered, or raised, the most."""
    best: dict[int, int] = {}
    for site in _by_preference(costs):
        price = costs[site].parameters_per_rank
        spare = [costs[s].largest_rank - ranks[s] for s in (site, best.get(price, site))]
        more = ranks[site] > ranks[best.get(price, site)] if lower else spare[0] > spare[1]
        if price not in best or more:
            best[price] = site
    return list(best.values())


def _scaled(costs: Sequence[RankCost], shares: Sequence[float], factor: float) -> list[int]:
    return [
        max(1, min(int(share * factor), cost.largest_rank))
        for cost, share in zip(costs, shares, strict=True)
    ]


def _spend(costs: Sequence[RankCost], ranks: list[int], left: int, order: Sequence[int]) -> None:
    """Raise the sites by one rank in order, repeatedly, until no rank unit fits."""
    while True:
        before = left
        for site in order:
            left = _raise_together(costs, ranks, [site], left)
        if left == before:
            return


def _by_preference(costs: Sequence[RankCost]) -> list[int]:
    return sorted(range(len(costs)), key=lambda index: (costs[index].group, index))


def _raise_together(
    costs: Sequence[RankCost], ranks: list[int], members: list[int], left: int
) -> int:
    """Raise every member by one rank if all can take it and it fits; return the unused budget."""
    price = sum(costs[index].parameters_per_rank for index in members)
    can_grow = all(ranks[index] < costs[index].largest_rank for index in members)
    if not can_grow or price > left:
        return left
    for index in members:
        ranks[index] += 1
    return left - price


def _largest_uniform_rank(costs: Sequence[RankCost], budget: int) -> int:
    low, high = 1, max(cost.largest_rank for cost in costs)
    while low < high:
        middle = (low + high + 1) // 2
        if _total(costs, [min(middle, cost.largest_rank) for cost in costs]) <= budget:
            low = middle
        else:
            high = middle - 1
    return low


def _total(costs: Sequence[RankCost], ranks: Sequence[int]) -> int:
    return sum(cost.parameters_per_rank * rank for cost, rank in zip(costs, ranks, strict=True))
