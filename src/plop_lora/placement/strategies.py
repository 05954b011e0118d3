"""From `Scores` to `Placement`: named rules that choose module types, then ranks. Pure; no torch.

A strategy is a row of `STRATEGIES`: a function from the eligible types (lowest NFN first) to the
chosen ones, in order of preference.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from plop_lora._version import __version__
from plop_lora.errors import UsageError, nearest
from plop_lora.placement.budget import RankCost, allocate, parse_budget
from plop_lora.records import (
    DECIDED,
    UNDECIDED,
    UNSCORED,
    Choice,
    Gap,
    PlacedSite,
    Placement,
    Scores,
    SiteScore,
    TypeScore,
)
from plop_lora.statistics import Estimate, paired_difference, type_estimate

DEFAULT_TOP = 3
DEFAULT_RANK = 16
_QUERY_VALUE = re.compile(r"(q|query|v|value)(_proj|_lin)?")
_FUSED_QUERY_VALUE = re.compile(r"(.*qkv.*|query_key_value|c_attn)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Request:
    """What a strategy may look at besides the types."""

    top: int
    seed: int
    types: tuple[str, ...]


Chooser = Callable[[list[TypeScore], Request], list[TypeScore]]


@dataclass(frozen=True, slots=True)
class Strategy:
    """One row of the registry."""

    name: str
    choose: Chooser
    description: str
    source: str
    uses_top: bool = False
    by_score: bool = False


def _lowest(types: list[TypeScore], request: Request) -> list[TypeScore]:
    return types[: request.top]


def _highest(types: list[TypeScore], request: Request) -> list[TypeScore]:
    return types[::-1][: request.top]


def _random(types: list[TypeScore], request: Request) -> list[TypeScore]:
    by_name = sorted(types, key=lambda row: row.type)
    chosen = random.Random(request.seed).sample(by_name, request.top)
    return [row for row in types if row in chosen]


def _all(types: list[TypeScore], request: Request) -> list[TypeScore]:
    return types


def _role(role: str) -> Chooser:
    def choose(types: list[TypeScore], request: Request) -> list[TypeScore]:
        return [row for row in types if row.role == role]

    return choose


def _query_value(types: list[TypeScore], request: Request) -> list[TypeScore]:
    def matches(row: TypeScore) -> bool:
        leaf = row.type.rsplit(".", 1)[-1]
        return bool(_QUERY_VALUE.fullmatch(leaf) or _FUSED_QUERY_VALUE.fullmatch(leaf))

    return [row for row in types if row.role == "attention" and matches(row)]


def _custom(types: list[TypeScore], request: Request) -> list[TypeScore]:
    by_name = {row.type: row for row in types}
    if not request.types:
        raise UsageError(
            "The strategy 'custom' needs the types to adapt: --types NAME,NAME. "
            f"This model has: {', '.join(by_name)}."
        )
    for name in request.types:
        if name not in by_name:
            raise UsageError(
                f"There is no module type {name!r} to adapt.{nearest(name, by_name)} "
                f"This model has: {', '.join(by_name)}."
            )
    return [by_name[name] for name in dict.fromkeys(request.types)]


_PAPER = "PLoP, arXiv 2506.20629, https://arxiv.org/abs/2506.20629"
_LORA = "LoRA, arXiv 2106.09685, https://arxiv.org/abs/2106.09685"

STRATEGIES: dict[str, Strategy] = {
    row.name: row
    for row in (
        Strategy("plop", _lowest, "the types with the lowest NFN", _PAPER, True, True),
        Strategy("plop-inverse", _highest, "the highest NFN, a sanity check", _PAPER, True, True),
        Strategy("attention", _role("attention"), "every type inside attention", _PAPER),
        Strategy("mlp", _role("mlp"), "every type of the feed-forward part", _PAPER),
        Strategy("all-linear", _all, "every type", "QLoRA, arXiv 2305.14314"),
        Strategy("random", _random, "types drawn with the seed", "a baseline", True),
        Strategy("query-value", _query_value, "query and value projections", _LORA),
        Strategy("custom", _custom, "the types that --types names", "the user"),
    )
}
"""Name → strategy. Directions: `plop` takes low scores, `plop-inverse` high ones, the rest none."""


def place(
    scores: Scores,
    *,
    strategy: str = "plop",
    top: int | None = None,
    rank: int | None = None,
    budget: str | int | None = None,
    types: Sequence[str] = (),
    scaling: float = 2.0,
    seed: int = 0,
) -> Placement:
    """Choose module types and ranks from scores.

    Args:
        scores: result of `score`; only eligible types are ever chosen.
        strategy: a name in `STRATEGIES`.
        top: how many types the strategies `plop`, `plop-inverse` and `random` take; default 3.
        rank: LoRA rank of every site; default 16. Not together with `budget`.
        budget: trainable parameters (`"10M"`, `"0.5%"` of the model's), never exceeded; ranks
            are as even as it allows and no further rank unit fits.
        types: the types of the strategy `custom`.
        scaling: alpha / rank, the same for every site.
        seed: of the strategy `random`.

    Returns:
        The placement, with the gap of each choice to its neighbours in NFN and a verdict.

    Raises:
        UsageError: an unknown name, a number out of range, a budget below rank 1.
    """
    row = _strategy(strategy)
    eligible = [entry for entry in scores.types if entry.eligible]
    _check(row, eligible, top, rank, budget, types, scaling)
    taken = min(DEFAULT_TOP, len(eligible)) if top is None else top
    chosen = row.choose(eligible, Request(taken, seed, tuple(types)))
    if not chosen:
        raise UsageError(
            f"The strategy {strategy!r} finds none of its types in this model, which has: "
            f"{', '.join(entry.type for entry in eligible)}. Use --strategy custom --types NAME."
        )
    limit = None if budget is None else parse_budget(budget, scores.model.parameters)
    sites = _place_sites(scores, chosen, rank or DEFAULT_RANK, limit, scaling)
    choices = _choices(scores, row, eligible, chosen, sites)
    placed = {site.name for site in sites}
    names = [site.name for site in scores.sites]
    names += [entry.name for entry in scores.coverage.not_measured]
    return Placement(
        model=scores.model,
        strategy=strategy,
        verdict=_verdict(row, choices),
        choices=choices,
        sites=sites,
        scaling=scaling,
        trainable_parameters=sum(site.parameters for site in sites),
        budget=limit,
        untouched=tuple(name for name in names if name not in placed),
        seed=seed,
        scores_digest=scores.digest(),
        plop_version=__version__,
    )


def default_choice(scores: Scores) -> set[str]:
    """Return the types that `place(scores)` would choose, for marking them in a table."""
    return {row.type for row in [row for row in scores.types if row.eligible][:DEFAULT_TOP]}


def _strategy(name: str) -> Strategy:
    if name not in STRATEGIES:
        raise UsageError(
            f"There is no strategy {name!r}.{nearest(name, STRATEGIES)} "
            f"Allowed: {', '.join(STRATEGIES)}."
        )
    return STRATEGIES[name]


def _check(
    row: Strategy,
    eligible: list[TypeScore],
    top: int | None,
    rank: int | None,
    budget: str | int | None,
    types: Sequence[str],
    scaling: float,
) -> None:
    if not eligible:
        raise UsageError("These scores hold no type that a placement may use.")
    if top is not None and not row.uses_top:
        raise UsageError(f"--top has no meaning for the strategy {row.name!r}; leave it out.")
    if top is not None and not 1 <= top <= len(eligible):
        raise UsageError(
            f"--top {top} is not possible: these scores have {len(eligible)} module types "
            f"({', '.join(entry.type for entry in eligible)}). Give 1 to {len(eligible)}."
        )
    if types and row.name != "custom":
        raise UsageError("--types belongs to --strategy custom; add it or leave --types out.")
    if rank is not None and budget is not None:
        raise UsageError("Give --rank or --budget, not both: a budget decides the ranks.")
    if rank is not None and rank < 1:
        raise UsageError(f"--rank {rank} is not possible; give 1 or more.")
    if not scaling > 0:
        raise UsageError(f"The scaling alpha/rank must be above 0, not {scaling}.")


def _place_sites(
    scores: Scores, chosen: list[TypeScore], rank: int, limit: int | None, scaling: float
) -> tuple[PlacedSite, ...]:
    preference = {row.type: order for order, row in enumerate(chosen)}
    members = [site for site in scores.sites if site.type in preference]
    costs = [_rank_cost(site, preference[site.type]) for site in members]
    if limit is None:
        ranks = [min(rank, cost.largest_rank) for cost in costs]
    else:
        ranks = allocate(costs, limit)
    return tuple(
        PlacedSite(
            name=site.name,
            type=site.type,
            layer=site.layer,
            rank=site_rank,
            alpha=scaling * site_rank,
            parameters=site_rank * cost.parameters_per_rank,
        )
        for site, cost, site_rank in zip(members, costs, ranks, strict=True)
    )


def _rank_cost(site: SiteScore, group: int) -> RankCost:
    return RankCost(
        parameters_per_rank=site.in_features + site.out_features,
        largest_rank=min(site.in_features, site.out_features),
        group=group,
    )


def _choices(
    scores: Scores,
    row: Strategy,
    eligible: list[TypeScore],
    chosen: list[TypeScore],
    sites: tuple[PlacedSite, ...],
) -> tuple[Choice, ...]:
    """Describe each choice; neighbours are looked up in the direction the strategy prefers."""
    ranking = eligible[::-1] if row.name == "plop-inverse" else eligible
    names = [entry.type for entry in ranking]
    left_out = [name for name in names if name not in {entry.type for entry in chosen}]
    estimates = {name: _estimate(scores, name) for name in names}

    def gap(name: str, others: list[str]) -> Gap | None:
        """Return the gap to the other type that is nearest in score."""
        if not others:
            return None
        value = estimates[name].value
        other = min(others, key=lambda option: abs(estimates[option].value - value))
        difference = paired_difference(estimates[other], estimates[name])
        return Gap(other, difference.value, difference.low, difference.high, difference.verdict)

    choices = []
    for entry in chosen:
        following = names[names.index(entry.type) + 1 :][:1]
        placed = [site for site in sites if site.type == entry.type]
        choices.append(
            Choice(
                type=entry.type,
                nfn=entry.nfn,
                low=entry.low,
                high=entry.high,
                modules=len(placed),
                lowest_rank=min(site.rank for site in placed),
                highest_rank=max(site.rank for site in placed),
                parameters=sum(site.parameters for site in placed),
                next=gap(entry.type, following),
                left_out=gap(entry.type, left_out),
            )
        )
    return tuple(choices)


def _estimate(scores: Scores, type_name: str) -> Estimate:
    orders = [order for order, site in enumerate(scores.sites) if site.type == type_name]
    return type_estimate(scores.measurements, orders)


def _verdict(row: Strategy, choices: tuple[Choice, ...]) -> str:
    """Whether the data separate what was chosen from what was left out."""
    if not row.by_score:
        return UNSCORED
    gaps = [choice.left_out for choice in choices if choice.left_out is not None]
    return DECIDED if all(gap.verdict == DECIDED for gap in gaps) else UNDECIDED
