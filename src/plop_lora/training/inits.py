"""The initialisations that a trial carries out itself. No torch.

Covers those of PEFT that need nothing but weights or the training rows; corda, loftq, lora_ga and
mica need a step of their own before training.
"""

from __future__ import annotations

import re

DRAWN = ("default", "gaussian", "orthogonal")
"""Initialisations that draw A (orthogonal: A and B) and leave the base weights alone."""
MUTATING = ("pissa", "olora")
"""Initialisations that move a part of the base weights into the adapter."""
FROM_DATA = ("eva",)
"""Initialisations that look at training rows."""
INITS = (*DRAWN, *FROM_DATA, *MUTATING)

_PISSA_ITERATIONS = re.compile(r"pissa_niter_[1-9]\d*")


def is_known(init: str) -> bool:
    """Whether a trial can make this initialisation.

    >>> is_known("pissa_niter_4"), is_known("loftq")
    (True, False)
    """
    return init in INITS or _PISSA_ITERATIONS.fullmatch(init) is not None


def moves_base(init: str) -> bool:
    """Whether the saved adapter has twice the rank, since the base weights were moved."""
    return init.startswith(MUTATING)
