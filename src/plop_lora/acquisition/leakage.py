"""Evaluation texts that stand in training texts: as near duplicates, or as passages.

A passage is found by n-grams long enough that chance does not repeat them. An n-gram that stands in
many evaluation texts, such as an instruction, says nothing and is left out. What is found depends
on each pair of texts alone, so that the order of the training texts does not matter and nothing is
found once the rows that were named are removed. No torch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from plop_lora.acquisition.duplicates import GramSets, SimilarTexts
from plop_lora.acquisition.ngrams import Grams, Hashes, Pieces, distinct, grams_of

MOST_TEXTS, MOST_SHARE = 10, 0.01
"""An n-gram in more evaluation texts than this number and this share of them is left out."""
Chosen: TypeAlias = NDArray[np.bool_]
Pairs = dict[tuple[int, int], float]
"""(evaluation text, training text) → share of the evaluation text that stands in the other."""


def leaked_pairs(
    evaluation: Sequence[Pieces],
    train: Sequence[Pieces],
    *,
    near: tuple[int, float],
    passage: tuple[int, float],
) -> Pairs:
    """Return the pairs of an evaluation text and a training text that holds it.

    Args:
        evaluation: Pieces of the evaluation texts.
        train: Pieces of the training texts, from the same `Cutter`.
        near: Size of the n-grams of near duplicates, and the Jaccard index from which on two texts
            are such.
        passage: Size of the n-grams of passages, and the share of an evaluation text that they
            have to cover.
    """
    found = _similar(evaluation, train, *near)
    for pair, share in _passages(evaluation, train, *passage).items():
        found[pair] = max(share, found.get(pair, 0.0))
    return dict(sorted(found.items()))


def _similar(
    evaluation: Sequence[Pieces], train: Sequence[Pieces], size: int, threshold: float
) -> Pairs:
    grams = grams_of([*evaluation, *train], size)
    index = SimilarTexts(GramSets.of(grams), threshold)
    for text in range(len(evaluation)):
        index.add(text)
    return {
        (other, text): jaccard
        for text in range(len(train))
        for other, jaccard in index.similar(len(evaluation) + text)
    }


def _passages(
    evaluation: Sequence[Pieces], train: Sequence[Pieces], size: int, share: float
) -> Pairs:
    wanted, held = grams_of(evaluation, size), grams_of(train, size)
    hits = _are_in(held.hashes, _telling(wanted))
    both = distinct(held.hashes[hits])
    owners: dict[int, list[int]] = defaultdict(list)
    mine = _are_in(wanted.hashes, both)
    for gram, text in sorted(_pairs(wanted, mine)):
        owners[gram].append(text)
    shared: dict[tuple[int, int], list[int]] = defaultdict(list)
    for gram, text in _pairs(held, hits):
        for other in owners[gram]:
            shared[other, text].append(gram)
    covered = {pair: _covered(wanted, pair[0], grams) for pair, grams in shared.items()}
    return {pair: part for pair, part in covered.items() if part >= share}


def _pairs(grams: Grams, chosen: Chosen) -> set[tuple[int, int]]:
    """Return the chosen n-grams with the texts that they stand in."""
    return set(zip(grams.hashes[chosen].tolist(), grams.owners()[chosen].tolist(), strict=True))


def _telling(grams: Grams) -> Hashes:
    """Return the distinct n-grams, sorted, without those that many texts have."""
    known = distinct(grams.hashes)
    width = max(len(known), 1)
    keys = distinct(grams.owners() * width + np.searchsorted(known, grams.hashes)) % width
    frequencies = np.bincount(keys, minlength=len(known))
    return known[frequencies <= max(MOST_TEXTS, MOST_SHARE * len(grams.pieces))]


def _are_in(hashes: Hashes, wanted: Hashes) -> Chosen:
    """Return for every hash whether it is among others, which are sorted."""
    if not len(wanted):
        return np.zeros(len(hashes), dtype=bool)
    places = np.minimum(np.searchsorted(wanted, hashes), len(wanted) - 1)
    found: Chosen = wanted[places] == hashes
    return found


def _covered(grams: Grams, text: int, shared: Sequence[int]) -> float:
    """Return the share of the pieces of a text that some of its n-grams cover."""
    pieces = int(grams.pieces[text])
    starts = np.isin(grams.of(text), np.array(shared, dtype=np.uint64))
    within = np.convolve(starts, np.ones(grams.size, dtype=np.int64))[:pieces]
    return float((within > 0).mean())


def by_evaluation(pairs: Pairs) -> Mapping[int, tuple[tuple[int, ...], float]]:
    """Return for every leaked evaluation text its training texts and the largest share."""
    found: dict[int, tuple[tuple[int, ...], float]] = {}
    for (text, other), share in pairs.items():
        others, most = found.get(text, ((), 0.0))
        found[text] = ((*others, other), max(most, share))
    return found
