"""Reduce a placement to what a trainer's file can express; each step names what is lost.

The result is again a placement, exactly the one that the trainer will carry out, so that its
parameters are counted and its adapters compared like those of any other. Pure; imports neither
torch nor any trainer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from plop_lora.errors import ExportError
from plop_lora.exports.names import module_sites, parameter_sites
from plop_lora.exports.target import Loss
from plop_lora.placement import alpha_of
from plop_lora.records import PlacedSite, Placement

SELF_CONTAINED_INITS = ("default", "gaussian", "orthogonal", "pissa", "pissa_niter_N", "olora",
                        "mica")  # fmt: skip
"""PEFT's initialisations that need nothing but the weights: no data pass, no further settings."""


@dataclass(frozen=True, slots=True)
class Narrowed:
    """The placement that a trainer will carry out, and what was lost from the original."""

    placement: Placement
    losses: tuple[Loss, ...] = ()

    def give_up(self, what: str, effect: str, placement: Placement) -> Narrowed:
        """Return the narrower placement with one more loss."""
        return Narrowed(placement, (*self.losses, Loss(what, effect)))


Step = Callable[[Narrowed], Narrowed]


def narrow(placement: Placement, *steps: Step) -> Narrowed:
    """Apply steps in their order."""
    narrowed = Narrowed(placement)
    for step in steps:
        narrowed = step(narrowed)
    return narrowed


def one_rank(narrowed: Narrowed) -> Narrowed:
    """Give every adapter the largest common rank that needs no more parameters than before."""
    placement = narrowed.placement
    ranks = [site.rank for site in placement.sites]
    if min(ranks) == max(ranks):
        return narrowed
    price = sum(site.parameters // site.rank for site in placement.sites)
    rank = sum(site.parameters for site in placement.sites) // price
    sites = [_with_rank(site, rank, placement) for site in placement.sites]
    return narrowed.give_up(
        f"the ranks {min(ranks)} to {max(ranks)}",
        f"every adapter gets rank {rank}",
        with_sites(placement, sites),
    )


def no_parameters(narrowed: Narrowed) -> Narrowed:
    """Drop adapters for which PEFT needs `target_parameters`: experts and modules of such names.

    Raises:
        ExportError: No adapter would be left.
    """
    placement = narrowed.placement
    dropped = parameter_sites(placement)
    if not dropped:
        return narrowed
    kept = module_sites(placement)
    types = ", ".join(sorted({site.type for site in dropped}))
    if not kept:
        raise ExportError(
            f"Nothing of this placement can be exported: {types} can only be named as parameters, "
            "which this trainer cannot do. Use --to peft, axolotl, trl, unsloth or ms-swift."
        )
    return narrowed.give_up(
        f"the adapters on {types}",
        "left out: the trainer has no target_parameters, and names of modules may hit experts",
        with_sites(placement, kept),
    )


def no_tables(*leaves: str) -> Step:
    """Return a step that drops embeddings and heads, for a trainer that trains these in full.

    Args:
        leaves: Last parts of the names that the trainer removes from the targets.

    Raises:
        ExportError: No adapter would be left; raised when the step is applied.
    """

    def step(narrowed: Narrowed) -> Narrowed:
        sites = narrowed.placement.sites
        tables = {site.name: site for site in sites if site.name.rpartition(".")[2] in leaves}
        kept = [site for site in sites if site.name not in tables]
        types = ", ".join(sorted({site.type for site in tables.values()}))
        if not types:
            return narrowed
        if not kept:
            raise ExportError(
                f"Nothing of this placement can be exported: this trainer trains {types} in full, "
                "without an adapter. Use --to peft, axolotl, trl, llama-factory or ms-swift."
            )
        return narrowed.give_up(
            f"the adapters on {types}",
            "left out: the trainer has no LoRA there, and would train the whole matrix",
            with_sites(narrowed.placement, kept),
        )

    return step


def no_dropout_on_parameters(narrowed: Narrowed) -> Narrowed:
    """Set the dropout to 0 if a parameter is adapted, since PEFT allows no other value."""
    placement = narrowed.placement
    dropout = placement.settings.dropout
    if dropout == 0 or not parameter_sites(placement):
        return narrowed
    return narrowed.give_up(
        f"the dropout {dropout:g}",
        "it is 0, since PEFT does not support dropout for parameters",
        _with_settings(placement, dropout=0.0),
    )


def no_loraplus(effect: str) -> Step:
    """Return a step that drops the LoRA+ ratio and records the given effect."""

    def step(narrowed: Narrowed) -> Narrowed:
        placement = narrowed.placement
        ratio = placement.settings.loraplus_ratio
        if ratio is None:
            return narrowed
        without = _with_settings(placement, loraplus_ratio=None)
        return narrowed.give_up(f"the LoRA+ ratio {ratio:g}", effect, without)

    return step


def only_inits(*known: str) -> Step:
    """Return a step that replaces an initialisation other than these by the default one."""

    def step(narrowed: Narrowed) -> Narrowed:
        placement = narrowed.placement
        init = placement.settings.init
        if re.sub(r"^pissa_niter_\d+$", "pissa_niter_N", init) in ("default", *known):
            return narrowed
        return narrowed.give_up(
            f"the initialisation {init}",
            "A is random and B is 0, as PEFT does by default",
            _with_settings(placement, init="default"),
        )

    return step


def with_sites(placement: Placement, sites: Iterable[PlacedSite]) -> Placement:
    """Return the placement with these sites only; the others become untouched."""
    sites = tuple(sites)
    kept = {site.name for site in sites}
    gone = [site.name for site in placement.sites if site.name not in kept]
    return replace(
        placement,
        sites=sites,
        untouched=(*placement.untouched, *gone),
        trainable_parameters=sum(site.parameters for site in sites),
    )


def with_scaling(placement: Placement, scaling: float, *, rslora: bool) -> Placement:
    """Return the placement with another scaling of B·A, or another formula for it."""
    placement = replace(_with_settings(placement, rslora=rslora), scaling=scaling)
    return with_sites(
        placement, [_with_rank(site, site.rank, placement) for site in placement.sites]
    )


def _with_settings(placement: Placement, **changes: Any) -> Placement:
    return replace(placement, settings=replace(placement.settings, **changes))


def _with_rank(site: PlacedSite, rank: int, placement: Placement) -> PlacedSite:
    return replace(
        site,
        rank=rank,
        alpha=alpha_of(rank, placement.scaling, placement.settings),
        parameters=site.parameters // site.rank * rank,
    )
