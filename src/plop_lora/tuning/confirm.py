"""The third stage: fresh seeds on the untouched report split say whether the find holds.

The best of many trials looks better than it is, since it was chosen for its luck as well. So the
finalists train anew with seeds that the search has not used, on rows that it has not seen.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from plop_lora.recipe.margin import usual_margin
from plop_lora.records import TrialCost, TrialResult
from plop_lora.records.trial import CONFIRM, GENERAL_LOSS
from plop_lora.records.tuning import (
    BETTER,
    IMPROVED,
    INCONCLUSIVE,
    NOT_WORSE,
    REFERENCE,
    STANDS,
    UNCONFIRMED,
    UNDECIDED,
    WORSE,
    Candidate,
    CandidateVerdict,
    Configuration,
    SearchTrial,
    TuningVerdict,
)
from plop_lora.statistics import CONFIDENCE, holm
from plop_lora.study.compare import compare_to_reference, outcome_of
from plop_lora.study.splits import REPORT
from plop_lora.tuning.search import Search
from plop_lora.tuning.suggest import best_trials

TOP = 2


@dataclass(frozen=True, slots=True)
class Versus:
    """A rival minus the default, turned so that above 0 the rival is better.

    `low` and `high` are the simultaneous 95 % interval, `p` is two-sided after Holm; all None
    where too few trials ended to say anything.
    """

    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The finalists with their verdicts, the one to take, what it took."""

    verdict: TuningVerdict
    chosen: Configuration
    candidates: tuple[Candidate, ...]
    seeds: tuple[int, ...]
    costs: tuple[TrialCost, ...]
    notes: tuple[str, ...] = ()


def finalists(search: Search, trials: Sequence[SearchTrial]) -> list[Configuration]:
    """Return the default and the two best of the search; fewer where the default is among them."""
    best = [trial.configuration for trial in best_trials(search, trials)[:TOP]]
    return list(dict.fromkeys((search.space.default, *best)))


def fresh_seeds(search: Search) -> tuple[int, ...]:
    """Return the seeds of the confirmation; the search has used the one before them."""
    first = search.study.seed + 1
    return tuple(range(first, first + search.policy.seeds))


def unconfirmed(search: Search, trials: Sequence[SearchTrial], why: str) -> Confirmation:
    """Return the best of the search as it is, with the reason why nothing confirms it."""
    best = best_trials(search, trials)
    chosen = best[0].configuration if best else search.space.default
    return Confirmation(UNCONFIRMED, chosen, (), (), (), (why,))


def confirm(search: Search, trials: Sequence[SearchTrial], spent: float) -> Confirmation:
    """Train the finalists with fresh seeds and compare them with the default.

    Args:
        search: whose space has the default at the rate of the ladder.
        trials: of the search.
        spent: device-seconds so far; seeds beyond `hours` are left out.
    """
    points = finalists(search, trials)
    seeds, results = _train(search, points, spent)
    if not seeds:
        return unconfirmed(search, trials, "no hours were left for the confirmation")
    by_point = {
        point: tuple(result for result in results if result.arm == point.label) for point in points
    }
    candidates = _judge(search, trials, by_point)
    verdict, chosen = decide(candidates, search.study.higher)
    fewer = search.policy.seeds - len(seeds)
    left_out = f"{fewer} of {search.policy.seeds} seeds of the confirmation left out, for the hours"
    notes = (left_out,) if fewer else ()
    return Confirmation(
        verdict, chosen, candidates, seeds, tuple(result.cost for result in results), notes
    )


def _train(
    search: Search, points: Sequence[Configuration], spent: float
) -> tuple[tuple[int, ...], list[TrialResult]]:
    """Train all at once, or under a limit of hours seed by seed: only whole seeds compare."""
    seeds = fresh_seeds(search)
    rounds = [seeds] if search.policy.hours is None else [(seed,) for seed in seeds]
    used: list[int] = []
    results: list[TrialResult] = []
    for some in rounds:
        seconds = spent + sum(result.cost.device_seconds for result in results)
        if search.policy.hours is not None and seconds >= search.policy.hours * 3600:
            break
        results += search.run(
            [
                search.spec(point, seed=seed, phase=CONFIRM, judged_on=REPORT)
                for seed in some
                for point in points
            ]
        )
        used += some
    return tuple(used), results


