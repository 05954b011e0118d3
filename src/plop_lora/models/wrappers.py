"""What wrappers of training put before the names of modules. No torch."""

from __future__ import annotations

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Of torch.compile, FSDP and activation checkpointing, anywhere in a name."""
