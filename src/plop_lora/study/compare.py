"""What trials reached, compared with a reference over the same seeds and rows. Pure; no torch.

Shape letters: S seeds, I items.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plop_lora.errors import MeasurementError
from plop_lora.records import TrialResult
from plop_lora.statistics import (
    CONFIDENCE,
    ArmVariances,
    Components,
    Interval,
    SeedVariance,
    arm_variances,
    components,
    paired_interval,
    seed_variances,
)

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


@dataclass(frozen=True, slots=True)
class Paired:
    """The reference minus a rival over the seeds that both finished, above 0 where it is better.

    Attributes:
        interval: of the mean difference, with seed variances that are moderated over all arms, for
            claims that are corrected for the number of rivals.
        cautious: of the same difference, with a seed variance that is not below that of the two
            arms themselves, for claims that hold for every single rival, however noisy it is.
        parts: standard deviations over seeds and items.
        seeds: that both finished.
        items: rows of each seed, None for a metric that is no mean over rows.
        own: the rival's variance over seeds, without what a seed does to all arms.
    """

    interval: Interval
    cautious: Interval
    parts: Components
    seeds: int
    items: int | None
    own: SeedVariance


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


def outcome_at(results: Iterable[TrialResult], seeds: Sequence[int], metric: str) -> Outcome:
    """Return what the trials of one rival reached at these seeds, None where it has no trial."""
    by_seed = {result.seed: result for result in results}
    found = outcome_of([by_seed[seed] for seed in seeds if seed in by_seed], metric)
    values = dict(zip((seed for seed in seeds if seed in by_seed), found.values_S, strict=True))
    items = dict(zip(values, found.items_SI or (), strict=False))
    return Outcome(tuple(map(values.get, seeds)), tuple(map(items.get, seeds)))


def compare_to_reference(
    outcomes: Mapping[str, Outcome],
    reference: Outcome,
    *,
    higher: bool,
    level: float = CONFIDENCE,
    others: Sequence[SeedVariance] = (),
) -> dict[str, Paired]:
    """Compare rivals with a reference, each over the seeds that both finished.

    Args:
        outcomes: rival → outcome, with the same seeds in the same order in each.
        reference: what they are compared with.
        higher: whether a higher value of the metric is better.
        level: of each interval, for itself.
        others: variances of further arms, which count in what is known of all arms.

    Returns:
        What could be compared: a rival that shares fewer than two seeds is not in it.

    Raises:
        MeasurementError: other numbers of rows, or a value that is not finite.
    """
    tables = {}
    for name, outcome in outcomes.items():
        table = _table(name, reference, outcome, higher)
        if len(table.values_SI) >= 2:
            tables[name] = table
    variances = _variances(tables, others)
    return {
        name: _pair(table, variances.get(name) or _alone(table), level)
        for name, table in tables.items()
    }


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """Reference minus a rival, above 0 where it is better: a row per seed that both finished.

    `seeds` are the places of these seeds. Without items there is one column.
    """

    values_SI: Floats
    seeds: tuple[int, ...]
    with_items: bool


@dataclass(frozen=True, slots=True)
class _Known:
    """Variances of a difference at one seed, None to take that of its table, and the rival's."""

    moderated: SeedVariance | None
    cautious: SeedVariance | None
    own: SeedVariance


def _alone(table: _Table) -> _Known:
    """Return what is known of a rival that is compared by itself."""
    means_RS = table.values_SI.mean(axis=1)[None]
    return _Known(None, None, _of_rivals(arm_variances(means_RS))[0])


def _of_rivals(arms: ArmVariances) -> list[SeedVariance]:
    return [
        SeedVariance(float(value), float(freedom))
        for value, freedom in zip(arms.values_A[1:], arms.freedom_A[1:], strict=True)
    ]


def _variances(tables: Mapping[str, _Table], others: Sequence[SeedVariance]) -> dict[str, _Known]:
    """Moderate over the rivals that finished the most seeds in common with the reference.

    A rival that lost one of these seeds is compared by its own variance.
    """
    most = max((table.seeds for table in tables.values()), key=len, default=())
    whole = {name: table for name, table in tables.items() if table.seeds == most}
    if not whole:
        return {}
    means_RS = np.stack([table.values_SI.mean(axis=1) for table in whole.values()])
    further = np.array(others, dtype=np.float64).reshape(-1, 2)
    found = seed_variances(means_RS, ArmVariances(further[:, 0], further[:, 1]))
    if found is None:
        return {}
    own = _of_rivals(arm_variances(means_RS))
    return {
        name: _Known(*found.of(place), rival)
        for place, (name, rival) in enumerate(zip(whole, own, strict=True))
    }


def _pair(table: _Table, known: _Known, level: float) -> Paired:
    values_SI = table.values_SI
    if table.with_items and values_SI.shape[1] > 1:
        parts, items = components(values_SI), values_SI.shape[1]
    else:
        values_SI, items = values_SI.mean(axis=1, keepdims=True), None
        parts = Components(seed_sd=float(values_SI.std(ddof=1)), item_sd=0.0, noise_sd=0.0)
    return Paired(
        interval=paired_interval(values_SI, known.moderated, level=level),
        cautious=paired_interval(values_SI, known.cautious, level=level),
        parts=parts,
        seeds=len(values_SI),
        items=items,
        own=known.own,
    )


def _table(name: str, first: Outcome, second: Outcome, higher: bool) -> _Table:
    """Return first minus second, or the reverse where lower is better."""
    values = zip(first.values_S, second.values_S, strict=True)
    both = tuple(index for index, pair in enumerate(values) if None not in pair)
    sign = 1.0 if higher else -1.0
    rows: list[tuple[Sequence[float] | None, Sequence[float] | None]] = []
    if first.items_SI is not None and second.items_SI is not None:
        rows = [(first.items_SI[index], second.items_SI[index]) for index in both]
    if not rows or any(None in pair for pair in rows):
        plain = [(first.values_S[index], second.values_S[index]) for index in both]
        column = [[sign * (a - b)] for a, b in plain if a is not None and b is not None]
        return _Table(np.array(column), both, False)
    tables = [np.array([row[side] for row in rows], dtype=object) for side in (0, 1)]
    sizes = sorted({len(row) for pair in rows for row in pair if row is not None})
    if len(sizes) > 1:
        raise MeasurementError(
            f"The trials of {name!r} and of its reference judged {' and '.join(map(str, sizes))} "
            "rows; pairing needs the same rows in all. Run them again on one evaluation file."
        )
    values_SI = tables[0].astype(np.float64) - tables[1].astype(np.float64)
    if not np.isfinite(values_SI).all():
        raise MeasurementError(f"A row's outcome of {name!r} or of its reference is not finite.")
    return _Table(sign * values_SI, both, True)