def _judge(
    search: Search,
    trials: Sequence[SearchTrial],
    by_point: dict[Configuration, tuple[TrialResult, ...]],
) -> tuple[Candidate, ...]:
    default = next(iter(by_point))
    margin = usual_margin(search.study.metric)
    found = compared(by_point, search.study.metric, higher=search.study.higher)
    general = compared(by_point, GENERAL_LOSS, higher=False)
    selection = {trial.configuration: trial.value for trial in best_trials(search, trials)}
    rows = []
    for point, results in by_point.items():
        outcomes = [search.outcome(result) for result in results]
        values = tuple(value for value, _ in outcomes)
        done = [value for value in values if value is not None]
        versus = found.get(point, Versus())
        elsewhere = general.get(point, Versus())
        doubts = _nothing_learned(results)
        if doubts or _nothing_learned(by_point[default]):
            # Two that have learnt nothing are alike, which says nothing of either.
            versus = Versus()
        rows.append(
            Candidate(
                configuration=point,
                parameters=search.space.placement(point).trainable_parameters,
                selection=selection.get(point),
                mean=statistics.fmean(done) if done else None,
                values=values,
                difference=versus.difference,
                low=versus.low,
                high=versus.high,
                p=versus.p,
                verdict=REFERENCE if point == default else verdict_of(versus, margin),
                causes=(*(cause for _, cause in outcomes if cause is not None), *doubts),
                general_difference=elsewhere.difference,
                general_low=elsewhere.low,
                general_high=elsewhere.high,
            )
        )
    return tuple(rows)


def compared(
    by_point: Mapping[Configuration, Sequence[TrialResult]], metric: str, *, higher: bool
) -> dict[Configuration, Versus]:
    """Compare rivals with the default, the first of them, over the same seeds and rows.

    The intervals hold together (Bonferroni): the best of several rivals is taken by them.
    """
    default, *rivals = by_point
    paired = compare_to_reference(
        {point.label: outcome_of(by_point[point], metric) for point in rivals},
        outcome_of(by_point[default], metric),
        higher=higher,
        level=1 - (1 - CONFIDENCE) / max(1, len(rivals)),
    )
    adjusted = dict(zip(paired, holm([p.interval.p for p in paired.values()]), strict=True))
    found = {}
    for point in rivals:
        if (pair := paired.get(point.label)) is not None:
            gain = pair.interval.reversed()
            found[point] = Versus(gain.value, gain.low, gain.high, adjusted[point.label])
    return found


def _nothing_learned(results: Sequence[TrialResult]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(why for result in results for why in result.nothing_learned))


def verdict_of(versus: Versus, margin: float) -> CandidateVerdict:
    """Return what the interval of a difference says; above 0 the candidate is better.

    >>> str(verdict_of(Versus(0.004, -0.002, 0.01, 0.2), 0.01))
    'not worse'
    """
    if versus.low is None or versus.high is None:
        return UNDECIDED
    if versus.low > 0:
        return BETTER
    if versus.high < 0:
        return WORSE
    return NOT_WORSE if versus.low >= -margin else UNDECIDED


def decide(candidates: Sequence[Candidate], higher: bool) -> tuple[TuningVerdict, Configuration]:
    """Return the verdict and the configuration to take; the first candidate is the default.

    A rival takes its place only if it is shown to be better. One that is merely not worse would
    replace a default that is its equal about every second time.
    """
    default, *rivals = candidates
    better = [rival for rival in rivals if rival.verdict == BETTER]
    if better:
        return IMPROVED, _best(better, higher).configuration
    alive = [rival for rival in rivals if rival.mean is not None]
    if default.mean is None and alive:
        return INCONCLUSIVE, _best(alive, higher).configuration
    open_ones = any(rival.verdict == UNDECIDED for rival in rivals)
    return INCONCLUSIVE if open_ones or default.mean is None else STANDS, default.configuration


def _best(candidates: Sequence[Candidate], higher: bool) -> Candidate:
    means = [(candidate.mean, candidate) for candidate in candidates if candidate.mean is not None]
    return max(means, key=lambda pair: pair[0] if higher else -pair[0])[1]
