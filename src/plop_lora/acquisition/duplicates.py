"""Rows that repeat an earlier row, exactly or nearly.

Near duplicates are found exactly, not by sketches: two sets whose Jaccard index reaches a threshold
share one of their rarest members, so an index of those finds every pair.

Source: Bayardo, Ma, Srikant, "Scaling Up All Pairs Similarity Search", WWW 2007. No torch.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from plop_lora.acquisition.ngrams import Grams, Offsets, distinct


def exact_duplicates(texts: Sequence[str]) -> list[int]:
    """Return the indices of texts that an earlier text equals."""
    seen: set[bytes] = set()
    found = []
    for index, text in enumerate(texts):
        key = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()
        if key in seen:
            found.append(index)
        seen.add(key)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class GramSets:
    """The distinct n-grams of every text, as numbers that are the smaller the rarer they are.

    Attributes:
        members: Numbers of the n-grams, ascending within each text.
        starts: Index of the first member of each text, and the number of all.
        single: The number below which an n-gram stands in one text alone.
    """

    members: Offsets
    starts: Offsets
    single: int

    @classmethod
    def of(cls, grams: Grams) -> GramSets:
        """Return the sets of n-grams of texts."""
        known = distinct(grams.hashes)
        width = max(len(known), 1)
        keys = distinct(grams.owners() * width + np.searchsorted(known, grams.hashes))
        texts, members = keys // width, keys % width
        frequencies = np.bincount(members, minlength=len(known))
        place = np.empty(len(known), dtype=np.int64)
        place[np.argsort(frequencies, kind="stable")] = np.arange(len(known))
        keys = np.sort(texts * width + place[members])
        starts = np.searchsorted(keys, np.arange(len(grams.pieces) + 1) * width)
        return cls(keys % width, starts.astype(np.int64), int((frequencies == 1).sum()))

    def of_text(self, text: int) -> list[int]:
        """Return the members of the set of a text, the rarest first."""
        found: list[int] = self.members[self.starts[text] : self.starts[text + 1]].tolist()
        return found


@dataclass(slots=True, eq=False)
class SimilarTexts:
    """An index of texts that finds all those similar to another one.

    Attributes:
        sets: Sets of all texts.
        threshold: Jaccard index from which on two texts are similar.
    """

    sets: GramSets
    threshold: float
    _holders: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))

    def add(self, text: int) -> None:
        """Add a text to the index."""
        for member in self._rarest(self.sets.of_text(text)):
            self._holders[member].append(text)

    def similar(self, text: int) -> Iterator[tuple[int, float]]:
        """Yield the texts of the index that are similar to a text, with the Jaccard index."""
        members = self.sets.of_text(text)
        rarest = self._rarest(members)
        candidates = {held for member in rarest for held in self._holders.get(member, ())}
        whole = set(members)
        for other in sorted(candidates):
            held = int(self.sets.starts[other + 1] - self.sets.starts[other])
            if min(held, len(whole)) < self.threshold * max(held, len(whole)) - 1e-9:
                continue
            shared = len(whole.intersection(self.sets.of_text(other)))
            jaccard = shared / (held + len(whole) - shared)
            if jaccard >= self.threshold - 1e-9:
                yield other, jaccard

    def _rarest(self, members: Sequence[int]) -> list[int]:
        """Return the members one of which every similar text has too."""
        count = len(members) - math.ceil(self.threshold * len(members) - 1e-9) + 1
        return [member for member in members[:count] if member >= self.sets.single]


def near_duplicates(
    grams: Grams, threshold: float, classes: Sequence[str | None] | None = None
) -> list[int]:
    """Return the indices of texts that are similar to an earlier text that is not one of them.

    Args:
        grams: N-grams of the texts.
        threshold: Jaccard index from which on two texts are similar.
        classes: Class of each text; texts of different classes are no duplicates.
    """
    index = SimilarTexts(GramSets.of(grams), threshold)
    found = []
    for text in range(len(grams.pieces)):
        others = (other for other, _ in index.similar(text))
        if any(classes is None or classes[other] == classes[text] for other in others):
            found.append(text)
        else:
            index.add(text)
    return found
