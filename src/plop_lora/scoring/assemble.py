"""Turn the sums of a measurement into the record `Scores`, without any forward pass.

Shape letters: S sites, R rows of the measurement, N sequences, E experts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from plop_lora.errors import MeasurementError
from plop_lora.placement.place import LEAST_COVERAGE
from plop_lora.records import (
    Coverage,
    ExpertScore,
    Host,
    Measurements,
    ModelReference,
    NotMeasured,
    Provenance,
    ReferenceChoice,
    Scores,
    SiteScore,
    Stopping,
    TypeScore,
)
from plop_lora.scoring.measurement.collect import Measured
from plop_lora.scoring.measurement.counts import count_notes
from plop_lora.scoring.measurement.sums import Floats
from plop_lora.scoring.sites.find import (
    ALL_ZERO,
    NEVER_RAN,
    UNASSIGNABLE,
    ZERO_INPUT,
    Site,
    SiteMap,
)
from plop_lora.statistics import ratio_estimate, type_estimate


def assemble(
    model: ModelReference,
    found: SiteMap,
    measured: Measured,
    provenance: Provenance,
    stopping: Stopping,
    notes: tuple[str, ...] = (),
    references: tuple[ReferenceChoice, ...] = (),
) -> Scores:
    """Turn the sums of a measurement into a record.

    Sites that no token reached are listed as not measured.

    Raises:
        MeasurementError: No token reached any site.
    """
    sums_SN, counts_SN = by_site(measured)
    usable = usable_sites(counts_SN, measured)
    if not usable:
        reasons = Counter(_reason(index, measured) for index in range(len(found.sites)))
        raise MeasurementError(
            f"No site saw a token of this data: {reasons.most_common(1)[0][0]}. If the model needs "
            "other inputs than text, pass its processor's batches, one example each: "
            "plop.score(model, batches=[...])."
        )
    missing = [
        _not_measured(site, _reason(index, measured))
        for index, site in enumerate(found.sites)
        if index not in usable
    ]
    sites = [found.sites[index] for index in usable]
    measurements = packed(measured.names, sums_SN[usable], counts_SN[usable])
    covered = sum(site.parameters for site in sites if site.eligible)
    coverage = Coverage(covered, found.block_parameters, (*missing, *found.not_measured))
    if measured.halvings:
        notes = (*notes, f"a batch did not fit in memory and was halved {measured.halvings} times")
    if measured.alone:
        notes = (*notes, "texts went one at a time, since a module mixes those of a batch")
    return Scores(
        model=model,
        types=_type_scores(sites, measurements),
        sites=tuple(_site_score(found.sites[index], index, measured) for index in usable),
        hosts=_hosts(sites),
        sequences=len(measured.names),
        tokens=measured.tokens,
        coverage=coverage,
        provenance=provenance,
        measurements=measurements,
        notes=(
            *notes,
            *found.notes,
            *count_notes(found.sites, usable, measured, counts_SN),
            *_idle_experts(sites, usable, measured),
            *_too_little(coverage),
        ),
        stopping=stopping,
        references=references,
    )


def usable_sites(counts_SN: Floats, measured: Measured) -> list[int]:
    """Return the indices of the sites that received a token which belongs to a known sequence."""
    tokens_S = counts_SN.sum(axis=1)
    return [
        index
        for index in range(len(counts_SN))
        if tokens_S[index] > 0 and index not in measured.unassignable
    ]


def by_site(measured: Measured) -> tuple[Floats, Floats]:
    """Return sums and counts [S, N] per site, added over its experts.

    The mean of a site of experts then gives every routed token the same weight.
    """
    starts = measured.starts
    return added_up(measured.sums_RN, starts), added_up(measured.counts_RN, starts)


def added_up(values_RN: Floats, starts: Sequence[int]) -> Floats:
    """Return the sum over the rows of each site, [S, N]; see `Measured.starts`."""
    added_SN: Floats = np.add.reduceat(values_RN, np.array(starts[:-1]), axis=0)
    return added_SN


def _reason(index: int, measured: Measured) -> str:
    """Return why a site has no score."""
    if index in measured.unassignable:
        return UNASSIGNABLE
    if index in measured.left_out:
        return measured.left_out[index]
    if index in measured.zeros:
        return ALL_ZERO
    return ZERO_INPUT if index in measured.ran else NEVER_RAN


def _not_measured(site: Site, reason: str) -> NotMeasured:
    return NotMeasured(site.name, site.type, site.parameters, reason)


def packed(names: tuple[str, ...], sums_SN: Floats, counts_SN: Floats) -> Measurements:
    """Return sums and counts as a record; sites with equal counts share one row of counts."""
    rows: dict[tuple[int, ...], int] = {}
    count_row = []
    for counts_N in counts_SN:
        counts = tuple(int(count) for count in counts_N)
        count_row.append(rows.setdefault(counts, len(rows)))
    return Measurements(names, rounded(sums_SN), tuple(rows), tuple(count_row))


def rounded(sums_SN: Floats) -> tuple[tuple[float, ...], ...]:
    """Round each sum to eight significant digits, which is more than float32 holds."""
    return tuple(tuple(float(f"{x:.8g}") for x in sums_N) for sums_N in sums_SN)


def _site_score(site: Site, index: int, measured: Measured) -> SiteScore:
    rows = slice(measured.starts[index], measured.starts[index + 1])
    sums_EN, counts_EN = measured.sums_RN[rows], measured.counts_RN[rows]
    tokens = int(counts_EN.sum())
    stacked = site.host.is_parameter
    return SiteScore(
        name=site.name,
        host=site.host.name,
        type=site.type,
        layer=site.layer,
        nfn=float(sums_EN.sum() / tokens),
        tokens=tokens,
        in_features=site.host.in_features,
        out_features=site.out_features,
        parameters=site.parameters,
        experts=tuple(map(_expert_score, range(len(sums_EN)), sums_EN, counts_EN))
        if stacked
        else (),
    )


def _expert_score(expert: int, sums_N: Floats, counts_N: Floats) -> ExpertScore:
    """Score one expert; an expert without a routed token has no score, not a score of 0."""
    tokens = int(counts_N.sum())
    if not tokens:
        return ExpertScore(expert, 0, None, None, None)
    seen = counts_N > 0
    estimate = ratio_estimate(sums_N[None, seen], counts_N[None, seen])
    low, high = estimate.interval()
    return ExpertScore(expert, tokens, estimate.value, low, high)


def _idle_experts(sites: list[Site], usable: list[int], measured: Measured) -> tuple[str, ...]:
    """Return a note with the number of experts that received no token, if there are any."""
    idle = total = 0
    counted: set[str] = set()
    for site, index in zip(sites, usable, strict=True):
        if site.host.is_parameter and site.host.name not in counted:
            counted.add(site.host.name)
            rows = slice(measured.starts[index], measured.starts[index + 1])
            tokens_E = measured.counts_RN[rows].sum(axis=1)
            idle += int((tokens_E == 0).sum())
            total += len(tokens_E)
    if not idle:
        return ()
    return (f"no token was routed to {idle} of {total} expert weights, which have no score",)


def _too_little(coverage: Coverage) -> tuple[str, ...]:
    if not coverage.measured_parameters or coverage.share_of_asked >= LEAST_COVERAGE:
        return ()
    return (
        f"{coverage.share_of_asked:.0%} of the block parameters were measured; below "
        f"{LEAST_COVERAGE:.0%} nothing is chosen by default",
    )


def _hosts(sites: list[Site]) -> tuple[Host, ...]:
    return tuple(dict.fromkeys(site.host for site in sites))


def _type_scores(sites: list[Site], measurements: Measurements) -> tuple[TypeScore, ...]:
    members: dict[str, list[int]] = defaultdict(list)
    for index, site in enumerate(sites):
        members[site.type].append(index)
    scores = []
    for type_name, indices in members.items():
        estimate = type_estimate(measurements, indices)
        low, high = estimate.interval()
        first = sites[indices[0]]
        scores.append(
            TypeScore(
                type=type_name,
                host_type=first.host.type,
                nfn=estimate.value,
                low=low,
                high=high,
                modules=len(indices),
                parameters=sum(sites[index].parameters for index in indices),
                role=first.role,
                eligible=all(sites[index].eligible for index in indices),
            )
        )
    return tuple(sorted(scores, key=lambda row: (row.nfn, row.type)))
