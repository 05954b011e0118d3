"""Scores from forward passes: the sites of a model, their measurement, and the engines."""

from plop_lora.scoring.score import score

__all__ = ["score"]
