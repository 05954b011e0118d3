"""A placement with other ranks, and the alphas and parameter counts that follow. Pure; no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from plop_lora.records import AdapterSettings, Choice, PlacedSite, Placement


def alpha_of(rank: int, scaling: float, settings: AdapterSettings) -> float:
    """Return the alpha that gives a rank the scaling: scaling·rank, or scaling·√rank (rslora)."""
    return scaling * (math.sqrt(rank) if settings.rslora else rank)


def with_ranks(
    placement: Placement,
    ranks: Mapping[str, int],
    *,
    scaling: float | None = None,
    settings: AdapterSettings | None = None,
    budget: int | None = None,
) -> Placement:
    """Return a placement with other ranks.

    Args:
        placement: Placement whose weights keep their adapters, or some of them.
        ranks: LoRA rank by weight. A weight that is missing, or has rank 0, loses its adapter.
        scaling: Factor by which B·A is multiplied; None keeps that of the placement.
        settings: Settings of the adapters; None keeps those of the placement.
        budget: Budget for which the ranks were made, or None.

    >>> from plop_lora.records import AdapterSettings
    >>> alpha_of(16, 2.0, AdapterSettings()), alpha_of(16, 2.0, AdapterSettings(rslora=True))
    (32.0, 8.0)
    """
    scaling = placement.scaling if scaling is None else scaling
    settings = settings or placement.settings
    sites = tuple(
        _site(site, ranks[site.name], scaling, settings)
        for site in placement.sites
        if ranks.get(site.name)
    )
    left_out = [site.name for site in placement.sites if not ranks.get(site.name)]
    return replace(
        placement,
        sites=sites,
        choices=tuple(
            _choice(choice, placed)
            for choice in placement.choices
            if (placed := [site for site in sites if site.type == choice.type])
        ),
        scaling=scaling,
        settings=settings,
        trainable_parameters=sum(site.parameters for site in sites),
        untouched=(*placement.untouched, *left_out),
        budget=budget,
    )


def with_rank(placement: Placement, rank: int) -> Placement:
    """Return a placement with one rank for all weights, limited by the size of each weight."""
    largest = {host.name: host.largest_rank for host in placement.hosts}
    return with_ranks(
        placement,
        {site.name: min(rank, largest.get(site.name, rank)) for site in placement.sites},
    )


def _site(site: PlacedSite, rank: int, scaling: float, settings: AdapterSettings) -> PlacedSite:
    return replace(
        site,
        rank=rank,
        alpha=alpha_of(rank, scaling, settings),
        parameters=site.parameters // site.rank * rank,
    )


def _choice(choice: Choice, placed: Sequence[PlacedSite]) -> Choice:
    return replace(
        choice,
        modules=len(placed),
        lowest_rank=min(site.rank for site in placed),
        highest_rank=max(site.rank for site in placed),
        parameters=sum(site.parameters for site in placed),
    )
