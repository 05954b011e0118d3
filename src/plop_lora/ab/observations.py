"""Observations of an experiment, put together by unit.

Units are randomised, so units are what is independent. Several observations of one unit are put
together before anything else is computed.

Imports numpy; no torch.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from plop_lora.errors import DataError, UsageError
from plop_lora.records import Experiment, Metric
from plop_lora.records.experiment import SHARE

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What was seen of one unit at one exposure.

    Attributes:
        unit: Id of the unit, the one that was assigned or a pseudonym of it.
        arm: Name of the arm that the unit was given.
        exposed_at: Time of the exposure, with a time zone.
        values: Name of a value → the value; see `Metric.values`. A value that is left out is
            missing, and not 0.
        before: The same, from before the experiment, for metrics with `cuped`.
    """

    unit: str
    arm: str
    exposed_at: datetime
    values: Mapping[str, float] = field(default_factory=dict)
    before: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class UnitValues:
    """The values of the units of one arm.

    Attributes:
        units: Number of units.
        sums: Name of a value → its sum for each unit.
        counts: Name of a value → how many observations of each unit have it.
        before: Name of a value → that from before for each unit, NaN where there is none.
    """

    units: int
    sums: Mapping[str, Floats]
    counts: Mapping[str, NDArray[np.int64]]
    before: Mapping[str, Floats]


@dataclass(frozen=True, slots=True, eq=False)
class Collected:
    """The observations by arm and unit.

    Attributes:
        first_seen: Arm → number of units that were seen in it first, before anything is dropped.
        crossed: Number of units that were seen in two arms.
        burn_in: Number of observations before the end of the burn-in.
        arms: Arm → the values of its units, without both of these.
    """

    first_seen: Mapping[str, int]
    crossed: int
    burn_in: int
    arms: Mapping[str, UnitValues]


def collect(
    experiment: Experiment, observations: Iterable[Observation], started: datetime | None
) -> Collected:
    """Put observations together by unit.

    Args:
        experiment: Experiment that they belong to.
        observations: Observations in any order.
        started: Time of the start, from which the burn-in counts; None takes the first exposure.

    Raises:
        DataError: There is none, an arm is unknown, a value is not finite or not what its metric
            allows.
        UsageError: A time has no time zone.
    """
    seen = list(observations)
    _check(experiment, seen)
    first_seen, crossed = _arms_of_units(seen)
    start = min(one.exposed_at for one in seen) if started is None else started
    end_of_burn_in = start + experiment.burn_in
    late = [one for one in seen if one.exposed_at >= end_of_burn_in]
    by_arm: dict[str, list[Observation]] = {arm.name: [] for arm in experiment.arms}
    for one in late:
        if one.unit not in crossed:
            by_arm[one.arm].append(one)
    counts = Counter(first_seen.values())
    return Collected(
        first_seen={arm.name: counts[arm.name] for arm in experiment.arms},
        crossed=len(crossed),
        burn_in=len(seen) - len(late),
        arms={arm: _unit_values(experiment.metrics, rows) for arm, rows in by_arm.items()},
    )


def _arms_of_units(observations: Iterable[Observation]) -> tuple[dict[str, str], set[str]]:
    """Return the arm in which each unit was seen first, and the units that were seen in two."""
    earliest: dict[str, Observation] = {}
    crossed = set()
    for one in observations:
        known = earliest.setdefault(one.unit, one)
        if known.arm != one.arm:
            crossed.add(one.unit)
        if (one.exposed_at, one.arm) < (known.exposed_at, known.arm):
            earliest[one.unit] = one
    return {unit: one.arm for unit, one in earliest.items()}, crossed


def _unit_values(metrics: Iterable[Metric], observations: Iterable[Observation]) -> UnitValues:
    names = {name for metric in metrics for name in metric.values}
    index: dict[str, int] = {}
    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    before: dict[str, dict[int, float]] = defaultdict(dict)
    for one in observations:
        place = index.setdefault(one.unit, len(index))
        for name in names & one.values.keys():
            found[name].append((place, one.values[name]))
        for name in names & one.before.keys():
            before[name].setdefault(place, one.before[name])
    sums: dict[str, Floats] = {}
    counts: dict[str, NDArray[np.int64]] = {}
    earlier: dict[str, Floats] = {}
    for name in names:
        places_N = np.array([place for place, _ in found[name]], dtype=np.int64)
        values_N = np.array([value for _, value in found[name]], dtype=np.float64)
        sums[name] = np.bincount(places_N, weights=values_N, minlength=len(index)).astype(
            np.float64
        )
        counts[name] = np.bincount(places_N, minlength=len(index))
        earlier[name] = np.full(len(index), np.nan)
        earlier[name][list(before[name])] = list(before[name].values())
    return UnitValues(len(index), sums, counts, earlier)


# ------------------------------------------------------------------------------ what is refused


def _check(experiment: Experiment, observations: list[Observation]) -> None:
    if not observations:
        raise DataError(f"There are no observations of the experiment {experiment.name!r}.")
    shares = {metric.name for metric in experiment.metrics if metric.kind is SHARE}
    denominators = {metric.denominator for metric in experiment.metrics} - {""}
    names = {name for metric in experiment.metrics for name in metric.values}
    arms = experiment.split
    for one in observations:
        if one.arm not in arms:
            raise DataError(
                f"An observation is of the arm {one.arm!r}, which the experiment "
                f"{experiment.name!r} does not have; its arms are {', '.join(arms)}."
            )
        if one.exposed_at.tzinfo is None:
            raise UsageError(
                f"The time {one.exposed_at.isoformat()} of an exposure has no time zone."
            )
        for values in (one.values, one.before):
            for name in names & values.keys():
                _check_value(one, name, values[name], name in shares, name in denominators)


def _check_value(one: Observation, name: str, value: float, share: bool, denominator: bool) -> None:
    allowed = (
        "a finite number" if not math.isfinite(value)
        else "from 0 to 1" if share and not 0 <= value <= 1
        else "0 or more" if denominator and value < 0
        else None
    )  # fmt: skip
    if allowed is not None:
        raise DataError(
            f"{name!r} is {value} in an observation of the arm {one.arm!r} at "
            f"{one.exposed_at.isoformat()}; it must be {allowed}."
        )
