"""The step `compare`: two score files side by side. Pure; no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from plop_lora.errors import UsageError
from plop_lora.records import Comparison, Scores, TypeDifference
from plop_lora.statistics import (
    Difference,
    kendall_tau,
    paired_difference,
    type_estimate,
    unpaired_difference,
)


def compare(
    first: Scores | str | Path,
    second: Scores | str | Path,
    *,
    first_name: str = "first",
    second_name: str = "second",
) -> Comparison:
    """Compare two scores type by type; differences are `second` minus `first`.

    If both measured exactly the same sequences (two checkpoints on one sample), the intervals are
    paired; otherwise (two tasks) they are unpaired.

    Raises:
        UsageError: The two share no module type.
    """
    first, second = Scores.of(first), Scores.of(second)
    names = [name for name in first.type_names() if name in second.type_names()]
    if not names:
        raise UsageError(
            "The two files share no module type: "
            f"{', '.join(first.type_names())} against {', '.join(second.type_names())}."
        )
    paired = first.measurements.sequence_ids == second.measurements.sequence_ids
    nfn_first = {row.type: row.nfn for row in first.types}
    nfn_second = {row.type: row.nfn for row in second.types}
    rows = []
    for name in names:
        gap = _type_difference(first, second, name, paired)
        rows.append(
            TypeDifference(
                type=name,
                first=nfn_first[name],
                second=nfn_second[name],
                difference=gap.value,
                low=gap.low,
                high=gap.high,
                verdict=gap.verdict,
            )
        )
    return Comparison(
        first=first_name,
        second=second_name,
        types=tuple(rows),
        only_first=tuple(name for name in first.type_names() if name not in nfn_second),
        only_second=tuple(name for name in second.type_names() if name not in nfn_first),
        paired_sequences=first.sequences if paired else None,
        kendall_tau=kendall_tau([row.first for row in rows], [row.second for row in rows]),
        notes=tuple(_notes(first, second, paired)),
    )


def _notes(first: Scores, second: Scores, paired: bool) -> Iterator[str]:
    """Yield what keeps two scores from being compared as well as they could be."""
    shared = set(first.measurements.sequence_ids) & set(second.measurements.sequence_ids)
    if shared and not paired:
        yield (
            f"{len(shared)} sequences are in both, but not all: the intervals are unpaired and "
            "wider than they need to be. Score both on the same sample, with --stop fixed, to "
            "pair them."
        )
    counted = [scores.provenance.special_tokens for scores in (first, second)]
    # On the same sequences, equal numbers of tokens say that none of them was special.
    if counted[0] != counted[1] and not (paired and first.tokens == second.tokens):
        which = "first" if counted[0] else "second"
        yield (
            f"special tokens such as [CLS] count in the {which} file only, so that differences "
            "may come from them and not from the data or the model. Score both alike, with or "
            "without --special-tokens."
        )


def _type_difference(first: Scores, second: Scores, name: str, paired: bool) -> Difference:
    estimates = [
        type_estimate(scores.measurements, _orders(scores, name)) for scores in (first, second)
    ]
    difference = paired_difference if paired else unpaired_difference
    return difference(estimates[1], estimates[0])


def _orders(scores: Scores, name: str) -> list[int]:
    return [index for index, site in enumerate(scores.sites) if site.type == name]
