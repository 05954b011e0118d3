"""Sums and counts per text, from which intervals are computed, and what a reference text gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

UNLESS_EMPTY = Field(exclude_if=lambda value: not value)
"""A field that older records lack is left out where it says nothing, so that they keep their
identity."""
_UNLESS_NONE = Field(exclude_if=lambda value: value is None)


@dataclass(frozen=True, slots=True)
class Measurements:
    """Per-sequence sums of token NFN and token counts, from which every interval is computed.

    Rows follow `Scores.sites`, columns follow `sequence_ids`. Most sites share one row of
    counts, so `counts` holds the distinct rows and `count_row` the row of each site.
    """

    sequence_ids: tuple[str, ...] = field(repr=False)
    sums: tuple[tuple[float, ...], ...] = field(repr=False)
    counts: tuple[tuple[int, ...], ...] = field(repr=False)
    count_row: tuple[int, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the ranking of the weights on the user's texts is the same on a reference.

    Attributes:
        weights: Number of weights that were compared: those that a placement may choose, and that
            received tokens of both.
        correlation: Spearman's rank correlation of their NFN on both.
        low: Lower bound of its 95 % interval over the weights, None for very few weights.
        high: Upper bound of the interval.
        of_types: Rank correlation over the types instead, None where it is undefined.
    """

    weights: int
    correlation: float
    low: float | None
    high: float | None
    of_types: float | None

    @property
    def share(self) -> float:
        """Share of the ranking that the user's texts explain, 0 to 1.

        It is 1 - ρ², the part of the variance of the ranks on the user's texts that the ranks on
        the reference leave unexplained. The error of NFN over few texts is part of it.
        """
        return _unexplained(self.correlation)

    @property
    def share_interval(self) -> tuple[float | None, float | None]:
        """The 95 % interval of `share`, over the weights."""
        if self.low is None or self.high is None:
            return None, None
        return _unexplained(self.high), _unexplained(self.low)


def _unexplained(correlation: float) -> float:
    """Return 1 - ρ²; ranks that are reversed on the reference are not explained by it."""
    return 1 - max(correlation, 0.0) ** 2


@dataclass(frozen=True, slots=True)
class ReferenceChoice:
    """The choice that the same model gives on inputs other than the user's data.

    Attributes:
        name: Kind of the inputs, such as `general English text`. Records of earlier versions hold
            `random tokens`, without an agreement.
        chosen: Types with the lowest NFN on these inputs, lowest first, of the same number.
        same_choice: Whether these types are also the lowest on the user's data.
        nfn: NFN by host type, for every type that a placement may choose.
        sequences: Number of sequences.
        tokens: Number of tokens.
        near_tie: Whether the choices differ, but only in types whose NFN differs by no more than
            the tolerance of the scoring.
        margin: The difference in NFN of the types in which the choices differ, on the inputs that
            separate them less; None if the choices are the same.
        agreement: How far the whole ranking is the same, None if it was not compared.
        measurements: Sums and counts on these inputs. Rows follow `Scores.sites`; a site without a
            token of them has only zeros.
    """

    name: str
    chosen: tuple[str, ...]
    same_choice: bool
    nfn: dict[str, float]
    sequences: int
    tokens: int
    near_tie: Annotated[bool, UNLESS_EMPTY] = False
    margin: Annotated[float | None, _UNLESS_NONE] = None
    agreement: Annotated[Agreement | None, UNLESS_EMPTY] = None
    measurements: Annotated[Measurements | None, UNLESS_EMPTY] = field(default=None, repr=False)
