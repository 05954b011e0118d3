"""Equal budgets: a placement's weights keep their choice and get the ranks that a budget buys.

The alpha of every arm is the same: an arm with lower ranks has a larger factor alpha / rank, so
that the best learning rate hardly depends on the rank (alpha / rank scaling; "LoRA Without
Regret"). Inside an arm the factor is one, as a placement has it, taken at its mean rank.

Pure; no torch.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from plop_lora.errors import UsageError
from plop_lora.placement import with_ranks
from plop_lora.placement.budget import RankCost, allocate, share_out, tighten
from plop_lora.records import AdapterSettings, Host, PlacedSite, Placement

TOLERANCE = 0.02
"""Share of the budget that an arm may miss it by."""
_STEPS = 200


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """An arm's weights before they have ranks: a placement, what it costs, in what proportions."""

    name: str
    placement: Placement
    costs: tuple[RankCost, ...]
    shares: tuple[float, ...] | None = None

    @property
    def smallest(self) -> int:
        """Parameters at rank 1 everywhere."""
        return sum(cost.parameters_per_rank for cost in self.costs)

    @property
    def largest(self) -> int:
        """Parameters with every weight at its largest rank."""
        return sum(cost.parameters_per_rank * cost.largest_rank for cost in self.costs)

    def ranks(self, budget: int) -> list[int]:
        """Return the ranks that a budget buys: 1 everywhere where it is too small for that."""
        if budget < self.smallest:
            return [1] * len(self.costs)
        if self.shares is None:
            ranks = allocate(self.costs, budget)
        else:
            ranks = share_out(self.costs, self.shares, budget)
        return tighten(self.costs, ranks, budget, int(TOLERANCE * budget))

    def parameters(self, budget: int) -> int:
        """Return what those ranks cost."""
        pairs = zip(self.costs, self.ranks(budget), strict=True)
        return sum(cost.parameters_per_rank * rank for cost, rank in pairs)

    def reaches(self, budget: int) -> bool:
        """Whether the budget is met within the tolerance, or rank 1 costs more already."""
        return self.smallest > budget or self.parameters(budget) >= (1 - TOLERANCE) * budget


def draft(
    name: str, placement: Placement, *, largest_rank: int | None, keep_shares: bool = False
) -> Draft:
    """Take a placement's weights, in their order of preference, without their ranks.

    Args:
        name: of the arm.
        placement: its sites and hosts are read.
        largest_rank: a further limit on every rank, None for that of the weight alone.
        keep_shares: keep the proportions of its ranks.
    """
    hosts = {host.name: host for host in placement.hosts}
    order = {type_name: n for n, type_name in enumerate(dict.fromkeys(_types(placement.sites)))}
    costs = tuple(
        RankCost(
            site.parameters // site.rank,
            _largest_rank(site, hosts.get(site.name), largest_rank),
            order[site.type],
        )
        for site in placement.sites
    )
    ranks = tuple(float(site.rank) for site in placement.sites)
    uneven = keep_shares and len(set(ranks)) > 1
    return Draft(name, placement, costs, ranks if uneven else None)


def fitted(plan: Draft, budget: int, alpha: float, settings: AdapterSettings) -> Placement:
    """Give a draft the ranks that a budget buys, the settings of all arms, and their alpha."""
    ranks = plan.ranks(budget)
    mean_rank = sum(ranks) / len(ranks)
    names = (site.name for site in plan.placement.sites)
    return with_ranks(
        plan.placement,
        dict(zip(names, ranks, strict=True)),
        scaling=alpha / (math.sqrt(mean_rank) if settings.rslora else mean_rank),
        settings=settings,
        budget=budget,
    )


def alpha_for(plan: Draft, budget: int, scaling: float, settings: AdapterSettings) -> float:
    """Return the alpha at which a draft with its ranks from a budget has this scaling."""
    ranks = plan.ranks(budget)
    mean_rank = sum(ranks) / len(ranks)
    return scaling * (math.sqrt(mean_rank) if settings.rslora else mean_rank)


def check_reach(drafts: Sequence[Draft], budget: int, needed: Collection[str]) -> None:
    """Refuse a budget that some arm cannot meet, or that does not buy the first one rank 1.

    Args:
        drafts: of all arms and seeds, the shortlist first.
        budget: adapter parameters.
        needed: arms that cannot be left out.

    Raises:
        UsageError: names every such arm, its closest count, why, and a budget that works.
    """
    allocate(drafts[0].costs, budget)
    drafts = list({id(plan): plan for plan in drafts}.values())
    short = [plan for plan in drafts if not plan.reaches(budget)]
    if not short:
        return
    reasons = "; ".join(dict.fromkeys(_reason(plan, budget) for plan in short))
    raise UsageError(
        f"The budget of {budget:,} parameters is unreachable within {TOLERANCE:.0%} for "
        f"{reasons}. {_way_out(drafts, short, budget, needed)}"
    )


def _way_out(
    drafts: Sequence[Draft], short: Sequence[Draft], budget: int, needed: Collection[str]
) -> str:
    works = _nearest_budget(drafts, budget)
    found = "No budget near it suits every arm"
    if works is not None:
        found = f"Use --budget {works}, which every arm meets"
    names = dict.fromkeys(plan.name for plan in short)
    if any(name in needed for name in names):
        return f"{found}; {' and '.join(dict.fromkeys(needed))} cannot be left out."
    return f"{found}; or leave out: {', '.join(names)}."


def _reason(plan: Draft, budget: int) -> str:
    closest = plan.parameters(budget)
    where = f"{plan.name} (closest: {closest:,}, {1 - closest / budget:.1%} less; "
    if closest >= plan.largest:
        return f"{where}every weight is at its largest rank)"
    unit = min(cost.parameters_per_rank for cost in plan.costs)
    return f"{where}one rank of one weight costs {unit:,} at least)"


def _nearest_budget(drafts: Sequence[Draft], budget: int) -> int | None:
    """Return a budget that every arm meets, the nearest one of a fine ladder around this one.

    An arm that this budget buys rank 1 for must not fall below that.
    """
    plans = sorted(drafts, key=lambda plan: plan.reaches(budget))  # those that fail ask first

    def suits(candidate: int) -> bool:
        return all(
            plan.reaches(candidate) and (plan.smallest <= candidate or plan.smallest > budget)
            for plan in plans
        )

    ladder = (int(budget * step) for n in range(1, _STEPS) for step in (0.99**n, 1.01**n))
    return next((candidate for candidate in ladder if candidate >= 1 and suits(candidate)), None)


def _types(sites: Iterable[PlacedSite]) -> Iterable[str]:
    return (site.type for site in sites)


def _largest_rank(site: PlacedSite, host: Host | None, limit: int | None) -> int:
    """Return the largest rank of a weight; one of unknown sides keeps the rank it has."""
    largest = site.rank if host is None else host.largest_rank
    return largest if limit is None else min(largest, limit)
