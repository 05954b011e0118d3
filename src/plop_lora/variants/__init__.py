"""Variants of the texts, the weights and the checkpoint, and whether a choice survives them."""
