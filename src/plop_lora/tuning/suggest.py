"""The second stage: suggestions around the best rate, trained on one seed, told to the storage.

All are judged on the selection split. A suggestion that is known to be above the budget is told so
and not trained.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from plop_lora.errors import MeasurementError, UsageError
from plop_lora.records.trial import SEARCH
from plop_lora.records.tuning import (
    FAILED,
    OVER_BUDGET,
    RUNNING,
    SEARCHED,
    Configuration,
    SearchTrial,
)
from plop_lora.study.splits import SELECT
from plop_lora.tuning.ladder import Ladder
from plop_lora.tuning.search import Search, workers_of
from plop_lora.tuning.space import Space
from plop_lora.tuning.storage import CAUSE, COST, STARTUP_SHARE, SearchStorage, configuration_of

if TYPE_CHECKING:
    from optuna import Trial

MISSES = 200
"""Suggestions above the budget, one after the other, after which a search gives up."""
HOPELESS = 3
"""Trained trials that all failed, after which a search gives up."""
FINALISTS = 3


def run_suggestions(search: Search, storage: SearchStorage, ladder: Ladder) -> tuple[str, ...]:
    """Suggest, train and tell until the trials or the hours are spent.

    Returns:
        Notes on why it ended early, if it did.

    Raises:
        MeasurementError: nothing but failures.
        UsageError: the hours were spent before the first trial.
    """
    space = search.space
    batch = storage.unfinished()
    if batch:
        _run(search, storage, batch)
    storage.enqueue(space, known_points(space))
    wanted = max(1, search.policy.trials - len(ladder.steps))
    startup = max(4, round(wanted * STARTUP_SHARE))
    while (missing := wanted - len(trained(storage.history()))) > 0:
        size = min(missing, workers_of(search.study.runner))
        if not affordable(search, storage, ladder, size):
            return (
                f"{missing} of {wanted} trials did not start, for the "
                f"{search.policy.hours:.3g} hours",
            )
        batch = _ask_feasible(storage, space, size, startup)
        if not batch:
            return (
                f"{missing} of {wanted} trials did not start: {MISSES} suggestions in a row were "
                "above the budget",
            )
        _run(search, storage, batch)
        _refuse_hopeless(search, storage.history())
    return ()


def known_points(space: Space) -> list[Configuration]:
    """Return the default, and all linear layers at the largest rank that fits."""
    points = [space.default]
    if "all-linear" in space.names:
        rank = space.largest_rank("all-linear", space.ranks[-1])
        points += [] if rank is None else [replace(points[0], placement="all-linear", rank=rank)]
    return points


def trained(trials: Sequence[SearchTrial]) -> list[SearchTrial]:
    """Return the suggestions that were trained or are being trained."""
    return [trial for trial in trials if trial.state != OVER_BUDGET]


def best_trials(search: Search, trials: Sequence[SearchTrial]) -> list[SearchTrial]:
    """Return the finished trials, best first, each configuration once."""
    sign = -1.0 if search.study.higher else 1.0
    done = [(sign * trial.value, trial) for trial in trials if trial.value is not None]
    done.sort(key=lambda pair: (pair[0], pair[1].number))
    unique: dict[Configuration, SearchTrial] = {}
    for _, trial in done:
        unique.setdefault(trial.configuration, trial)
    return list(unique.values())


def _ask_feasible(storage: SearchStorage, space: Space, size: int, startup: int) -> list[Trial]:
    """Ask until a batch fits the budget; what does not is told as constrained, untrained."""
    batch: list[Trial] = []
    misses = 0
    while len(batch) < size and misses < MISSES:
        trial = storage.ask(space, startup)
        point = configuration_of(trial)
        assert point is not None, "ask keeps the configuration"
        excess = space.excess(point.placement, point.rank)
        if excess <= 0:
            batch.append(trial)
            misses = 0
            continue
        misses += 1
        storage.tell_over_budget(trial, excess)
    return batch


def _run(search: Search, storage: SearchStorage, batch: Sequence[Trial]) -> None:
    """Train a batch and tell the storage; a failed trial is told as one, with its cause.

    One that the machine has ended is not told: it counts as under way, and the next start of this
    worker runs it again.
    """
    specs = [
        search.spec(point, seed=search.study.seed, phase=SEARCH, judged_on=SELECT)
        for trial in batch
        if (point := configuration_of(trial)) is not None
    ]
    for trial, result in zip(batch, search.run(specs), strict=True):
        value, cause = search.outcome(result)
        if value is None:
            trial.set_user_attr(CAUSE, cause)
        if result.mendable:
            continue
        trial.set_user_attr(COST, asdict(result.cost))
        if value is None:
            storage.tell_failed(trial)
        else:
            storage.tell_value(trial, value)


def lost(trials: Sequence[SearchTrial]) -> list[SearchTrial]:
    """Return the suggestions that the machine has ended; one under way has no cause."""
    return [trial for trial in trials if trial.state == RUNNING and trial.cause]


def _refuse_hopeless(search: Search, trials: Sequence[SearchTrial]) -> None:
    failures = [*(trial for trial in trials if trial.state == FAILED), *lost(trials)]
    if len(failures) >= HOPELESS and not any(trial.state == SEARCHED for trial in trials):
        raise MeasurementError(
            f"All {len(failures)} trials of the search failed, the first with: "
            f"{failures[0].cause}. The logs are in {search.folder}."
        )


# --------------------------------------------------------------------------- hours


def affordable(search: Search, storage: SearchStorage, ladder: Ladder, size: int) -> bool:
    """Whether a batch may start and still leave the hours that the confirmation takes.

    The first batch needs only that the hours are not spent: without it there is nothing to
    confirm.

    Raises:
        UsageError: the hours are spent and no trial has run.
    """
    hours = search.policy.hours
    if hours is None:
        return True
    done = storage.costs()
    spent = sum(cost.device_seconds for cost in (*ladder.costs, *done))
    if not done:
        if spent < hours * 3600:
            return True
        raise UsageError(
            f"The ladder took {spent / 3600:.2g} device-hours, so that none of --hours {hours:g} "
            "is left for the search. Give more; what has run is kept."
        )
    mean = statistics.fmean(cost.device_seconds for cost in done)
    coming = size + FINALISTS * search.policy.seeds
    return spent + mean * coming <= hours * 3600
