"""Whether an adapter harms a group of items, or widens the gap between groups. No torch.

There are two questions, and each direction of the answer needs its own care:

- The check passes if *every* group is shown not to lose more than the margin. A claim about all
  groups is wrong only if the claim about a harmed one is, so each group is tested at its own 95 %
  and no correction is needed (an intersection-union test; Berger, Technometrics 24 (1982)).
- The check fails if *some* group is shown to lose more. With many groups one of them looks harmed
  by chance, so these claims are corrected by Holm's step-down (Scandinavian Journal of Statistics 6
  (1979)): the chance that any group is wrongly called harmed is at most 5 %.

How far the groups move apart is a question of its own; see `gap`.

Shape letters: I items, G groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from plop_lora.errors import MeasurementError
from plop_lora.gating.bounds import (
    LEVEL,
    Floats,
    gain_of,
    loss_p,
)
from plop_lora.gating.decide import verdict_of
from plop_lora.gating.gap import GroupedValues
from plop_lora.gating.power import LEAST
from plop_lora.records.gate import FAIL, NOT_ENOUGH_DATA, PASS, CheckVerdict
from plop_lora.statistics import holm

Labels = Sequence[str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLimits:
    """When a group passes.

    Attributes:
        margin: Largest loss that is allowed, above 0.
        least: Smallest number of independent items on which a group is decided.
        floor: Noise floor, by which the bounds are widened.
    """

    margin: float
    least: int = LEAST
    floor: float = 0.0


@dataclass(frozen=True, slots=True)
class GroupGain:
    """The mean gain of one group.

    Attributes:
        name: Name of the group.
        items: Number of its items.
        independent: Number of its independent items.
        mean: Mean gain; a loss is negative.
        low: Lower end of the two-sided 95 % interval; None for fewer than two independent items.
        high: Its upper end.
        bound_low: One-sided lower bound at 95 %, by which the group passes.
        bound_high: One-sided upper bound at 95 %, without a correction for the other groups.
        harm_p: The p of "the group does not lose more than the margin", by Holm's step-down over
            the groups; the group fails below 0.05. None where the group has too few items.
        verdict: Verdict on the group.
    """

    name: str
    items: int
    independent: int
    mean: float
    low: float | None
    high: float | None
    bound_low: float | None
    bound_high: float | None
    harm_p: float | None
    verdict: CheckVerdict


@dataclass(frozen=True, slots=True, eq=False)
class LabelledValues:
    """The values of all items, turned so that more is better.

    Attributes:
        base_I: Value of every item for the base.
        adapter_I: Value of every item for the adapter.
        labels: Group of every item; None for no group.
        clusters: Cluster of every item; items of one cluster share a question and are not
            independent.
        binary: Whether the value of an item is 0 or 1.
    """

    base_I: Floats
    adapter_I: Floats
    labels: Labels
    clusters: Sequence[str]
    binary: bool = False

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            MeasurementError: A value is not finite.
            ValueError: There are not as many labels, clusters and values.
        """
        counts = {len(self.base_I), len(self.adapter_I), len(self.labels), len(self.clusters)}
        if len(counts) > 1:
            raise ValueError(f"Values, labels and clusters differ in number: {sorted(counts)}.")
        if not (np.isfinite(self.base_I).all() and np.isfinite(self.adapter_I).all()):
            raise MeasurementError("The value of an item is not finite, so no group has a mean.")

    @property
    def names(self) -> list[str]:
        """The names of the groups, in order."""
        return sorted({label for label in self.labels if label is not None})

    def of(self, group: str) -> tuple[Floats, list[str]]:
        """Return the gains and the clusters of the items of a group."""
        kept = [place for place, label in enumerate(self.labels) if label == group]
        gains_I: Floats = self.adapter_I[kept] - self.base_I[kept]
        return gains_I, [self.clusters[place] for place in kept]


def decide_groups(
    labellings: Sequence[LabelledValues], limits: GroupLimits
) -> tuple[GroupGain, ...]:
    """Decide for every group whether the adapter harms it, with the groups in order of name.

    Args:
        labellings: Values of all items with their groups, once for each way to group them. A name
            belongs to one group only.
        limits: When a group passes.
    """
    return _after_holm([
        _group_gain(name, values, limits) for values in labellings for name in values.names
    ])  # fmt: skip


def _group_gain(name: str, values: LabelledValues, limits: GroupLimits) -> GroupGain:
    """Return the gain of a group; its p and its verdict of harm before Holm's step-down."""
    gains_I, clusters = values.of(name)
    independent = len(set(clusters))
    gain = gain_of(gains_I, clusters, binary=values.binary)
    if gain is None:
        return GroupGain(
            name, len(gains_I), independent, float(gains_I.mean()), None, None, None, None, None,
            NOT_ENOUGH_DATA,
        )  # fmt: skip
    enough = independent >= limits.least
    passes = enough and verdict_of(gain, independent, -limits.margin, limits.floor) is PASS
    return GroupGain(
        name=name,
        items=len(gains_I),
        independent=independent,
        mean=float(gains_I.mean()),
        low=gain.ends[0],
        high=gain.ends[1],
        bound_low=gain.low - limits.floor,
        bound_high=gain.high + limits.floor,
        harm_p=(
            loss_p(gains_I, clusters, -limits.margin - limits.floor, binary=values.binary)
            if enough
            else None
        ),
        verdict=PASS if passes else NOT_ENOUGH_DATA,
    )


def _after_holm(groups: Sequence[GroupGain]) -> tuple[GroupGain, ...]:
    """Return the groups with their adjusted p; those below 5 % fail."""
    p_values = [group.harm_p for group in groups if group.harm_p is not None]
    adjusted = iter(holm(p_values))
    found = []
    for group in groups:
        if group.harm_p is not None:
            p = next(adjusted)
            group = replace(group, harm_p=p)
            if p < 1 - LEVEL:
                group = replace(group, verdict=FAIL)
        found.append(group)
    return tuple(found)


def grouped(values: LabelledValues, names: Sequence[str]) -> GroupedValues:
    """Return the values of the items of some groups, with indices for names."""
    index = {name: place for place, name in enumerate(names)}
    kept = [place for place, label in enumerate(values.labels) if label in index]
    _, cluster_I = np.unique([values.clusters[place] for place in kept], return_inverse=True)
    group_I = np.array([index[str(values.labels[place])] for place in kept], dtype=np.intp)
    return GroupedValues(values.base_I[kept], values.adapter_I[kept], group_I, cluster_I)
