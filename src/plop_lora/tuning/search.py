"""The first two stages: a ladder of learning rates, and the search around its best.

Both judge on the selection split and train on one seed. A trial that is known to be above the
budget is told so and not trained.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from plop_lora.errors import MeasurementError, UsageError, require
from plop_lora.records import LadderStep, TrialCost, TrialResult
from plop_lora.records.trial import LADDER, SEARCH
from plop_lora.records.tuning import (
    FAILED,
    OVER_BUDGET,
    RUNNING,
    SEARCHED,
    Configuration,
    SearchTrial,
)
from plop_lora.tuning import study as memory
from plop_lora.tuning.job import Job, workers_of
from plop_lora.tuning.space import Space, ladder_rates

LADDER_SHARE = 0.25
MISSES = 200
"""Suggestions above the budget, one after the other, after which a search gives up."""
HOPELESS = 3
"""Trained trials that all failed, after which a search gives up."""
FINALISTS = 3
STEPS, COSTS = "ladder", "ladder costs"


@dataclass(frozen=True, slots=True)
class Ladder:
    """The rates tried, what they took, and the causes of trials that the machine has ended."""

    steps: tuple[LadderStep, ...]
    costs: tuple[TrialCost, ...]
    lost: tuple[str, ...] = ()

    def best(self, higher: bool) -> float | None:
        """Return the best rate, None without a ladder."""
        done = [(step.value, step.learning_rate) for step in self.steps if step.value is not None]
        if not done:
            return None
        return max(done, key=lambda pair: pair[0] if higher else -pair[0])[1]


def ladder_rows(job: Job) -> int:
    """Return how many training rows the ladder trains on."""
    return max(1, round(LADDER_SHARE * job.rows.train.rows))


def climb(job: Job, study: Any) -> Ladder:
    """Try the rates of the ladder with the default configuration, or read what others found.

    Raises:
        MeasurementError: no rate came to an end.
    """
    if STEPS in study.user_attrs:
        steps = tuple(LadderStep(**values) for values in study.user_attrs[STEPS])
        return Ladder(steps, tuple(TrialCost(**values) for values in study.user_attrs[COSTS]))
    default = job.space.default
    points = [
        replace(default, learning_rate=rate)
        for rate in ladder_rates(job.space, job.recipe.trials)
    ]  # fmt: skip
    rows = ladder_rows(job)
    results = job.run(
        [_search_spec(job, point, rows) for point in points]
    ) if points else ()  # fmt: skip
    steps = tuple(_step(job, result) for result in results)
    if steps and all(step.value is None for step in steps):
        raise MeasurementError(
            f"Every trial of the learning-rate ladder failed, the first with: {steps[0].cause}. "
            f"The logs are in {job.folder}; change the training settings and start again."
        )
    causes = tuple(result.cause or "no cause given" for result in results if result.mendable)
    ladder = Ladder(steps, tuple(result.cost for result in results), causes)
    if causes:  # the next start tries again
        return ladder
    study.set_user_attr(COSTS, [asdict(cost) for cost in ladder.costs])
    study.set_user_attr(STEPS, [asdict(step) for step in steps])
    return ladder


def narrowed(job: Job, ladder: Ladder) -> Space:
    """Return the space around the best rate of the ladder, as wide as its neighbours."""
    best = ladder.best(job.higher)
    if best is None:
        return job.space
    width = (job.space.high / job.space.low) ** (1 / (len(ladder.steps) - 1))
    return job.space.around(best, width)


def _search_spec(job: Job, point: Configuration, rows: int | None = None) -> Any:
    phase = SEARCH if rows is None else LADDER
    return job.spec(point, seed=job.recipe.seed, phase=phase, judged=job.rows.select, rows=rows)


def _step(job: Job, result: TrialResult) -> LadderStep:
    value, cause = job.outcome(result)
    return LadderStep(
        arm=result.arm, learning_rate=result.learning_rate, value=value, cause=cause
    )  # fmt: skip


# --------------------------------------------------------------------------- the search


def search(job: Job, study: Any, space: Space, ladder: Ladder) -> tuple[str, ...]:
    """Suggest, train and tell until the trials or the hours are spent.

    Returns:
        Notes on why it ended early, if it did.

    Raises:
        MeasurementError: nothing but failures.
        UsageError: the hours were spent before the first trial.
    """
    batch = memory.unfinished(job, study)
    if batch:
        _run(job, study, batch)
    memory.enqueue(study, space, known_points(space))
    wanted = max(1, job.recipe.trials - len(ladder.steps))
    startup = max(4, round(wanted * memory.STARTUP_SHARE))
    while (room := wanted - len(trained(memory.history(study)))) > 0:
        size = min(room, workers_of(job.recipe.runner))
        if not affordable(job, study, ladder, size):
            return (
                f"{room} of {wanted} trials did not start, for the {job.recipe.hours:.3g} hours",
            )
        batch = _ask_feasible(job, study, space, size, startup)
        if not batch:
            return (
                f"{room} of {wanted} trials did not start: {MISSES} suggestions in a row were "
                "above the budget",
            )
        _run(job, study, batch)
        _refuse_hopeless(job, memory.history(study))
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


def best_trials(job: Job, trials: Sequence[SearchTrial]) -> list[SearchTrial]:
    """Return the finished trials, best first, each configuration once."""
    done = [(trial.value, trial) for trial in trials if trial.value is not None]
    done.sort(key=lambda pair: (-pair[0] if job.higher else pair[0], pair[1].number))
    unique: dict[Configuration, SearchTrial] = {}
    for _, trial in done:
        unique.setdefault(trial.configuration, trial)
    return list(unique.values())


def _ask_feasible(job: Job, study: Any, space: Space, size: int, startup: int) -> list[Any]:
    """Ask until a batch fits the budget; what does not is told as constrained, untrained."""
    pruned = require("optuna").trial.TrialState.PRUNED
    batch: list[Any] = []
    misses = 0
    while len(batch) < size and misses < MISSES:
        trial = memory.ask(job, study, space, startup)
        point = memory.configuration_of(trial)
        assert point is not None, "ask keeps the configuration"
        excess = space.excess(point.placement, point.rank)
        if excess <= 0:
            batch.append(trial)
            misses = 0
            continue
        misses += 1
        trial.set_user_attr(memory.CAUSE, f"{excess:,} adapter parameters above the budget")
        study.tell(trial, state=pruned)
    return batch


def _run(job: Job, study: Any, batch: Sequence[Any]) -> None:
    """Train a batch and tell the study; a failed trial is told as one, with its cause.

    One that the machine has ended is not told: it counts as under way, and the next start of this
    worker runs it again.
    """
    failed = require("optuna").trial.TrialState.FAIL
    points = [memory.configuration_of(trial) for trial in batch]
    specs = [_search_spec(job, point) for point in points if point is not None]
    for trial, result in zip(batch, job.run(specs), strict=True):
        value, cause = job.outcome(result)
        if value is None:
            trial.set_user_attr(memory.CAUSE, cause)
        if result.mendable:
            continue
        trial.set_user_attr(memory.COST, asdict(result.cost))
        if value is None:
            study.tell(trial, state=failed)
        else:
            study.tell(trial, value)


def lost(trials: Sequence[SearchTrial]) -> list[SearchTrial]:
    """Return the suggestions that the machine has ended; one under way has no cause."""
    return [trial for trial in trials if trial.state == RUNNING and trial.cause]


def _refuse_hopeless(job: Job, trials: Sequence[SearchTrial]) -> None:
    failures = [*(trial for trial in trials if trial.state == FAILED), *lost(trials)]
    if len(failures) >= HOPELESS and not any(trial.state == SEARCHED for trial in trials):
        raise MeasurementError(
            f"All {len(failures)} trials of the search failed, the first with: "
            f"{failures[0].cause}. The logs are in {job.folder}."
        )


# --------------------------------------------------------------------------- hours


def affordable(job: Job, study: Any, ladder: Ladder, size: int) -> bool:
    """Whether a batch may start and still leave the hours that the confirmation takes.

    The first batch needs only that the hours are not spent: without it there is nothing to
    confirm.

    Raises:
        UsageError: the hours are spent and no trial has run.
    """
    hours = job.recipe.hours
    if hours is None:
        return True
    done = memory.costs(study)
    spent = sum(cost.device_seconds for cost in (*ladder.costs, *done))
    if not done:
        if spent < hours * 3600:
            return True
        raise UsageError(
            f"The ladder took {spent / 3600:.2g} device-hours, so that none of --hours {hours:g} "
            "is left for the search. Give more; what has run is kept."
        )
    mean = statistics.fmean(cost.device_seconds for cost in done)
    coming = size + FINALISTS * job.recipe.seeds
    return spent + mean * coming <= hours * 3600
