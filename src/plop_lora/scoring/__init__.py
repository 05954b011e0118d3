"""Scores from forward passes: sites, formulas, hooks and the engine."""

from plop_lora.scoring.score import BASELINES, score

__all__ = ["BASELINES", "score"]
