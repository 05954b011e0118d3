"""The ladder of a verification: every arm's own learning rate, chosen fairly. No torch.

Its trials follow from each other, in three stages, and all stages are the same for every arm:

1. Every arm trains at every rung on a share of the rows; the model as it was is judged beside them.
2. While the best rate of some arm stands at an end of the ladder, one rung is added at that end for
   all arms, at most `Design.widen` times an end.
3. An arm whose rows cannot tell its best rates apart, or of whose short trials none has left the
   level of the untrained model, trains at all those rates once more, on all rows.

`ladder_specs` says what is wanted by what is known, so that a run that was stopped goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from plop_lora.records import LadderStep, TrialResult, TrialSpec
from plop_lora.records.trial import LADDER, UNTRAINED
from plop_lora.study.compare import cause_within
from plop_lora.study.rates import Rung, criterion_of, leading, rung_of, step_of
from plop_lora.study.splits import SELECT
from plop_lora.study.usual_rate import rounded
from plop_lora.verification.arms import Arm
from plop_lora.verification.design import Design, untrained_spec

LEAST_RATES = 3
"""Rates at which an arm must have been tried before it is said to learn nothing."""

Run = Callable[[Sequence[TrialSpec]], tuple[TrialResult, ...]]


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """What the ladder of one arm came to.

    Attributes:
        rung: the trial at its best rate, the longest of that rate.
        had_its_chance: whether trials on all rows at every rung have shown that it learns nothing.
    """

    rung: Rung
    had_its_chance: bool


@dataclass(frozen=True, eq=False)
class Ladder:
    """The trials of the ladder that are finished, in the order in which they were asked for."""

    design: Design
    specs: tuple[TrialSpec, ...] = ()
    results: tuple[TrialResult, ...] = ()

    def with_results(self, specs: Sequence[TrialSpec], results: Sequence[TrialResult]) -> Ladder:
        """Return the ladder with further trials."""
        return Ladder(self.design, (*self.specs, *specs), (*self.results, *results))

    @cached_property
    def rates(self) -> tuple[float, ...]:
        """The rungs so far, rising."""
        asked = {spec.learning_rate for spec in self.specs if spec.phase == LADDER}
        return tuple(sorted(asked | set(self.design.rates)))

    @cached_property
    def untrained(self) -> TrialResult | None:
        """The model as it was, judged on the selection split."""
        return next((result for result in self.results if result.phase == UNTRAINED), None)

    @cached_property
    def criterion(self) -> str:
        """What rates are compared by."""
        return criterion_of(self.design.study, self.results)

    @cached_property
    def trials(self) -> tuple[TrialResult, ...]:
        """The trials of arms, without that of the untrained model."""
        return tuple(result for _, result, _ in self.judged)

    @cached_property
    def judged(self) -> tuple[tuple[TrialSpec, TrialResult, Rung], ...]:
        """Every trial of an arm with what it says of its rate."""
        return tuple(
            (spec, result, rung_of(result, self.criterion, self.untrained))
            for spec, result in zip(self.specs, self.results, strict=True)
            if spec.phase == LADDER
        )

    def rungs(self, arm: str, *, full: bool) -> list[Rung]:
        """Return what the short trials of an arm say of its rates, or those on all rows."""
        return [rung for spec, _, rung in self.judged if spec.arm == arm and is_full(spec) == full]

    def of(self, arm: str) -> Chosen | None:
        """Return what the ladder of an arm came to, None where no trial has a value."""
        short, full = self.rungs(arm, full=False), self.rungs(arm, full=True)
        best = leading(full) or leading(short)
        if not best:
            return None
        longest = short if self.design.takes_all_rows else full
        known = [rung.rate for rung in longest if rung.is_known]
        nothing = not any(rung.has_learned for rung in longest)
        return Chosen(best[0], nothing and len(known) >= LEAST_RATES and {*known} >= {*self.rates})


def is_full(spec: TrialSpec) -> bool:
    """Whether a trial of the ladder takes all rows."""
    return spec.data.rows is None


def climb(design: Design, run: Run) -> Ladder:
    """Run the ladder to its end; a single rate needs none."""
    ladder = Ladder(design)
    while specs := ladder_specs(ladder):
        ladder = ladder.with_results(specs, run(specs))
    return ladder


def known_ladder(design: Design) -> Ladder:
    """Return those stages of the ladder whose trials are all in the folder."""
    ladder = Ladder(design)
    while specs := ladder_specs(ladder):
        found = design.study.finished(specs)
        if len(found) < len(specs):
            break
        ladder = ladder.with_results(specs, found)
    return ladder


def ladder_specs(ladder: Ladder) -> tuple[TrialSpec, ...]:
    """Return the trials that are wanted next, by what is known; none at the end."""
    design = ladder.design
    if len(design.rates) == 1:
        return ()
    if not ladder.specs:
        before = untrained_spec(design, SELECT)
        return (before, *_specs(design, {arm.name: design.rates for arm in design.arms}))
    if any(map(is_full, ladder.specs[1:])):
        return ()
    if wider := _wider(ladder):
        return _specs(design, {arm.name: wider for arm in design.arms})
    return _specs(design, _open_rates(ladder), full=True)


def _specs(
    design: Design, rates: Mapping[str, Sequence[float]], *, full: bool = False
) -> tuple[TrialSpec, ...]:
    return tuple(
        design.study.trial_spec(
            arm.name, arm.placements[0], learning_rate=rate, seed=design.seeds[0], phase=LADDER,
            judged_on=SELECT, rows=None if full else design.ladder.rows,
            steps=None if full else design.ladder.steps,
        )
        for arm in design.arms
        for rate in rates.get(arm.name, ())
    )  # fmt: skip


def _wider(ladder: Ladder) -> tuple[float, ...]:
    """Return the rungs to add: one at each end where the best rate of some arm stands."""
    design, rates = ladder.design, ladder.rates
    first = [best[0].rate for arm in design.arms if (best := _leading(ladder, arm))]
    added_below = sum(rate < design.rates[0] for rate in rates)
    added_above = sum(rate > design.rates[-1] for rate in rates)
    wider = []
    if rates[0] in first and added_below < design.widen:
        wider.append(rounded(rates[0] * rates[0] / rates[1], 2))
    if rates[-1] in first and added_above < design.widen:
        wider.append(rounded(rates[-1] * rates[-1] / rates[-2], 2))
    return tuple(wider)


def _open_rates(ladder: Ladder) -> dict[str, tuple[float, ...]]:
    """Return the rates of each arm that short trials have left open."""
    design = ladder.design
    if design.takes_all_rows:
        return {}
    found = {}
    for arm in design.arms:
        best = _leading(ladder, arm)
        if len(best) > 1 or (best and not best[0].has_learned):
            found[arm.name] = tuple(sorted(rung.rate for rung in best))
    return found


def _leading(ladder: Ladder, arm: Arm) -> tuple[Rung, ...]:
    return leading(ladder.rungs(arm.name, full=False))


# --------------------------------------------------------------------------- what is chosen


@dataclass(frozen=True, slots=True, eq=False)
class Rates:
    """The rate of every arm that has one, the ladder's steps, the causes of arms without.

    `lost` has the arms of whose ladder a trial was lost to the machine, with the cause: their rate
    was chosen among fewer than the others had. `blind` has those whose ladder told nothing: one
    value and one loss at every rate, or no trial that has left the level of the untrained model.
    """

    best: Mapping[str, float]
    steps: tuple[LadderStep, ...]
    causes: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...]
    lost: Mapping[str, str] = field(default_factory=dict)
    blind: Mapping[str, str] = field(default_factory=dict)


def choose_rates(ladder: Ladder) -> Rates:
    """Return each arm's best rate on the selection split.

    A rate whose trial failed is passed over; an arm all of whose trials failed has none. A best
    rate at an end of the ladder is noted, since a better one may lie beyond.
    """
    design = ladder.design
    if len(design.rates) == 1:
        return Rates({arm.name: design.rates[0] for arm in design.arms}, (), {}, ())
    best: dict[str, float] = {}
    causes: dict[str, tuple[str, ...]] = {}
    notes = list(_widened(ladder))
    blind: dict[str, str] = {}
    steps = tuple(_steps(ladder))
    for arm in design.arms:
        chosen = ladder.of(arm.name)
        if chosen is None:
            own = (step.cause or "" for step in steps if step.arm == arm.name)
            causes[arm.name] = tuple(dict.fromkeys(own))
            continue
        best[arm.name] = chosen.rung.rate
        if why := _why_blind(ladder, arm, chosen):
            blind[arm.name] = why
    notes += [*_edges(best, ladder.rates), *_carried(ladder)]
    return Rates(best, steps, causes, tuple(notes), _lost(ladder.trials), blind)


def _steps(ladder: Ladder) -> list[LadderStep]:
    metric = ladder.design.study.metric
    return [
        step_of(result, metric, rung, full=is_full(spec)) for spec, result, rung in ladder.judged
    ]


def _lost(results: Sequence[TrialResult]) -> dict[str, str]:
    """Say of each arm which trial of its ladder the machine has ended."""
    return {result.arm: _LOST.format(rate=result.learning_rate, cause=cause_within(result))
            for result in results if result.mendable}  # fmt: skip


_BLIND = (
    "its ladder gave the same value and the same loss at every rate, so it chose nothing: give its "
    "trials more rows with ladder_share, or more steps"
)
_AT_START = (
    "at no rate that was tried has it left the level of the untrained model, so its rate was not "
    "chosen by anything: give the ladder other rates, or its trials more rows or steps"
)
_LOST = (
    "its ladder lost the trial at the rate {rate:g} to the machine ({cause}), so its rate was "
    "chosen among fewer; start again to run it"
)


def _why_blind(ladder: Ladder, arm: Arm, chosen: Chosen) -> str | None:
    """Say why the ladder of an arm chose nothing, if it did not."""
    rungs = ladder.rungs(arm.name, full=True) or ladder.rungs(arm.name, full=False)
    known = [rung for rung in rungs if rung.is_known]
    if len(known) > 1 and len({rung.value for rung in known}) == 1:
        return _BLIND
    if not chosen.rung.has_learned and not chosen.had_its_chance:
        return _AT_START
    return None


def _widened(ladder: Ladder) -> list[str]:
    added = [rate for rate in ladder.rates if rate not in ladder.design.rates]
    if not added:
        return []
    names = ", ".join(f"{rate:g}" for rate in added)
    return [f"the ladder was widened to {names} for all arms: a best rate stood at its end"]


def _carried(ladder: Ladder) -> list[str]:
    carried: dict[tuple[float, ...], list[str]] = {}
    for arm in ladder.design.arms:
        rates = tuple(rung.rate for rung in ladder.rungs(arm.name, full=True))
        carried.setdefault(rates, []).append(arm.name)
    return [
        f"short trials could not choose between {' and '.join(f'{rate:g}' for rate in rates)} for "
        f"{', '.join(arms)}: trained there on all rows as well"
        for rates, arms in carried.items()
        if rates
    ]


def _edges(best: Mapping[str, float], rates: Sequence[float]) -> list[str]:
    ends = ((rates[-1], "the largest tried; a larger"), (rates[0], "the smallest tried; a smaller"))
    found = [
        (rate, which, [arm for arm, chosen in best.items() if chosen == rate])
        for rate, which in ends
    ]
    return [
        f"the best rate of {', '.join(arms)}, {rate:g}, is {which} may be better"
        for rate, which, arms in found
        if arms
    ]
