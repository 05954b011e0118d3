"""Evaluation texts that stand in training texts: as near duplicates, or as passages.

A passage is found by n-grams long enough that chance does not repeat them. An n-gram that stands in
many evaluation texts, such as an instruction, says nothing and is left out. What is found depends
on each pair of texts alone, so that the order of the training texts does not matter and nothing is
found once the rows that were named are removed. No torch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from plop_lora.acquisition.duplicates import GramSets, SimilarTexts
from plop_lora.acquisition.ngrams import Cutter, Grams, Hashes

MOST_TEXTS, MOST_SHARE = 10, 0.01
"""An n-gram in more evaluation texts than this number and this share of them is left out."""
Pairs = dict[tuple[int, int], float]
"""(evaluation text, training text) → share of the evaluation text that stands in the other."""


def leaked_pairs(
    evaluation: Sequence[str],
    train: Sequence[str],
    cutter: Cutter,
    *,
    near: tuple[int, float],
    passage: tuple[int, float],
) -> Pairs:
    """Return the pairs of an evaluation text and a training text that holds it.

    Args:
        evaluation: Normalised evaluation texts.
        train: Normalised training texts.
        cutter: What cuts texts into pieces.
        near: Size of the n-grams of near duplicates, and the Jaccard index from which on two texts
            are such.
        passage: Size of the n-grams of passages, and the share of an evaluation text that they
            have to cover.
    """
    found = _similar(evaluation, train, cutter, *near)
    for pair, share in _passages(evaluation, train, cutter, *passage).items():
        found[pair] = max(share, found.get(pair, 0.0))
    return dict(sorted(found.items()))


def _similar(
    evaluation: Sequence[str], train: Sequence[str], cutter: Cutter, size: int, threshold: float
) -> Pairs:
    grams = cutter.grams([*evaluation, *train], size)
    index = SimilarTexts(GramSets.of(grams), threshold)
    for text in range(len(evaluation)):
        index.add(text)
    return {
        (other, text): jaccard
        for text in range(len(train))
        for other, jaccard in index.similar(len(evaluation) + text)
    }


def _passages(
    evaluation: Sequence[str], train: Sequence[str], cutter: Cutter, size: int, share: float
) -> Pairs:
    wanted, held = cutter.grams(evaluation, size), cutter.grams(train, size)
    told = _telling(wanted)
    owners: dict[int, list[int]] = defaultdict(list)
    for text in range(len(evaluation)):
        for gram in np.unique(wanted.of(text)).tolist():
            owners[gram].append(text)
    shared: dict[tuple[int, int], set[int]] = defaultdict(set)
    hits = _are_in(held.hashes, told)
    for text, gram in zip(held.owners()[hits].tolist(), held.hashes[hits].tolist(), strict=True):
        for other in owners[gram]:
            shared[other, text].add(gram)
    covered = {pair: _covered(wanted, pair[0], grams) for pair, grams in shared.items()}
    return {pair: part for pair, part in covered.items() if part >= share}


def _telling(grams: Grams) -> Hashes:
    """Return the distinct n-grams, sorted, without those that many texts have."""
    count = len(grams.pieces)
    distinct, numbers = np.unique(grams.hashes, return_inverse=True)
    keys = np.unique(grams.owners() * max(len(distinct), 1) + numbers) % max(len(distinct), 1)
    frequencies = np.bincount(keys, minlength=len(distinct))
    return distinct[frequencies <= max(MOST_TEXTS, MOST_SHARE * count)]


def _are_in(hashes: Hashes, wanted: Hashes) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return for every hash whether it is among others, which are sorted."""
    if not len(wanted):
        return np.zeros(len(hashes), dtype=bool)
    places = np.minimum(np.searchsorted(wanted, hashes), len(wanted) - 1)
    found: np.ndarray[tuple[int], np.dtype[np.bool_]] = wanted[places] == hashes
    return found


def _covered(grams: Grams, text: int, shared: set[int]) -> float:
    """Return the share of the pieces of a text that some of its n-grams cover."""
    pieces = int(grams.pieces[text])
    covered = np.zeros(max(pieces, grams.size), dtype=bool)
    for place, gram in enumerate(grams.of(text).tolist()):
        if gram in shared:
            covered[place : place + grams.size] = True
    return float(covered[:pieces].mean())


def by_evaluation(pairs: Pairs) -> Mapping[int, tuple[tuple[int, ...], float]]:
    """Return for every leaked evaluation text its training texts and the largest share."""
    found: dict[int, tuple[tuple[int, ...], float]] = {}
    for (text, other), share in pairs.items():
        others, most = found.get(text, ((), 0.0))
        found[text] = ((*others, other), max(most, share))
    return found
