"""From the observations of an experiment to what they show and what to do.

The order is fixed, and a later step is not believed where an earlier one fails: the sample ratio,
units in two arms, the burn-in, the guardrails, the primary metric, the other metrics.

Imports numpy and scipy; no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from plop_lora import __version__
from plop_lora.ab import words
from plop_lora.ab.comparisons import MISMATCH, compare_arm, scale_of
from plop_lora.ab.decisions import State, decide
from plop_lora.ab.estimates import estimate_arms
from plop_lora.ab.observations import Collected, Observation, collect
from plop_lora.errors import UsageError, nearest
from plop_lora.records import (
    Analysis,
    Dropped,
    Experiment,
    MetricComparison,
    Ramp,
    SampleRatio,
)
from plop_lora.records.analysis import FIXED, Design, Role
from plop_lora.statistics import chi_square_p, sequential_split_p

_ORDER = (Role.GUARDRAIL, Role.PRIMARY, Role.OTHER)


def analyze(
    experiment: Experiment,
    observations: Iterable[Observation],
    *,
    design: Design | str = Design.SEQUENTIAL,
    ramp: Ramp | None = None,
) -> Analysis:
    """Say what the observations of an experiment show, and what to do with each arm.

    Args:
        experiment: Experiment as it was designed.
        observations: Observations in any order; several of one unit are put together.
        design: `sequential` holds however often the data are looked at. `fixed` is narrower, and
            holds only for one look that was planned, when all planned units have come; its bound of
            harm is sequential all the same.
        ramp: Coverage over time, which names the experiment that was started and its start.

    Raises:
        DataError: There are no observations, or a value or an arm is not one of the experiment.
        RecordError: The experiment is not the one that was started.
        UsageError: There is no such design.
    """
    design = _design(design)
    if ramp is not None:
        ramp.check(experiment)
    seen = list(observations)
    collected = collect(experiment, seen, None if ramp is None else ramp.started)
    ratio = _sample_ratio(experiment, collected, design)
    rows = _compare(experiment, collected, design)
    if ratio.mismatch:
        rows = tuple(words.void_ratio(row) for row in rows)
    units = sum(values.units for values in collected.arms.values())
    state = State(design, units, experiment.planned_units, ratio, ratio.p < MISMATCH)
    return Analysis(
        experiment=experiment.name,
        experiment_digest=experiment.digest(),
        design=design,
        units=units,
        planned_units=experiment.planned_units,
        sample_ratio=ratio,
        dropped=_dropped(experiment, collected, len(seen)),
        comparisons=rows,
        decisions=tuple(
            decide(arm, [row for row in rows if row.arm == arm], state)
            for arm in experiment.candidates
        ),
        plop_version=__version__,
        notes=_notes(state),
    )


def _design(given: Design | str) -> Design:
    names = [str(design) for design in Design]
    if given not in names:
        raise UsageError(
            f"There is no design {given!r}; it is {' or '.join(names)}.{nearest(given, names)}"
        )
    return Design(given)


def _notes(state: State) -> tuple[str, ...]:
    if state.design is FIXED and not state.complete:
        return (
            f"the intervals hold for one look at {state.planned:,} units, and not for this one; "
            "the sequential design holds at any time",
        )
    return ()


def _sample_ratio(experiment: Experiment, collected: Collected, design: Design) -> SampleRatio:
    """Test the numbers of units before anything is dropped."""
    counts, shares = collected.first_seen, list(experiment.split.values())
    total = sum(counts.values())
    expected = {arm: total * share for arm, share in experiment.split.items()}
    p = chi_square_p(list(counts.values()), shares)
    sequential = sequential_split_p(list(counts.values()), shares)
    return SampleRatio(
        units=counts,
        expected=expected,
        p=p,
        sequential_p=sequential,
        mismatch=(p if design is FIXED else sequential) < MISMATCH,
        reason=words.ratio_reason(counts, expected, p, sequential, design=design, limit=MISMATCH),
    )


def _dropped(experiment: Experiment, collected: Collected, observations: int) -> Dropped:
    return Dropped(
        crossed=collected.crossed,
        burn_in=collected.burn_in,
        reason=words.dropped_reason(
            collected.crossed,
            sum(collected.first_seen.values()),
            collected.burn_in,
            observations,
            experiment.burn_in_hours,
        ),
    )


def _compare(
    experiment: Experiment, collected: Collected, design: Design
) -> tuple[MetricComparison, ...]:
    """Compare every metric of every arm, the guardrails first."""
    rows: list[MetricComparison] = []
    for metric in experiment.metrics:
        estimates = estimate_arms(metric, collected.arms)
        rows += [
            compare_arm(experiment, arm, metric, estimates, scale_of(experiment, arm, design))
            for arm in experiment.candidates
        ]
    return tuple(_in_order(rows))


def _in_order(rows: Sequence[MetricComparison]) -> list[MetricComparison]:
    return sorted(rows, key=lambda row: _ORDER.index(row.role))
