"""The step `place`: from `Scores` to `Placement`. Pure; no torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from plop_lora._version import __version__
from plop_lora.errors import UsageError, nearest
from plop_lora.indicators import INDICATORS, NFN, Indicator, recorded_indicator
from plop_lora.placement.budget import RankCost, allocate, parse_budget, parse_layers
from plop_lora.placement.groups import (
    Group,
    first_alone,
    forced_members,
    groups_of,
    held_back,
)
from plop_lora.placement.inits import INITS, is_init
from plop_lora.placement.ranks import alpha_of
from plop_lora.placement.strategies import (
    LEARNED,
    Answer,
    End,
    Request,
    Strategy,
    answer_of,
    find_strategy,
)
from plop_lora.recipe import USUAL_TOP, PlacementSettings
from plop_lora.records import (
    DECIDED,
    TIE,
    UNDECIDED,
    UNSCORED,
    AdapterSettings,
    Choice,
    Gap,
    GapVerdict,
    Host,
    LearnedModel,
    PlacedSite,
    Placement,
    Scores,
)
from plop_lora.statistics import paired_difference

Ties = Mapping[tuple[str, str], Gap]
"""(chosen type, type outside the choice) → the gap between them."""

DEFAULT_RANK = 16
LEAST_COVERAGE = 0.5
"""Share of the block parameters that scores must cover for a default choice."""


def place(
    scores: Scores | str | Path,
    options: PlacementSettings | None = None,
    *,
    settings: AdapterSettings | None = None,
    **keys: Any,
) -> Placement:
    """Choose module types and ranks from scores.

    Args:
        scores: The result of `score`, or the file of one. Where it covers less than
            `LEAST_COVERAGE` of the block parameters there is no default choice, and `top` or
            `types` must say what is wanted; what is never proposed (towers, routers, modules
            outside the blocks) is placed only where `types` names it.
        options: Settings of the choice, the ranks and the adapters; `PlacementSettings` describes
            every key.
        settings: Settings of the adapters from another placement, in place of the same keys.
        **keys: Keys of the options, such as `top=3, rank=8, layers=[0, 1]`, which take precedence
            over `options` and `settings`. A budget is never exceeded: ranks are as even as it
            allows, and no further rank unit fits. A fused projection counts as one type, whose
            score is the mean over its slices. Types are chosen by their score over all layers,
            also where only some layers get adapters.

    Returns:
        The placement, with the gap of each choice to its neighbours in the indicator and a verdict.

    Raises:
        UsageError: A key or name is unknown, a number is out of range, or the budget does not
            allow rank 1 everywhere.
    """
    scores = Scores.of(scores)
    asked = PlacementSettings.of(options, ({} if settings is None else asdict(settings)) | keys)
    row = find_strategy(asked.strategy)
    ranked_by = _indicator_of(row, asked.indicator)
    every = groups_of(scores, ranked_by)
    eligible = [group for group in every if group.eligible]
    _check(row, eligible, asked)
    check_init(asked.init)
    answer = _answer(scores, asked, row, every)
    row = answer.row
    if row.by_score and asked.top is None:
        _check_coverage(scores, ranked_by)
    chosen = row.choose(eligible, answer.request)
    if not chosen:
        raise UsageError(
            f"The strategy {asked.strategy!r} finds none of its types in this model, which has: "
            f"{', '.join(group.type for group in eligible)}. Use --strategy custom --types NAME."
        )
    limit = None if asked.budget is None else parse_budget(asked.budget, scores.model.parameters)
    layers = parse_layers(asked.layers) if isinstance(asked.layers, str) else asked.layers
    hosts = _hosts_of(chosen, layers)
    sites = _place_sites(hosts, limit, asked)
    ties = known_ties(scores) if ranked_by.name == NFN else {}
    choices = choices_of(row, eligible, chosen, sites, ties, ranked_by)
    notes = (*answer.notes, *_notes(row, eligible, chosen, sites, ranked_by))
    verdict, tolerance = _verdict(row, choices)
    return Placement(
        model=scores.model,
        strategy=asked.strategy,
        verdict=verdict,
        choices=choices,
        sites=sites,
        scaling=asked.scaling,
        trainable_parameters=sum(site.parameters for site in sites),
        budget=limit,
        hosts=scores.hosts,
        untouched=_untouched(scores, sites),
        seed=asked.seed,
        scores_digest=scores.digest(),
        plop_version=__version__,
        settings=asked.adapters,
        notes=(*notes, *_unread(scores, every), *_clipped(hosts, asked.rank, limit)),
        indicator=ranked_by.name,
        tolerance=tolerance,
    )


def _indicator_of(row: Strategy, asked: str) -> Indicator:
    """Return the indicator that a strategy ranks by, which is the one asked for if it has none.

    Raises:
        UsageError: There is no such indicator, or the strategy has another one.
    """
    given = recorded_indicator(asked)
    if row.indicator is None:
        return given
    if asked not in (NFN, row.indicator):
        raise UsageError(
            f"The strategy {row.name!r} ranks by its own indicator. Leave out --indicator {asked}, "
            "or give --strategy plop."
        )
    return recorded_indicator(row.indicator)


def _answer(scores: Scores, asked: PlacementSettings, row: Strategy, every: list[Group]) -> Answer:
    """Return the strategy that chooses in the end, with all that it may look at."""
    eligible = [group for group in every if group.eligible]
    taken = min(usual_top(scores), len(eligible)) if asked.top is None else asked.top
    learned = None if asked.learned is None else LearnedModel.load(asked.learned)
    request = Request(taken, asked.seed, asked.types, tuple(every), learned)
    return answer_of(row, eligible, request, scores)


def usual_top(scores: Scores) -> int:
    """Return the number of types to choose where none is given.

    Scoring stops when it has decided which types these are; for another number it has decided
    nothing.
    """
    return USUAL_TOP if scores.stopping is None else scores.stopping.top


def default_choice(scores: Scores) -> set[str]:
    """Return the types that `place(scores)` would choose, which reports mark; possibly none."""
    if scores.coverage.share_of_asked < LEAST_COVERAGE:
        return set()
    eligible = [group for group in groups_of(scores) if group.eligible]
    top = usual_top(scores)
    return {member.type for group in eligible[:top] for member in group.members}


def _check(row: Strategy, eligible: list[Group], asked: PlacementSettings) -> None:
    """Check that the options are consistent and possible with these scores."""
    if not eligible and not row.by_name:
        raise UsageError(
            "These scores hold no module type that is proposed by default. Name the types to adapt "
            "with --strategy custom --types NAME."
        )
    if asked.top is not None and not row.uses_top:
        raise UsageError(f"--top has no meaning for the strategy {row.name!r}; leave it out.")
    if asked.top is not None and asked.top > len(eligible):
        raise UsageError(
            f"--top {asked.top} is not possible: these scores have {len(eligible)} module types "
            f"({', '.join(group.type for group in eligible)}). Give 1 to {len(eligible)}."
        )
    if asked.types and not row.by_name:
        raise UsageError("--types needs --strategy custom; add it or leave --types out.")
    if row.name == LEARNED and asked.indicator != NFN:
        raise UsageError(
            f"--indicator has no meaning for the strategy {LEARNED!r}, whose model names the "
            "indicators that it needs; leave it out."
        )
    if asked.learned is not None and row.name != LEARNED:
        raise UsageError(f"--learned needs --strategy {LEARNED}; add it or leave --learned out.")
    if asked.rank is not None and asked.budget is not None:
        raise UsageError("Give --rank or --budget, not both: a budget decides the ranks.")


def _check_coverage(scores: Scores, indicator: Indicator) -> None:
    """Check that the scores cover enough of the model for a default choice.

    Raises:
        UsageError: They do not. The text says what was measured and how to choose nevertheless.
    """
    share = scores.coverage.share_of_asked
    if share < LEAST_COVERAGE:
        raise UsageError(
            f"These scores cover {share:.0%} of the block parameters, and below "
            f"{LEAST_COVERAGE:.0%} there is no default choice, because the other weights may "
            f"have a {'lower' if indicator.lower_first else 'higher'} {indicator.title}. "
            f"To choose among what was measured, give --top {usual_top(scores)}, or name types "
            "with --strategy custom --types NAME."
        )


def check_settings(scaling: float, settings: AdapterSettings) -> None:
    """Check the numbers and names of adapter settings.

    Raises:
        UsageError: A value is not allowed. The text says which values are.
    """
    if not scaling > 0:
        raise UsageError(f"The scaling of B·A must be above 0, not {scaling}.")
    if settings.loraplus_ratio is not None and not settings.loraplus_ratio > 0:
        raise UsageError(f"The LoRA+ ratio must be above 0, not {settings.loraplus_ratio}.")
    check_init(settings.init)
    if not 0 <= settings.dropout < 1:
        raise UsageError(f"The dropout must be at least 0 and below 1, not {settings.dropout}.")


def check_init(init: str) -> None:
    """Refuse an initialisation that PEFT does not have.

    Raises:
        UsageError: There is no such initialisation. The text suggests the nearest name.
    """
    if not is_init(init):
        raise UsageError(
            f"There is no init {init!r}.{nearest(init, INITS)} "
            f"Allowed: {', '.join(INITS)}, pissa_niter_N."
        )


def _hosts_of(chosen: list[Group], layers: Collection[int] | None) -> list[tuple[int, Host]]:
    """Return (preference, weight) of everything that gets an adapter."""
    hosts = [(index, host) for index, group in enumerate(chosen) for host in group.hosts]
    if layers is None:
        return hosts
    there = {host.layer for _, host in hosts if host.layer is not None}
    missing = sorted(set(layers) - there)
    if missing or not layers:
        raise UsageError(
            f"--layers names {', '.join(map(str, missing)) or 'none'}, but the chosen types occur "
            f"in the layers {min(there, default=0)} to {max(there, default=0)}."
        )
    return [(index, host) for index, host in hosts if host.layer in layers]


def _clipped(
    members: list[tuple[int, Host]], rank: int | None, limit: int | None
) -> tuple[str, ...]:
    """Return notes on a requested rank or budget that is larger than the weights can use."""
    small = [host.largest_rank for _, host in members if host.largest_rank < (rank or 0)]
    if small:
        low, high = min(small), max(small)
        given = f"{low}" if low == high else f"{low} to {high}"
        return (
            f"rank {rank} is more than {len(small)} of the {len(members)} weights can use: they "
            f"have rank {given}, the smaller side of their matrix",
        )
    most = sum(host.largest_rank * host.parameters_per_rank for _, host in members)
    if limit is not None and limit > most:
        return (
            f"the budget of {limit:,} is more than these weights can use: every rank is the "
            f"smaller side of its matrix, {most:,} parameters in all",
        )
    return ()


def _place_sites(
    members: list[tuple[int, Host]], limit: int | None, asked: PlacementSettings
) -> tuple[PlacedSite, ...]:
    costs = [
        RankCost(host.parameters_per_rank, host.largest_rank, index) for index, host in members
    ]
    if limit is None:
        ranks = [min(asked.rank or DEFAULT_RANK, cost.largest_rank) for cost in costs]
    else:
        ranks = allocate(costs, limit)
    return tuple(
        PlacedSite(
            name=host.name,
            type=host.type,
            layer=host.layer,
            rank=site_rank,
            alpha=alpha_of(site_rank, asked.scaling, asked.adapters),
            parameters=site_rank * host.parameters_per_rank,
            copies=host.copies,
            is_parameter=host.is_parameter,
        )
        for (_, host), site_rank in zip(members, ranks, strict=True)
    )


def choices_of(
    row: Strategy,
    eligible: list[Group],
    chosen: list[Group],
    sites: tuple[PlacedSite, ...],
    ties: Ties,
    indicator: Indicator = INDICATORS[NFN],
) -> tuple[Choice, ...]:
    """Describe each chosen type that has an adapter, with its neighbours in the strategy's order.

    A chosen type without a weight in the requested layers has no adapter. It is not described, and
    it does not count as left out either.
    """
    ranking = row.ranking(eligible)
    left_out = [group for group in ranking if group not in chosen]
    everything = {member.type for group in chosen for member in group.members}
    takes_first = row.end is End.first
    first = first_alone(eligible, chosen, indicator) if takes_first else everything
    choices = []
    for group in chosen:
        following = ranking[ranking.index(group) + 1 :][:1] if group in ranking else []
        placed = [site for site in sites if site.type == group.type]
        if not placed:
            continue
        low, high = group.estimate.interval()
        choices.append(
            Choice(
                type=group.type,
                nfn=group.value if indicator.name == NFN else None,
                low=low,
                high=high,
                modules=len(placed),
                lowest_rank=min(site.rank for site in placed),
                highest_rank=max(site.rank for site in placed),
                parameters=sum(site.parameters for site in placed),
                next=_gap(group, following, ties),
                left_out=_gap(group, left_out, ties),
                forced=forced_members(group, first),
                value=None if indicator.name == NFN else group.value,
            )
        )
    return tuple(choices)


def known_ties(scores: Scores | None) -> Ties:
    """Return the gaps of the pairs that scoring ended as practical ties."""
    stopping = None if scores is None else scores.stopping
    if stopping is None or not stopping.decided:
        return {}
    return {
        (pair.chosen, pair.left_out): Gap(
            pair.left_out, pair.difference, pair.low, pair.high, TIE, stopping.tolerance
        )
        for pair in stopping.ties
    }


def _gap(group: Group, others: list[Group], ties: Ties) -> Gap | None:
    """Return the gap to the other group that is nearest in score.

    The bounds of a tie are those of the stopping rule, which hold whenever scoring stops.
    """
    if not others:
        return None
    other = min(others, key=lambda option: abs(option.value - group.value))
    if (group.type, other.type) in ties:
        return ties[group.type, other.type]
    gap = paired_difference(other.estimate, group.estimate)
    # More data can separate two types only if the indicator depends on the data.
    if gap.low == gap.high == 0:
        return Gap(other.type, gap.value, gap.low, gap.high, TIE, 0.0)
    return Gap(other.type, gap.value, gap.low, gap.high, gap.verdict)


def _verdict(row: Strategy, choices: tuple[Choice, ...]) -> tuple[GapVerdict, float | None]:
    """Return whether the data separate the chosen types from the others.

    The second value is the tolerance if the verdict is a tie, and otherwise None.
    """
    if not row.by_score:
        return UNSCORED, None
    gaps = [choice.left_out for choice in choices if choice.left_out is not None]
    if any(gap.verdict == UNDECIDED for gap in gaps):
        return UNDECIDED, None
    tolerances = [gap.tolerance for gap in gaps if gap.tolerance is not None]
    return (TIE, min(tolerances)) if tolerances else (DECIDED, None)


def _untouched(scores: Scores, sites: tuple[PlacedSite, ...]) -> tuple[str, ...]:
    """Return the names of all known weights without an adapter, which an export must not adapt."""
    placed = {site.name for site in sites}
    names = [host.name for host in scores.hosts]
    names += [entry.weight for entry in scores.coverage.not_measured]
    return tuple(name for name in dict.fromkeys(names) if name not in placed)


def _unread(scores: Scores, groups: list[Group]) -> tuple[str, ...]:
    """Return a note on the types without a value of the indicator, which are never chosen."""
    seen = {group.type for group in groups}
    rows = (row for row in scores.types if row.eligible and row.host_type not in seen)
    unread = ", ".join(dict.fromkeys(row.host_type for row in rows))
    return (f"{unread} cannot be chosen: the indicator has no value for its weights",) * bool(
        unread
    )


def _notes(
    row: Strategy,
    eligible: list[Group],
    chosen: list[Group],
    sites: tuple[PlacedSite, ...],
    indicator: Indicator,
) -> tuple[str, ...]:
    """Return notes on chosen types without a weight in the requested layers, and on slices.

    Such a slice would be chosen alone, but it is part of a weight that is not chosen.
    """
    placed = {site.type for site in sites}
    absent = [group.type for group in chosen if group.type not in placed]
    notes = [f"{', '.join(absent)} chosen, but not in these layers"] if absent else []
    if row.end is not End.first:
        return tuple(notes)
    first = first_alone(eligible, chosen, indicator)
    notes += [
        f"{' and '.join(back)} would be chosen alone, but {group.type} is one weight, and with "
        f"its other slices it scores too {'high' if indicator.lower_first else 'low'}"
        for group in eligible
        if group not in chosen and (back := held_back(group, first))
    ]
    return tuple(notes)
