"""The reason why a variant cannot be had, which is recorded while the other variants go on."""

from __future__ import annotations


class UnavailableError(Exception):
    """A variant cannot be had for this model and these texts; the text says why."""
