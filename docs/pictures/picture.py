"""A picture and what it says to who cannot see it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Picture:
    """A file and its description."""

    svg: str
    alt: str
