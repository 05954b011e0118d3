"""Variants of the texts, the weights and the checkpoint, and whether a choice survives them."""

from plop_lora.variants.run import robustness

__all__ = ["robustness"]
