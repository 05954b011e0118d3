"""What earlier looks at an experiment would have shown.

Imports numpy and scipy; no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from plop_lora.ab.analysis import analyze
from plop_lora.ab.observations import Observation
from plop_lora.records import Experiment, Ramp
from plop_lora.records.analysis import CoursePoint, Role

LOOKS = 20
"""Looks of a course, the last of which is now."""


def course_of(
    experiment: Experiment,
    observations: Iterable[Observation],
    *,
    ramp: Ramp | None = None,
    looks: int = LOOKS,
) -> tuple[CoursePoint, ...]:
    """Return what the sequential design says of the primary metric after parts of the observations.

    Args:
        experiment: Experiment.
        observations: Observations in any order.
        ramp: Coverage over time.
        looks: Number of looks, after equal numbers of observations. Those that have too few units
            for an interval are left out.

    Raises:
        DataError: There is no observation, or one is not of the experiment.
        RecordError: The experiment is not the one that was started.
    """
    seen = sorted(observations, key=lambda one: one.exposed_at)
    ends = sorted({max(1, round(len(seen) * look / looks)) for look in range(1, looks + 1)})
    return tuple(point for end in ends for point in _look(experiment, seen[:end], ramp))


def _look(
    experiment: Experiment, seen: list[Observation], ramp: Ramp | None
) -> Iterator[CoursePoint]:
    for row in analyze(experiment, seen, ramp=ramp).comparisons:
        if row.role is not Role.PRIMARY or row.difference is None:
            continue
        if row.low is None or row.high is None:
            continue
        yield CoursePoint(
            at=seen[-1].exposed_at, arm=row.arm, units=row.units, difference=row.difference,
            low=row.low, high=row.high,
        )  # fmt: skip
