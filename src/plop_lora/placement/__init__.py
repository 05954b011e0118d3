"""From scores to a placement: module types by strategy, ranks by number or budget. No torch."""

from plop_lora.placement.budget import parse_budget, parse_layers
from plop_lora.placement.groups import Group, groups_of
from plop_lora.placement.place import default_choice, place
from plop_lora.placement.ranks import alpha_of, with_rank, with_ranks
from plop_lora.placement.strategies import PLOP, STRATEGIES

__all__ = [
    "PLOP",
    "STRATEGIES",
    "Group",
    "alpha_of",
    "default_choice",
    "groups_of",
    "parse_budget",
    "parse_layers",
    "place",
    "with_rank",
    "with_ranks",
]
