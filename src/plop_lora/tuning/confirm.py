"""The third stage: fresh seeds on the untouched report split say whether the find holds.

The best of many trials looks better than it is, since it was chosen for its luck as well. So the
finalists train anew with seeds that the search has not used, on rows that it has not seen.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from plop_lora.records import TrialCost, TrialResult
from plop_lora.records.trial import CONFIRM
from plop_lora.records.tuning import (
    BETTER,
    IMPROVED,
    INCONCLUSIVE,
    NOT_WORSE,
    REFERENCE,
    STANDS,
    UNCONFIRMED,
    WORSE,
    Candidate,
    Configuration,
    SearchTrial,
)
from plop_lora.tuning.job import Job
from plop_lora.tuning.search import best_trials
from plop_lora.tuning.steps import Versus
from plop_lora.verification.plan import default_margin

TOP = 2


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The finalists with their verdicts, the one to take, what it took."""

    verdict: str
    chosen: Configuration
    candidates: tuple[Candidate, ...]
    seeds: tuple[int, ...]
    costs: tuple[TrialCost, ...]
    notes: tuple[str, ...] = ()


def finalists(job: Job, trials: Sequence[SearchTrial]) -> list[Configuration]:
    """Return the default and the two best of the search; fewer where the default is among them."""
    best = [trial.configuration for trial in best_trials(job, trials)[:TOP]]
    return list(dict.fromkeys((job.space.default, *best)))


def fresh_seeds(job: Job) -> tuple[int, ...]:
    """Return the seeds of the confirmation; the search has used the one before them."""
    first = job.recipe.seed + 1
    return tuple(range(first, first + job.recipe.seeds))


def unconfirmed(job: Job, trials: Sequence[SearchTrial], why: str) -> Confirmation:
    """Return the best of the search as it is, with the reason why nothing confirms it."""
    best = best_trials(job, trials)
    chosen = best[0].configuration if best else job.space.default
    return Confirmation(UNCONFIRMED, chosen, (), (), (), (why,))


def confirm(job: Job, trials: Sequence[SearchTrial], spent: float) -> Confirmation:
    """Train the finalists with fresh seeds and compare them with the default.

    Args:
        job: whose space has the default at the rate of the ladder.
        trials: of the search.
        spent: device-seconds so far; seeds beyond `hours` are left out.
    """
    points = finalists(job, trials)
    seeds, results = _train(job, points, spent)
    if not seeds:
        return unconfirmed(job, trials, "no hours were left for the confirmation")
    by_point = {
        point: tuple(result for result in results if result.arm == point.label) for point in points
    }
    candidates = _judge(job, trials, by_point)
    verdict, chosen = decide(candidates, job.higher)
    fewer = job.recipe.seeds - len(seeds)
    left_out = f"{fewer} of {job.recipe.seeds} seeds of the confirmation left out, for the hours"
    notes = (left_out,) if fewer else ()
    return Confirmation(
        verdict, chosen, candidates, seeds, tuple(result.cost for result in results), notes
    )


def _train(
    job: Job, points: Sequence[Configuration], spent: float
) -> tuple[tuple[int, ...], list[TrialResult]]:
    """Train all at once, or under a limit of hours seed by seed: only whole seeds compare."""
    seeds = fresh_seeds(job)
    rounds = [seeds] if job.recipe.hours is None else [(seed,) for seed in seeds]
    used: list[int] = []
    results: list[TrialResult] = []
    for some in rounds:
        seconds = spent + sum(result.cost.device_seconds for result in results)
        if job.recipe.hours is not None and seconds >= job.recipe.hours * 3600:
            break
        results += job.run(
            [
                job.spec(point, seed=seed, phase=CONFIRM, judged=job.rows.report)
                for seed in some
                for point in points
            ]
        )
        used += some
    return tuple(used), results


def _judge(
    job: Job,
    trials: Sequence[SearchTrial],
    by_point: dict[Configuration, tuple[TrialResult, ...]],
) -> tuple[Candidate, ...]:
    default, *rivals = by_point
    margin = default_margin(job.metric)
    found = job.steps.compare(
        by_point[default], {point.label: by_point[point] for point in rivals}, margin=margin
    ) if rivals else {}  # fmt: skip
    selection = {trial.configuration: trial.value for trial in best_trials(job, trials)}
    rows = []
    for point, results in by_point.items():
        outcomes = [job.outcome(result) for result in results]
        values = tuple(value for value, _ in outcomes)
        done = [value for value in values if value is not None]
        versus = found.get(point.label, Versus(None, None, None, None))
        doubts = _nothing_learned(results)
        if doubts or _nothing_learned(by_point[default]):
            # Two that have learnt nothing are alike, which says nothing of either.
            versus = Versus(None, None, None, None)
        rows.append(
            Candidate(
                configuration=point,
                parameters=job.space.placement(point).trainable_parameters,
                selection=selection.get(point),
                mean=statistics.fmean(done) if done else None,
                values=values,
                difference=versus.difference,
                low=versus.low,
                high=versus.high,
                p=versus.p,
                verdict=REFERENCE if point == default else verdict_of(versus, margin),
                causes=(*(cause for _, cause in outcomes if cause is not None), *doubts),
            )
        )
    return tuple(rows)


def _nothing_learned(results: Sequence[TrialResult]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(why for result in results for why in result.nothing_learned))


def verdict_of(versus: Versus, margin: float) -> str:
    """Return what the interval of a difference says; above 0 the candidate is better.

    >>> verdict_of(Versus(0.004, -0.002, 0.01, 0.2), 0.01)
    'not worse'
    """
    if versus.low is None or versus.high is None:
        return INCONCLUSIVE
    if versus.low > 0:
        return BETTER
    if versus.high < 0:
        return WORSE
    return NOT_WORSE if versus.low >= -margin else INCONCLUSIVE


def decide(candidates: Sequence[Candidate], higher: bool) -> tuple[str, Configuration]:
    """Return the verdict and the configuration to take; the first candidate is the default.

    A rival takes its place only if it is not worse and has the better mean.
    """
    default, *rivals = candidates
    passed = [
        rival
        for rival in rivals
        if rival.verdict in (BETTER, NOT_WORSE) and (rival.difference or 0) > 0
    ]
    if passed:
        return IMPROVED, _best(passed, higher).configuration
    alive = [rival for rival in rivals if rival.mean is not None]
    if default.mean is None and alive:
        return INCONCLUSIVE, _best(alive, higher).configuration
    open_ones = any(rival.verdict == INCONCLUSIVE for rival in rivals)
    return INCONCLUSIVE if open_ones or default.mean is None else STANDS, default.configuration


def _best(candidates: Sequence[Candidate], higher: bool) -> Candidate:
    means = [(candidate.mean, candidate) for candidate in candidates if candidate.mean is not None]
    return max(means, key=lambda pair: pair[0] if higher else -pair[0])[1]
