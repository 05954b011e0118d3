"""The prefixes that training wrappers add to the names of modules. Does not import torch."""

from __future__ import annotations

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Prefixes of torch.compile, FSDP and activation checkpointing, anywhere in a name."""
