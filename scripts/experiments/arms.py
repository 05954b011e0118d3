"""The arms of the study: which module types are adapted, all with as many parameters.

The budget is what an adapter of rank `BUDGET_RANK` on every linear weight of the blocks costs.
Ranks follow from it by the rule that `plop verify` uses, and so does the common alpha.

A module type is a weight that can carry an adapter alone. Where several projections are one weight
(GPT-2's `c_attn` holds query, key and value; a stack of experts its gate and up projections), they
are one type and one arm, their NFN is the mean over the projections, and a constant that names one
of them takes the whole weight.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from pairs import SEED, Pair

from plop_lora.placement import groups_of, place
from plop_lora.records import AdapterSettings, Placement, Scores
from plop_lora.verification.equal import alpha_for, draft, fitted

BUDGET_RANK = 4
SCALING = 2.0
"""Alpha over rank of the arm `all-linear`, from which the alpha of all arms follows."""
TOP = 3
DRAWS = 3
STRATEGIES = ("all-linear", "plop", "plop-inverse", "attention", "mlp")


def type_arms(pair: Pair, scores: Scores) -> dict[str, tuple[str, ...]]:
    """Return the arms that are a list of module types, by name."""
    groups = [group for group in groups_of(scores) if group.eligible]
    types = sorted(group.type for group in groups)
    roles = pair.roles
    share = {group.type: sum(row.parameters for row in group.members) for group in groups}
    rng = random.Random(f"{SEED} {pair.network}")
    arms: dict[str, tuple[str, ...]] = {f"type-{short(name)}": (name,) for name in types}
    arms["v-up-down"] = (roles["v"], roles["up"], roles["down"])
    arms["v-o-down"] = (roles["v"], roles["o"], roles["down"])
    arms["parameter-share"] = tuple(sorted(types, key=lambda name: (-share[name], name))[:TOP])
    drawn: list[tuple[str, ...]] = []
    while len(drawn) < DRAWS:
        draw = tuple(sorted(rng.sample(types, TOP)))
        drawn += [draw] * (draw not in drawn)
    return arms | {f"random-{number}": draw for number, draw in enumerate(drawn, start=1)}


def short(type_name: str) -> str:
    """Return a module type as a word of a file name.

    >>> short("attention.output.dense")
    'attention-output-dense'
    """
    return type_name.replace(".", "-")


def distinct(made: Mapping[str, Placement]) -> dict[str, Placement]:
    """Return the arms that are run: of several with the same types, the first.

    Such arms differ in how a rest of the budget is rounded, if at all. `aliases` says which they
    are.
    """
    first: dict[frozenset[str], str] = {}
    for name, placement in made.items():
        first.setdefault(key_of(placement), name)
    return {name: made[name] for name in first.values()}


def aliases(made: Mapping[str, Placement]) -> dict[str, str]:
    """Return the arms that have the types of another, with that one's name."""
    kept = {key_of(placement): name for name, placement in distinct(made).items()}
    found = {name: kept[key_of(placement)] for name, placement in made.items()}
    return {name: other for name, other in found.items() if name != other}


def all_arms(pair: Pair, scores: Scores) -> dict[str, Placement]:
    """Return every arm's placement, those that are alike included; `all-linear` first."""
    chosen = drafts_of(pair, scores)
    return equal(chosen["all-linear"], chosen)


def drafts_of(pair: Pair, scores: Scores) -> dict[str, Placement]:
    """Return the choice of every arm, with rank 1 everywhere."""
    chosen = {name: place(scores, strategy=name, top=top_of(name), rank=1) for name in STRATEGIES}
    for name, types in type_arms(pair, scores).items():
        chosen[name] = place(scores, strategy="custom", types=types, rank=1)
    return chosen


def equal(every: Placement, chosen: Mapping[str, Placement]) -> dict[str, Placement]:
    """Return choices with the ranks that the common budget buys, in proportion to their own.

    Args:
        every: every linear weight, whose cost at `BUDGET_RANK` is the budget.
        chosen: arms by name.
    """
    settings = AdapterSettings()
    whole = draft("all-linear", every, largest_rank=None)
    budget = BUDGET_RANK * whole.smallest
    alpha = alpha_for(whole, budget, SCALING, settings)
    drafts = {
        name: draft(name, placement, largest_rank=None, keep_shares=True)
        for name, placement in chosen.items()
    }
    return {name: fitted(plan, budget, alpha, settings) for name, plan in drafts.items()}


def top_of(strategy: str) -> int | None:
    """Return how many types a strategy takes, None where it says so itself."""
    return TOP if strategy in ("plop", "plop-inverse") else None


def key_of(placement: Placement) -> frozenset[str]:
    """Return what makes two arms the same: their module types."""
    return frozenset(site.type for site in placement.sites)
