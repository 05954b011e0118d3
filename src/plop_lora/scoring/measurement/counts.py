"""Compare the number of counted rows with the number of tokens of the texts.

Shape letters: S sites, N sequences.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from plop_lora.scoring.measurement.collect import Measured
from plop_lora.scoring.measurement.sums import Floats
from plop_lora.scoring.sites.find import Site


def grouped(sites: Sequence[Site]) -> dict[tuple[str, object], list[int]]:
    """Return the indices of the sites of each type and layer, in the order of first occurrence.

    Experts in a `ModuleList` share the tokens of a text, and only together receive all of them.
    """
    groups: dict[tuple[str, object], list[int]] = defaultdict(list)
    for index, site in enumerate(sites):
        groups[site.type, site.name if site.layer is None else site.layer].append(index)
    return dict(groups)


def count_notes(
    sites: Sequence[Site], usable: Sequence[int], measured: Measured, counts_SN: Floats
) -> Iterator[str]:
    """Yield notes on sites whose counted rows are not the tokens of the texts.

    Args:
        sites: The measured sites.
        usable: Indices of the sites that have a score.
        measured: The measurement.
        counts_SN: Number of counted rows of each site and sequence, from `by_site(measured)`.
    """
    yield from _other_rows(sites, usable, measured, counts_SN)
    yield from _left_out_calls(sites, usable, measured)


def _other_rows(
    sites: Sequence[Site], usable: Sequence[int], measured: Measured, counts_SN: Floats
) -> Iterator[str]:
    """Yield a note if the number of rows of a text is not a multiple of its tokens.

    A module that runs several times, or routes each token to several experts, counts a multiple.
    """
    if not measured.text_only or not measured.tokens:
        return
    groups = grouped([sites[index] for index in usable])
    wrong = [
        (sites[usable[places[0]]].name, int(counts_N.sum()))
        for places in groups.values()
        for counts_N in [counts_SN[[usable[place] for place in places]].sum(axis=0)]
        if not _are_multiples(counts_N, measured.tokens_2N).all()
    ]
    if wrong:
        name, rows = wrong[0]
        yield (
            f"{len(wrong)} of {len(groups)} weights counted other rows than the tokens of the "
            f"texts, of which there are {measured.tokens}; {name} counted {rows} (rows that are "
            "all zero are not counted)"
        )


def _are_multiples(counts_N: Floats, tokens_2N: Floats) -> NDArray[np.bool_]:
    """Return whether each count is a multiple of the tokens of encoder, decoder or both."""
    sides = np.concatenate([tokens_2N, tokens_2N.sum(axis=0, keepdims=True)])
    rest = np.remainder(counts_N, np.where(sides > 0, sides, np.inf))
    return np.asarray(((rest == 0) & (sides > 0)).any(axis=0))


def _left_out_calls(
    sites: Sequence[Site], usable: Sequence[int], measured: Measured
) -> Iterator[str]:
    """Yield notes on calls that were not counted, at sites that have a score from other calls."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for index in usable:
        if index in measured.left_out:
            by_reason[measured.left_out[index]].append(sites[index].name)
    for reason, names in by_reason.items():
        yield f"some calls of {names[0]}{_others(len(names) - 1)} were left out: {reason}"


def _others(count: int) -> str:
    if not count:
        return ""
    return f" and {count} other weight{'s' if count > 1 else ''}"
