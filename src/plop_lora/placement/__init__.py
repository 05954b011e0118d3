"""From scores to a placement: module types by strategy, ranks by number or budget. No torch."""

from plop_lora.placement.budget import parse_budget
from plop_lora.placement.strategies import STRATEGIES, default_choice, place

__all__ = ["STRATEGIES", "default_choice", "parse_budget", "place"]
