"""What the batches of a measurement add up to, whichever engine ran them.

Shape letters: B batch, R rows of the probe's buffer, N sequences.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from plop_lora.errors import DataError
from plop_lora.scoring.probe import Floats, Probe


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What one batch gave: sums and counts [R, B], and its tokens."""

    names: tuple[str, ...]
    sums_RB: Floats
    counts_RB: Floats
    tokens: int


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """Sums and counts per row and sequence, columns in the order of `names` (sorted).

    Site i has the rows `starts[i]` to `starts[i + 1]`: one, or one per expert. `alone` says that
    sequences went one at a time, because some module mixes those of a batch.
    """

    names: tuple[str, ...]
    sums_RN: Floats
    counts_RN: Floats
    starts: tuple[int, ...]
    tokens: int
    unassignable: frozenset[int]
    halvings: int
    alone: bool


@dataclass
class Collector:
    """Gathers parts in any order; `result` may be asked at any time."""

    probe: Probe
    parts: list[Part] = field(default_factory=list)
    halvings: int = 0
    alone: bool = False

    def add(self, part: Part) -> None:
        """Add what one batch gave."""
        self.parts.append(part)

    @property
    def sequences(self) -> int:
        """How many sequences there are so far."""
        return sum(len(part.names) for part in self.parts)

    def result(self) -> Measured:
        """Return everything so far, sequences sorted by name.

        Raises:
            DataError: there is no part.
        """
        if not self.parts:
            raise DataError("There is no batch to score. Give at least one text or batch.")
        names = [name for part in self.parts for name in part.names]
        order = np.argsort(np.array(names), kind="stable")
        return Measured(
            names=tuple(names[index] for index in order),
            sums_RN=_joined(part.sums_RB for part in self.parts)[:, order],
            counts_RN=_joined(part.counts_RB for part in self.parts)[:, order],
            starts=self.probe.starts,
            tokens=sum(part.tokens for part in self.parts),
            unassignable=frozenset(self.probe.unassignable),
            halvings=self.halvings,
            alone=self.alone,
        )


def _joined(pieces: Iterable[Floats]) -> Floats:
    return np.concatenate(list(pieces), axis=1)
