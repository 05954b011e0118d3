"""Scores from forward passes: sites, formulas, hooks and the engine."""

from plop_lora.scoring.score import score

__all__ = ["score"]
