"""Initialisations of adapters by PEFT's names, and which of them a trial can carry out.

Pure; no torch.
"""

from __future__ import annotations

import re

DRAWN = ("default", "gaussian", "orthogonal")
"""Initialisations that draw A (orthogonal: A and B) and leave the base weights alone."""
MUTATING = ("pissa", "olora")
"""Initialisations that subtract a part of the base weights and put it into the adapter."""
FROM_DATA = ("eva",)
"""Initialisations that read training rows."""
TRIAL_INITS = (*DRAWN, *FROM_DATA, *MUTATING)
"""Initialisations that a trial can carry out: they need only the weights or the training rows."""
PREPARED = ("corda", "loftq", "lora_ga", "mica")
"""Initialisations that need a separate step before training."""
INITS = (*TRIAL_INITS, *PREPARED)
"""Every initialisation; `pissa_niter_N`, with N iterations of a fast decomposition, is one too."""

_PISSA_ITERATIONS = re.compile(r"pissa_niter_[1-9]\d*")


def is_init(init: str) -> bool:
    """Whether PEFT has an initialisation of this name.

    >>> is_init("loftq"), is_init("pissa_niter_4"), is_init("pissa_niter_0")
    (True, True, False)
    """
    return init in PREPARED or is_trial_init(init)


def is_trial_init(init: str) -> bool:
    """Whether a trial can make this initialisation.

    >>> is_trial_init("pissa_niter_4"), is_trial_init("loftq")
    (True, False)
    """
    return init in TRIAL_INITS or _PISSA_ITERATIONS.fullmatch(init) is not None


def moves_base(init: str) -> bool:
    """Whether the initialisation changes the base weights, so that the saved rank is doubled."""
    return init.startswith(MUTATING)
