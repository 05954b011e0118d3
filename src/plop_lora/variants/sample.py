"""The sums of a measurement by module type, and their values under any weights of the texts.

Shape letters: S sites, N texts, R draws, K types.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plop_lora.placement import groups_of
from plop_lora.records import Measurements, Scores
from plop_lora.scoring.assemble import by_site
from plop_lora.scoring.measurement.collect import Measured
from plop_lora.scoring.sites.find import Site
from plop_lora.statistics import sums_and_counts
from plop_lora.statistics.estimates import Floats


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Sums and counts of the sites that a placement may choose, per text.

    Attributes:
        names: Names of the texts, in the order of the columns.
        types: The host types, sorted.
        type_S: Index in `types` of each site.
        sums_SN: Sums of NFN over tokens.
        counts_SN: Numbers of tokens.
    """

    names: tuple[str, ...]
    types: tuple[str, ...]
    type_S: NDArray[np.int64]
    sums_SN: Floats
    counts_SN: Floats

    @property
    def size(self) -> int:
        """Number of texts."""
        return len(self.names)

    def columns(self, order: Sequence[int]) -> Sample:
        """Return some of the texts, in an order."""
        names = tuple(self.names[index] for index in order)
        picked = list(order)
        return Sample(
            names, self.types, self.type_S, self.sums_SN[:, picked], self.counts_SN[:, picked]
        )

    def site_means(self, weights_RN: Floats) -> Floats:
        """Return the mean NFN of each site where each text has a weight, [S, R]; NaN unseen."""
        counts_SR = self.counts_SN @ weights_RN.T
        means_SR: Floats = np.divide(
            self.sums_SN @ weights_RN.T, counts_SR,
            out=np.full(counts_SR.shape, np.nan), where=counts_SR > 0,
        )  # fmt: skip
        return means_SR

    def values(self, weights_RN: Floats) -> Floats:
        """Return the NFN of each type where each text has a weight, [R, K]."""
        return self.of_types(self.site_means(weights_RN))

    def point(self) -> Floats:
        """Return the NFN of each type over all texts, [1, K]."""
        return self.values(np.ones((1, self.size)))

    def of_types(self, means_SR: Floats) -> Floats:
        """Return the mean over the sites of each type, [R, K]; infinity where none was seen.

        A type that a draw does not see is not chosen by it.
        """
        values_RK = np.full((means_SR.shape[1], len(self.types)), np.inf)
        for index in range(len(self.types)):
            of_type_SR = means_SR[self.type_S == index]
            seen_SR = ~np.isnan(of_type_SR)
            seen_R = seen_SR.sum(axis=0)
            totals_R = np.where(seen_SR, of_type_SR, 0).sum(axis=0)
            np.divide(totals_R, seen_R, out=values_RK[:, index], where=seen_R > 0)
        return values_RK


def sample_of(scores: Scores, measurements: Measurements | None = None) -> Sample:
    """Return the sums of a record, or those that it holds of a reference text.

    Args:
        scores: The record.
        measurements: Sums and counts whose rows follow `scores.sites`; its own by default.
    """
    measurements = measurements or scores.measurements
    types = eligible_types(scores)
    host_types = {row.type: row.host_type for row in scores.types}
    rows = [i for i, site in enumerate(scores.sites) if host_types[site.type] in types]
    sums_SN, counts_SN = sums_and_counts(measurements, rows)
    of_site = [types.index(host_types[scores.sites[index].type]) for index in rows]
    return Sample(measurements.sequence_ids, types, np.array(of_site), sums_SN, counts_SN)


def eligible_types(scores: Scores) -> tuple[str, ...]:
    """Return the host types that a placement may choose, sorted."""
    return tuple(sorted(group.type for group in groups_of(scores) if group.eligible))


def sample_of_measured(sites: Sequence[Site], measured: Measured, types: Sequence[str]) -> Sample:
    """Return the sums of a measurement for some host types; those of unassignable sites are 0."""
    places: Mapping[str, int] = {name: index for index, name in enumerate(types)}
    sums_SN, counts_SN = by_site(measured)
    counts_SN[sorted(measured.unassignable)] = 0
    rows = [index for index, site in enumerate(sites) if site.host.type in places]
    of_site = np.array([places[sites[index].host.type] for index in rows], dtype=np.int64)
    return Sample(measured.names, tuple(types), of_site, sums_SN[rows], counts_SN[rows])
