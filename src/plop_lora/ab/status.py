"""How a running experiment stands, from what is stored of it.

Imports no torch; the store is given.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from plop_lora import __version__
from plop_lora.records.experiment_status import ArmStatus, ExperimentStatus

if TYPE_CHECKING:
    from plop_lora.ab.running import RunState
    from plop_lora.ab.store import Decision, RunCounts, StoredRun

_DAY_SECONDS = 86_400.0
_FIRST = timedelta(hours=1)


def status_of(
    run: StoredRun, at: datetime, *, waiting: int | None, command: str
) -> ExperimentStatus:
    """Return how an experiment stands.

    Args:
        run: Run in its store.
        at: Time now.
        waiting: Number of events that have not reached the store yet, None if unknown.
        command: Options of a command that names this experiment, for the command to type next.

    Raises:
        StoreError: The database cannot be read.
        UsageError: The experiment has not been started.
    """
    experiment, state, counts, ended = run.experiment, run.state(), run.counts(), run.decision()
    units = sum(counts.units.values())
    return ExperimentStatus(
        experiment=experiment.name,
        experiment_digest=experiment.digest(),
        unit=experiment.unit,
        started=state.ramp.started,
        at=at,
        coverage=state.ramp.coverage,
        arms=tuple(
            ArmStatus(
                arm=arm.name, weight=arm.weight, units=counts.units[arm.name],
                off=state.off.get(arm.name),
            )
            for arm in experiment.arms
        ),
        planned_units=experiment.planned_units,
        values=counts.events,
        before=counts.before,
        left_out={reason: count for reason, count in asdict(run.left_out()).items() if count},
        first_event=counts.first,
        last_event=counts.last,
        waiting=waiting,
        days_left=_days_left(experiment.planned_units, units, state, at),
        ended=None if ended is None else _ending(ended),
        next=_next(counts, units, ended, command),
        plop_version=__version__,
    )  # fmt: skip


def _days_left(planned: int, units: int, state: RunState, at: datetime) -> float | None:
    """Return the days to the planned units if new units come in proportion to the coverage.

    Nothing is said in the first hour, whose rate means little.
    """
    covered = 0.0
    steps = state.ramp.steps
    for step, following in zip(steps, [*(one.at for one in steps[1:]), at], strict=True):
        covered += step.coverage * max((following - step.at).total_seconds(), 0.0)
    if not units or not state.ramp.coverage or at < state.ramp.started + _FIRST:
        return None
    a_day = units / covered * state.ramp.coverage * _DAY_SECONDS
    return max(planned - units, 0) / a_day


def _ending(ended: Decision) -> str:
    return (
        f"{ended.decision} {ended.arm} at {ended.at.isoformat(timespec='minutes')}: {ended.reason}"
    )


def _next(counts: RunCounts, units: int, ended: Decision | None, command: str) -> str:
    """Return the command that helps most now."""
    if ended is not None or (units and counts.events):
        verb = "analyze"
    else:
        verb = "log UNIT NAME VALUE" if units else "assign UNIT"
    return f"plop ab {verb} {command}".rstrip()
