"""The rows of one set that are left, and the steps that find rows in it. No torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from plop_lora.acquisition.duplicates import exact_duplicates, near_duplicates
from plop_lora.acquisition.ngrams import Cutter, Pieces, grams_of
from plop_lora.acquisition.passages import Passage, Passages
from plop_lora.acquisition.sources import Source
from plop_lora.data.reading import Row
from plop_lora.recipe.acquire import CHARACTERS, REMOVE, WORDS, AcquireSettings, NearSettings
from plop_lora.records import Reason, RowFinding, Side

NEAR_SIZES = {WORDS: 3, CHARACTERS: 5}
PASSAGE_SIZES = {WORDS: 13, CHARACTERS: 30}
"""Default number of pieces of an n-gram, by what a piece is."""


@dataclass(frozen=True, slots=True, eq=False)
class RowSet:
    """Rows of one source that are left.

    Attributes:
        side: Set that the rows belong to.
        source: Source of the rows.
        passages: Text of every row of the source.
        cuts: Pieces of what every row of the source asks, and of what it answers.
        kept: Indices of the rows that are left, ascending.
    """

    side: Side
    source: Source
    passages: Passages
    cuts: Sequence[tuple[Pieces, Pieces]]
    kept: tuple[int, ...]

    @property
    def rows(self) -> list[Row]:
        """The rows that are left."""
        return [self.source.rows[index] for index in self.kept]

    @property
    def texts(self) -> list[Passage]:
        """The texts of the rows that are left; a row without text has an empty one."""
        return [self.passages.items[index] or Passage("") for index in self.kept]

    @property
    def asked(self) -> list[Pieces]:
        """The pieces of what the rows that are left ask."""
        return [self.cuts[index][0] for index in self.kept]

    @property
    def numbers(self) -> list[int]:
        """The numbers of the rows that are left in their source, from 1."""
        return [index + 1 for index in self.kept]

    @classmethod
    def of(cls, side: Side, source: Source, passages: Passages, cutter: Cutter) -> RowSet:
        """Return all rows of a source."""
        texts = (passage or Passage("") for passage in passages.items)
        cuts = [(cutter.pieces(text.asked), cutter.pieces(text.answered)) for text in texts]
        return cls(side, source, passages, cuts, tuple(range(len(passages.items))))

    def found(
        self, places: Collection[int], reason: Reason, action: str
    ) -> tuple[RowSet, list[RowFinding]]:
        """Return what is left, and the finding on some rows.

        Args:
            places: Places of the rows among those that are left.
            reason: Why they were found.
            action: What is done with them.
        """
        if not places:
            return self, []
        indices = {self.kept[place] for place in places}
        rows = tuple(index + 1 for index in sorted(indices))
        finding = RowFinding(side=self.side, reason=reason, action=action, rows=rows)
        if action != REMOVE:
            return self, [finding]
        left = tuple(index for index in self.kept if index not in indices)
        return replace(self, kept=left), [finding]


def without_empty(rows: RowSet) -> tuple[RowSet, list[RowFinding]]:
    """Remove the rows without text."""
    places = [place for place, index in enumerate(rows.kept) if rows.passages.items[index] is None]
    return rows.found(places, Reason.EMPTY, REMOVE)


def without_duplicates(
    rows: RowSet, unit: str, settings: AcquireSettings
) -> tuple[RowSet, list[RowFinding]]:
    """Find rows that repeat an earlier row, exactly or nearly; none is both."""
    texts = [f"{text.whole}\n\n{text.label or ''}" for text in rows.texts]
    exact = frozenset(exact_duplicates(texts))
    similar = {rows.kept[place] for place in _near(rows, exact, unit, settings.near)}
    rows, first = rows.found(exact, Reason.EXACT, settings.exact)
    places = [place for place, index in enumerate(rows.kept) if index in similar]
    rows, second = rows.found(places, Reason.NEAR, settings.near.action)
    return rows, [*first, *second]


def _near(rows: RowSet, exact: Collection[int], unit: str, near: NearSettings) -> list[int]:
    """Return the places of rows that are similar to an earlier one and repeat none exactly."""
    others = [place for place in range(len(rows.kept)) if place not in exact]
    whole = [np.concatenate(rows.cuts[rows.kept[place]]) for place in others]
    grams = grams_of(whole, near_size(near, unit))
    texts = rows.texts
    classes = [texts[place].label for place in others]
    return [others[found] for found in near_duplicates(grams, near.threshold, classes)]


def near_size(near: NearSettings, unit: str) -> int:
    """Return the number of pieces of an n-gram of near duplicates."""
    return near.ngram or NEAR_SIZES[unit]
