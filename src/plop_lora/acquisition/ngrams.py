"""N-grams of many texts as arrays of 64-bit hashes, and what a text is cut into.

A text is cut into words (a punctuation mark counts as one), or into characters where it is in a
script that is written without spaces. A hash is a polynomial in pseudo-random values of the pieces,
so that two different n-grams of ten million have the same hash with a probability of about 3e-6.
The hashes depend on the order in which words were first met, and results do not. No torch.

A: all n-grams of all texts, by text and position.  P: all pieces.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from plop_lora.recipe.acquire import AUTO, CHARACTERS, WORDS

Hashes: TypeAlias = NDArray[np.uint64]
Offsets: TypeAlias = NDArray[np.int64]
Pieces: TypeAlias = NDArray[np.uint32]
UNSPACED_SHARE = 0.1
"""The share of characters of scripts without spaces from which on n-grams are made of them."""
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
_WORD = re.compile(r"\w+|[^\w\s]")


def normalised(text: str) -> str:
    r"""Return a text in Unicode's form NFKC, without letter case, with single spaces.

    >>> normalised("Ｔｗｏ\n Words ")
    'two words'
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def unit_of(wanted: str, texts: Iterable[str]) -> str:
    """Return what n-grams are made of, `words` or `characters`.

    Args:
        wanted: One of the two, or `auto`, for which the characters of the texts decide.
        texts: All texts that are compared with one another.
    """
    if wanted != AUTO:
        return wanted
    characters = unspaced = 0
    for text in texts:
        characters += len(text) - text.count(" ")
        if not text.isascii():
            unspaced += len(_UNSPACED.findall(text))
    return CHARACTERS if characters and unspaced >= UNSPACED_SHARE * characters else WORDS


@dataclass(frozen=True, slots=True, eq=False)
class Grams:
    """The n-grams of some texts, by text and position.

    Attributes:
        hashes: Hash of every n-gram, A.
        starts: Index of the first n-gram of each text in `hashes`, and the number of all.
        pieces: Number of pieces of each text.
        size: Number of pieces of an n-gram. A text with fewer pieces has one n-gram.
    """

    hashes: Hashes
    starts: Offsets
    pieces: Offsets
    size: int

    def of(self, text: int) -> Hashes:
        """Return the n-grams of a text by position."""
        return self.hashes[self.starts[text] : self.starts[text + 1]]

    def owners(self) -> Offsets:
        """Return the number of the text of every n-gram, A."""
        return np.repeat(np.arange(len(self.pieces)), np.diff(self.starts))


class Cutter:
    """Cuts texts into pieces; one for all texts that are compared.

    Attributes:
        unit: What a piece is: `words` or `characters`.
    """

    def __init__(self, unit: str) -> None:
        """Begin without any words."""
        self.unit = unit
        self._numbers: defaultdict[str, int] = defaultdict(itertools.count(1).__next__)

    def pieces(self, text: str) -> Pieces:
        """Return a number from 1 for every piece of a normalised text.

        The same piece has the same number in every text.
        """
        if self.unit == CHARACTERS:
            points = text.replace(" ", "").encode("utf-32-le", "surrogatepass")
            return np.frombuffer(points, dtype=np.uint32) + np.uint32(1)
        words = _WORD.findall(text)
        return np.fromiter(map(self._numbers.__getitem__, words), np.uint32, len(words))


def grams_of(texts: Sequence[Pieces], size: int) -> Grams:
    """Return the n-grams of texts.

    Args:
        texts: Pieces of every text. A text that is too short for an n-gram is filled up with 0.
        size: Number of pieces of an n-gram.
    """
    pieces = np.array([len(text) for text in texts], dtype=np.int64)
    padded = np.maximum(pieces, size)
    ends = np.concatenate(([0], np.cumsum(padded)))
    flat_P = np.zeros(int(ends[-1]), dtype=np.uint64)
    if len(texts):
        places = np.arange(int(pieces.sum())) + np.repeat(ends[:-1] - _before(pieces), pieces)
        flat_P[places] = np.concatenate(texts)
    windows = _windows(_mixed(flat_P), size)
    counts = padded - size + 1
    starts = np.concatenate(([0], np.cumsum(counts)))
    places = np.arange(int(starts[-1])) + np.repeat(ends[:-1] - starts[:-1], counts)
    return Grams(windows[places], starts, pieces, size)


def _before(counts: Offsets) -> Offsets:
    """Return for every text the number of pieces of those before it."""
    sums: Offsets = np.cumsum(counts) - counts
    return sums


def distinct(values: NDArray[Any]) -> NDArray[Any]:
    """Return the distinct values, sorted; several times as fast as `np.unique` on millions."""
    ordered = np.sort(values)
    first = np.ones(len(ordered), dtype=bool)
    first[1:] = ordered[1:] != ordered[:-1]
    found: NDArray[Any] = ordered[first]
    return found


def _mixed(values: Hashes) -> Hashes:
    """Return pseudo-random values of numbers: the finaliser of SplitMix64.

    Source: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.
    """
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _windows(values: Hashes, size: int) -> Hashes:
    """Return the hash of every `size` values in a row, modulo 2**64."""
    count = max(len(values) - size + 1, 0)
    hashes = np.zeros(count, dtype=np.uint64)
    for offset in range(size):
        hashes *= np.uint64(0x100000001B3)
        hashes += values[offset : offset + count]
    return hashes
