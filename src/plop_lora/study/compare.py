"""What trials reached, compared with a reference over the same seeds and rows. Pure; no torch.

Shape letters: S seeds, I items.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plop_lora.errors import MeasurementError
from plop_lora.records import TrialResult
from plop_lora.statistics import (
    CONFIDENCE,
    Components,
    Interval,
    components,
    paired_bootstrap,
    paired_t,
)

DRAWS = 10_000

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an arm reached, by seed: None where the trial failed.

    `items_SI` are the same for each evaluation row, in the order of the file; None for a metric
    that is no mean over rows.
    """

    values_S: tuple[float | None, ...]
    items_SI: tuple[Sequence[float] | None, ...] | None = None

    @property
    def mean(self) -> float | None:
        """Mean over the seeds that ended with a number, None without one."""
        done = [value for value in self.values_S if value is not None]
        return sum(done) / len(done) if done else None


@dataclass(frozen=True, slots=True, eq=False)
class Paired:
    """The reference minus a rival over the seeds that both finished, above 0 where it is better.

    Attributes:
        interval: of the mean difference.
        parts: standard deviations over seeds and items.
        seeds: that both finished.
        items: rows of each seed, None for a metric that is no mean over rows.
    """

    interval: Interval
    parts: Components
    seeds: int
    items: int | None


def value_of(result: TrialResult, metric: str) -> float | None:
    """Return a trial's value of a metric, None where it failed or has no finite one."""
    value = result.metrics.get(metric) if result.done else None
    return value if value is not None and math.isfinite(value) else None


def cause_of(result: TrialResult, metric: str) -> str | None:
    """Return why a trial has no value, None where it has one."""
    if value_of(result, metric) is not None:
        return None
    return result.cause or f"it ended without a finite {metric}"


def cause_within(result: TrialResult) -> str:
    """Return the cause of a failed trial as a part of a sentence."""
    return (result.cause or "no cause given").rstrip(".")


def outcome_of(results: Sequence[TrialResult], metric: str) -> Outcome:
    """Return what the trials of one rival reached, in the order of their seeds."""
    return Outcome(
        tuple(value_of(result, metric) for result in results),
        tuple(result.items.get(metric) or None for result in results),
    )


def compare_to_reference(
    outcomes: Mapping[str, Outcome],
    reference: Outcome,
    *,
    higher: bool,
    level: float = CONFIDENCE,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Paired]:
    """Compare rivals with a reference, each over the seeds that both finished.

    Args:
        outcomes: rival → outcome, with the same seeds in the same order in each.
        reference: what they are compared with.
        higher: whether a higher value of the metric is better.
        level: of each interval, for itself.
        draws: of the bootstrap.
        seed: of the draws.

    Returns:
        What could be compared: a rival that shares fewer than two seeds is not in it.

    Raises:
        MeasurementError: other numbers of rows, or a value that is not finite.
    """
    found = {}
    for name, outcome in outcomes.items():
        paired = _pair(name, reference, outcome, higher, draws=draws, seed=seed, level=level)
        if paired is not None:
            found[name] = paired
    return found


def _pair(
    name: str,
    first: Outcome,
    second: Outcome,
    higher: bool,
    *,
    draws: int,
    seed: int,
    level: float,
) -> Paired | None:
    table_SI, with_items = _table(name, first, second)
    if len(table_SI) < 2:
        return None
    table_SI = table_SI if higher else -table_SI
    if with_items and table_SI.shape[1] > 1:
        interval = paired_bootstrap(table_SI, draws=draws, seed=seed, level=level)
        return Paired(interval, components(table_SI), *table_SI.shape)
    values_S = table_SI.mean(axis=1)
    parts = Components(seed_sd=float(values_S.std(ddof=1)), item_sd=0.0, noise_sd=0.0)
    return Paired(paired_t(values_S, draws=draws, level=level), parts, len(values_S), None)


def _table(name: str, first: Outcome, second: Outcome) -> tuple[Floats, bool]:
    """Return first minus second, a row per seed that both finished, and whether it has items."""
    values = zip(first.values_S, second.values_S, strict=True)
    both = [index for index, pair in enumerate(values) if None not in pair]
    rows: list[tuple[Sequence[float] | None, Sequence[float] | None]] = []
    if first.items_SI is not None and second.items_SI is not None:
        rows = [(first.items_SI[index], second.items_SI[index]) for index in both]
    if not rows or any(None in pair for pair in rows):
        plain = [(first.values_S[index], second.values_S[index]) for index in both]
        return np.array([[a - b] for a, b in plain if a is not None and b is not None]), False
    tables = [np.array([row[side] for row in rows], dtype=object) for side in (0, 1)]
    sizes = sorted({len(row) for pair in rows for row in pair if row is not None})
    if len(sizes) > 1:
        raise MeasurementError(
            f"The trials of {name!r} and of its reference judged {' and '.join(map(str, sizes))} "
            "rows; pairing needs the same rows in all. Run them again on one evaluation file."
        )
    table_SI = tables[0].astype(np.float64) - tables[1].astype(np.float64)
    if not np.isfinite(table_SI).all():
        raise MeasurementError(f"A row's outcome of {name!r} or of its reference is not finite.")
    return table_SI, True
