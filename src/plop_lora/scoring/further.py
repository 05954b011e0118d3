"""Add the indicators that were measured in addition to NFN to the record, without a forward pass.

Shape letters: S sites, R rows of the measurement, N sequences.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from plop_lora.indicators import Indicator, OfRecords, OfReferences, estimator
from plop_lora.records import IndicatorScores, Scores, TypeValue
from plop_lora.scoring.assemble import added_up, rounded
from plop_lora.scoring.measurement.collect import Measured
from plop_lora.scoring.sites.find import Site


def with_indicators(
    scores: Scores, further: Sequence[Indicator], sites: Sequence[Site], measured: Measured
) -> Scores:
    """Return the scores with further indicators added; without any, return them unchanged.

    Args:
        scores: The record, which holds NFN.
        further: The indicators to add.
        sites: The measured sites, in the order of the measurement.
        measured: The sums of all indicators.
    """
    if not further:
        return scores
    positions = {site.name: index for index, site in enumerate(sites)}
    usable = [positions[site.name] for site in scores.sites]
    known, notes = _computable(further, scores)
    recorded = tuple(_recorded(row, scores, usable, measured) for row in known)
    notes += [
        note
        for row, held in zip(known, recorded, strict=True)
        for note in _without(row, held, scores, _reasons(row, sites, measured))
    ]
    return replace(scores, indicators=recorded, notes=(*scores.notes, *notes))


def _computable(further: Sequence[Indicator], scores: Scores) -> tuple[list[Indicator], list[str]]:
    """Return the indicators that this record can hold, and a note on the others."""
    compared = any(one.measurements is not None for one in scores.references)
    absent = [row for row in further if isinstance(row.measure, OfReferences) and not compared]
    notes = [f"{row.name} was not recorded, because no general text was scored" for row in absent]
    return [row for row in further if row not in absent], notes


def _recorded(
    row: Indicator, scores: Scores, usable: list[int], measured: Measured
) -> IndicatorScores:
    values: Sequence[float | None]
    sums: tuple[tuple[float, ...], ...] = ()
    if row.name in measured.further:
        sums_SN = added_up(measured.further[row.name], measured.starts)[usable]
        counts_SN = added_up(measured.counts_RN, measured.starts)[usable]
        absent = measured.without.get(row.name, {})
        means_S = sums_SN.sum(axis=1) / counts_SN.sum(axis=1)
        pairs = zip(usable, means_S.tolist(), strict=True)
        values = [None if index in absent else mean for index, mean in pairs]
        sums = rounded(sums_SN)
    elif row.name in measured.weights:
        numbers = measured.weights[row.name]
        known = [numbers.get(site.name) for site in scores.sites]
        values = [fmean(one) if isinstance(one, list) else None for one in known]
    elif isinstance(row.measure, OfReferences):
        estimates = (row.measure.estimate(scores, [index]) for index in range(len(usable)))
        values = [None if estimate is None else estimate.value for estimate in estimates]
    else:
        assert isinstance(row.measure, OfRecords)
        values = row.measure.per_site(scores)
    held = IndicatorScores(row.name, (), tuple(values), sums)
    return replace(held, types=_type_values(row, held, scores))


def _type_values(row: Indicator, held: IndicatorScores, scores: Scores) -> tuple[TypeValue, ...]:
    estimate_of = estimator(replace(scores, indicators=(held,)), row)
    found = []
    for name in scores.type_names():
        indices = [index for index, site in enumerate(scores.sites) if site.type == name]
        estimate = estimate_of(indices)
        if estimate is not None:
            found.append(TypeValue(name, estimate.value, *estimate.interval()))
    return tuple(sorted(found, key=lambda one: (row.first(one.value), one.type)))


def _without(
    row: Indicator, held: IndicatorScores, scores: Scores, reasons: Mapping[str, str]
) -> Iterator[str]:
    """Yield a note for each reason why an indicator has no value, with the types concerned."""
    types: dict[str, dict[str, None]] = defaultdict(dict)
    for site, value in zip(scores.sites, held.values, strict=True):
        if value is None:
            types[reasons.get(site.name, _usual_reason(row))][site.type] = None
    for why, names in types.items():
        yield f"{held.indicator} is missing where {why}: {', '.join(names)}"


def _usual_reason(row: Indicator) -> str:
    if isinstance(row.measure, OfReferences):
        return "general text gave a weight no token"
    if isinstance(row.measure, OfRecords):
        return "a weight is in no layer"
    return "a weight cannot be read, as a quantised one"


def _reasons(row: Indicator, sites: Sequence[Site], measured: Measured) -> dict[str, str]:
    """Return the reasons why an indicator has no value, by the name of the site."""
    absent = {
        sites[index].name: f"a weight has none because {why}"
        for index, why in measured.without.get(row.name, {}).items()
    }
    numbers = measured.weights.get(row.name, {})
    return absent | {
        site: f"a weight has none because {why}"
        for site, why in numbers.items()
        if isinstance(why, str)
    }
