"""What a search may choose from, and which choices the budget allows. Pure; no torch."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from plop_lora.errors import UsageError, nearest
from plop_lora.placement import STRATEGIES, alpha_of, parse_budget, place
from plop_lora.placement.place import check_settings
from plop_lora.recipe import TuneRecipe
from plop_lora.records import AdapterSettings, PlacedSite, Placement, Scores
from plop_lora.records.trial import GRPO
from plop_lora.records.tuning import Configuration
from plop_lora.training.task import check_task, usual_rate

SHORTLIST = "plop"
USUAL = (SHORTLIST, "all-linear", "mlp", "attention")
INITS = ("default", "gaussian", "orthogonal", "eva", "pissa")
"""Initialisations that a trial carries out; the others need a step that plop does not take."""
RL_RANK = 32
"""GRPO collapses at high ranks, more so with large batches (OpenReview XGZHI14m8P)."""

Table = Mapping[tuple[str, int], Placement]


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """The choices; `table` holds the placement of every pair of name and rank.

    `rate` lies within `low` and `high` and is where the default stands.
    """

    names: tuple[str, ...]
    ranks: tuple[int, ...]
    inits: tuple[str, ...]
    ratios: tuple[float, ...]
    low: float
    high: float
    rate: float
    budget: int
    table: Table
    notes: tuple[str, ...]

    @property
    def default(self) -> Configuration:
        """The shortlist at the middle rank, or at the next below that the budget allows."""
        rank = self.largest_rank(SHORTLIST, self.ranks[len(self.ranks) // 2])
        assert rank is not None, "build_space refuses a budget below the shortlist"
        return Configuration(SHORTLIST, rank, "default", rounded(self.rate))

    def largest_rank(self, name: str, limit: int) -> int | None:
        """Return the largest rank up to `limit` at which a placement fits, None without one."""
        fits = (rank for rank in self.ranks if rank <= limit and self.excess(name, rank) <= 0)
        return max(fits, default=None)

    def excess(self, name: str, rank: int) -> int:
        """Return the adapter parameters above the budget; 0 or less is within it."""
        return self.table[name, rank].trainable_parameters - self.budget

    def placement(self, point: Configuration) -> Placement:
        """Return the placement of a configuration, with its initialisation and LoRA+ ratio."""
        base = self.table[point.placement, point.rank]
        ratio = None if point.loraplus_ratio == 1 else point.loraplus_ratio
        settings = replace(base.settings, init=point.init, loraplus_ratio=ratio)
        return replace(base, settings=settings)

    def around(self, rate: float, width: float) -> Space:
        """Return the space narrowed to a factor of `width` on both sides of a rate."""
        low, high = max(self.low, rate / width), min(self.high, rate * width)
        return replace(self, low=low, high=high, rate=min(max(rate, low), high))


def build_space(recipe: TuneRecipe, scores: Scores) -> Space:
    """Return the choices of a recipe; the default configuration is always among them.

    Raises:
        UsageError: an unknown task, placement or initialisation, a file for another model, a
            number out of range, or a budget that not even the default fits.
    """
    check_task(recipe.task)
    notes: list[str] = []
    ranks = _ranks(recipe, notes)
    inits = _inits(recipe)
    low, high = _rates(recipe)
    table = _table(recipe, scores, ranks, notes)
    base = usual_rate(recipe.task, recipe.full_rate)
    space = Space(
        names=tuple(dict.fromkeys(name for name, _ in table)),
        ranks=ranks,
        inits=inits,
        ratios=_ratios(recipe),
        low=low * base,
        high=high * base,
        rate=min(max(base, low * base), high * base),
        budget=_budget(recipe, scores),
        table=table,
        notes=tuple(notes),
    )
    if space.largest_rank(SHORTLIST, ranks[len(ranks) // 2]) is None:
        least = table[SHORTLIST, ranks[0]].trainable_parameters
        raise UsageError(
            f"The budget of {space.budget:,} adapter parameters is below the shortlist at rank "
            f"{ranks[0]}, which has {least:,}. Give --budget {least}, or smaller ranks in the "
            "recipe."
        )
    return space


def rounded(rate: float) -> float:
    """Return a rate in three digits: no trial can tell more of them apart.

    >>> rounded(0.000123456)
    0.000123
    """
    return float(f"{rate:.3g}")


def ladder_rates(space: Space, trials: int) -> tuple[float, ...]:
    """Return the rates of the ladder over the whole range: 5, 3 with few trials, else none."""
    steps = 5 if trials >= 20 else 3 if trials >= 10 else 0
    if not steps or space.low == space.high:
        return ()
    ratio = (space.high / space.low) ** (1 / (steps - 1))
    return tuple(rounded(space.low * ratio**step) for step in range(steps))


def _ranks(recipe: TuneRecipe, notes: list[str]) -> tuple[int, ...]:
    ranks = sorted(set(recipe.ranks))
    if not ranks or ranks[0] < 1:
        raise UsageError(f"ranks: {list(recipe.ranks)} is not possible; give ranks of 1 and more.")
    kept = [rank for rank in ranks if recipe.task != GRPO or rank <= RL_RANK]
    if not kept:
        raise UsageError(
            f"ranks: {ranks} are all above {RL_RANK}, beyond which grpo collapses. Give smaller "
            "ones, such as [4, 8, 16, 32]."
        )
    if kept != ranks:
        left = ", ".join(str(rank) for rank in ranks if rank > RL_RANK)
        notes.append(f"ranks {left} left out, since grpo collapses above {RL_RANK}")
    return tuple(kept)


def _inits(recipe: TuneRecipe) -> tuple[str, ...]:
    for name in recipe.inits:
        if name not in INITS:
            raise UsageError(
                f"inits: a trial cannot carry out {name!r}.{nearest(name, INITS)} "
                f"Allowed: {', '.join(INITS)}."
            )
    return tuple(dict.fromkeys(("default", *recipe.inits)))


def _ratios(recipe: TuneRecipe) -> tuple[float, ...]:
    for ratio in recipe.loraplus:
        check_settings(1.0, AdapterSettings(loraplus_ratio=ratio))
    return tuple(dict.fromkeys((1.0, *recipe.loraplus)))


def _rates(recipe: TuneRecipe) -> tuple[float, float]:
    low, high = recipe.rates
    if not 0 < low <= high:
        raise UsageError(
            f"rates: {low:g} to {high:g} is no range; give two factors above 0, the lower first, "
            "such as [0.1, 10]."
        )
    return low, high


def _budget(recipe: TuneRecipe, scores: Scores) -> int:
    if recipe.budget is None:
        return place(scores, top=recipe.top, rank=recipe.rank).trainable_parameters
    return parse_budget(recipe.budget, scores.model.parameters)


def _table(
    recipe: TuneRecipe, scores: Scores, ranks: tuple[int, ...], notes: list[str]
) -> dict[tuple[str, int], Placement]:
    """Place everything once: a search asks for the same few placements again and again."""
    table: dict[tuple[str, int], Placement] = {}
    for name in dict.fromkeys((SHORTLIST, *(recipe.placements or USUAL))):
        try:
            made = [_placed(recipe, scores, name, rank) for rank in ranks]
        except UsageError as error:
            if recipe.placements or name == SHORTLIST:
                raise
            notes.append(f"{name} left out: {str(error).partition('.')[0]}")
            continue
        table |= {(name, rank): one for rank, one in zip(ranks, made, strict=True)}
    return table


def _placed(recipe: TuneRecipe, scores: Scores, name: str, rank: int) -> Placement:
    if name in STRATEGIES and not STRATEGIES[name].by_name:
        top = recipe.top if STRATEGIES[name].uses_top else None
        return place(scores, strategy=name, top=top, rank=rank, seed=recipe.seed)
    if not Path(name).is_file():
        allowed = [row.name for row in STRATEGIES.values() if not row.by_name]
        raise UsageError(
            f"placements: {name!r} is neither a strategy nor a file.{nearest(name, allowed)} "
            f"Allowed: {', '.join(allowed)}, or a file written by plop place."
        )
    placement = Placement.load(name)
    known = {host.name for host in scores.hosts}
    strange = sorted(site.name for site in placement.sites if site.name not in known)
    if strange:
        raise UsageError(
            f"placements: {name} adapts {strange[0]}, which the scored model "
            f"{scores.model.name} does not have. Place it from these scores."
        )
    return reranked(placement, rank)


def reranked(placement: Placement, rank: int) -> Placement:
    """Return a placement with one rank for all its weights, cut at what a weight can take."""
    largest = {host.name: host.largest_rank for host in placement.hosts}

    def site_of(site: PlacedSite) -> PlacedSite:
        mine = min(rank, largest.get(site.name, rank))
        return replace(
            site,
            rank=mine,
            alpha=alpha_of(mine, placement.scaling, placement.settings),
            parameters=site.parameters // site.rank * mine,
        )

    sites = tuple(site_of(site) for site in placement.sites)
    by_type = itertools.groupby(sorted(sites, key=lambda site: site.type), lambda site: site.type)
    groups = {name: list(members) for name, members in by_type}
    choices = tuple(
        replace(
            choice,
            lowest_rank=min(site.rank for site in groups[choice.type]),
            highest_rank=max(site.rank for site in groups[choice.type]),
            parameters=sum(site.parameters for site in groups[choice.type]),
        )
        for choice in placement.choices
    )
    total = sum(site.parameters for site in sites)
    return replace(placement, sites=sites, choices=choices, trainable_parameters=total, budget=None)
