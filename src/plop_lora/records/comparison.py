"""Comparison: two score files side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from plop_lora.records.base import Record, frame
from plop_lora.records.placement import GapVerdict

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, slots=True)
class TypeDifference:
    """NFN of one module type in two score files; `difference` is `second` minus `first`."""

    type: str
    first: float
    second: float
    difference: float
    low: float | None
    high: float | None
    verdict: GapVerdict


@dataclass(frozen=True, repr=False)
class Comparison(Record):
    """Two score files side by side, over the types they share.

    `paired_sequences` is the number of sequences that both measured, or None where the
    intervals are unpaired. `kendall_tau` is None below two shared types.
    """

    kind: ClassVar[str] = "comparison"

    first: str
    second: str
    types: tuple[TypeDifference, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    paired_sequences: int | None
    kendall_tau: float | None
    notes: tuple[str, ...] = ()

    def to_pandas(self) -> DataFrame:
        """Return the comparison as a `pandas.DataFrame`, one row a module type."""
        return frame(self.types)
