"""How the NFN of the module types settles as texts are added. Imports numpy, not torch."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from plop_lora.records import Scores

LOOKS = 12


@dataclass(frozen=True, slots=True)
class SettledValue:
    """The NFN of a module type after the first `sequences` texts of a record."""

    sequences: int
    type: str
    nfn: float


def settling(scores: Scores, looks: int = LOOKS) -> list[SettledValue]:
    """Return the NFN of every module type after growing numbers of texts.

    The texts come in the order of the record. The last value of a type is the one that the record
    holds. A type without a counted token among the first texts has no value there.

    Args:
        scores: The record; it holds the sums and counts of every text.
        looks: Largest number of values of a type, at numbers of texts with equal ratios.

    Returns:
        The values by number of texts, then in the order of the types; none for fewer than two
        texts.
    """
    import numpy as np

    held = scores.measurements
    if len(held.sequence_ids) < 2 or not held.sums:
        return []
    at = _numbers(len(held.sequence_ids), looks)
    columns = np.asarray(at) - 1
    sums = np.cumsum(np.asarray(held.sums), axis=1)[:, columns]
    counts = np.cumsum(np.asarray(held.counts), axis=1)[:, columns][np.asarray(held.count_row)]
    means = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    rows: dict[str, list[int]] = defaultdict(list)
    for index, site in enumerate(scores.sites):
        rows[site.type].append(index)
    by_type = {name: means[rows[name]].mean(axis=0) for name in scores.type_names()}
    return [
        SettledValue(number, name, float(values[look]))
        for look, number in enumerate(at)
        for name, values in by_type.items()
        if math.isfinite(values[look])
    ]


def _numbers(most: int, looks: int) -> Sequence[int]:
    """Return growing numbers up to `most`, with about equal ratios."""
    return sorted({max(1, round(most ** (step / (looks - 1)))) for step in range(looks)})
