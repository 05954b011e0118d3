"""The margin of a verification: how far behind a rival the shortlist may be."""

from __future__ import annotations

import math
from dataclasses import dataclass

from plop_lora.records.trial import higher_is_better


def usual_margin(metric: str) -> float:
    """Return the loss of a metric that is accepted where a recipe says nothing.

    0.02 nats of a loss are 2 % of the perplexity, as little as published placements differ by.

    >>> usual_margin("loss"), usual_margin("accuracy")
    (0.02, 0.01)
    """
    return 0.01 if higher_is_better(metric) else 0.02


@dataclass(frozen=True, slots=True)
class Margin:
    """How far behind a rival the shortlist may be: the smaller of what is given.

    Attributes:
        value: in the unit of what decides.
        share: of the shortlist's own value.
    """

    value: float | None = None
    share: float | None = None

    def of(self, level: float) -> float:
        """Return the margin where the shortlist has this value.

        >>> Margin(0.02, 0.05).of(1.0)
        0.02
        """
        found = [] if self.value is None else [self.value]
        found += [] if self.share is None else [self.share * abs(level)]
        return min(found)


def parse_margin(text: str | float) -> Margin:
    """Return the margin that a recipe gives as a number or as a share.

    Raises:
        ValueError: it is neither, or below 0.

    >>> parse_margin("5%")
    Margin(value=None, share=0.05)
    """
    written = str(text).strip()
    number, share = (written[:-1], True) if written.endswith("%") else (written, False)
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{written!r} must be a number, such as 0.02, or a share, such as 5%")
    if value < 0:
        raise ValueError(f"{value:g} is below 0; it must be 0 or more")
    return Margin(share=value / 100) if share else Margin(value=value)
