"""The trials of a verification, and how far they have come. No torch.

What follows from the trials alone stands here: what decides, which rivals were hopeless, what
forbids a claim, and which look is next. `outcome` makes the record from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plop_lora.indicators.signal import Signal
from plop_lora.placement import PLOP
from plop_lora.records import TrialResult
from plop_lora.records.trial import higher_is_better
from plop_lora.records.verification import Look
from plop_lora.study.compare import cause_within, outcome_at
from plop_lora.verification.arm_rules import COMPULSORY
from plop_lora.verification.course import Course, Ended, follow
from plop_lora.verification.decide import Decision, Doubts, decide
from plop_lora.verification.design import Design
from plop_lora.verification.ladder import Ladder, Rates
from plop_lora.verification.references import best_reference, references_of
from plop_lora.verification.screening import hopeless
from plop_lora.verification.self_checks import constant_metric, equal_seeds
from plop_lora.verification.settled import unsettled


@dataclass(frozen=True, slots=True, eq=False)
class Trials:
    """Everything that ran: signals that were measured, the ladder, the confirmation.

    `untrained` is the trial that judged the model as it was, on the report split.
    """

    signals: Sequence[Signal]
    ladder: Ladder
    rates: Rates
    untrained: TrialResult
    confirm: tuple[TrialResult, ...] = ()

    def of(self, arm: str) -> list[TrialResult]:
        """Return the deciding trials of an arm."""
        return [result for result in self.confirm if result.arm == arm]


def course_of(design: Design, trials: Trials) -> Course:
    """Return what the looks so far came to, and which look lacks trials."""
    metric, arms = design.outcome, compared_arms(design, trials)
    margin = margin_of(design, trials)

    def decide_at(look: Look, ended: Ended) -> Decision | None:
        seeds = design.seeds[: look.seeds]
        present = {(result.arm, result.seed) for result in trials.confirm}
        trained = [arm for arm in arms if arm in trials.rates.best and arm not in ended]
        if any((arm, seed) not in present for arm in trained for seed in seeds):
            return None
        so_far = [result for result in trials.confirm if result.seed in seeds]
        return decide(
            {arm: outcome_at(trials.of(arm), seeds, metric) for arm in arms},
            shortlist=PLOP, margin=margin, higher=higher_is_better(metric), look=look,
            doubts=_doubts(design, trials, so_far, len(seeds)), ended=ended,
        )  # fmt: skip

    if PLOP not in trials.rates.best or not {*arms} & {*trials.rates.best} - {PLOP}:
        return Course()
    return follow(design.looks, margin, decide_at)


def compared_arms(design: Design, trials: Trials) -> tuple[str, ...]:
    """Return the arms that are not screened out."""
    screened = screened_out(design, trials)
    return tuple(arm.name for arm in design.arms if arm.name not in screened)


def margin_of(design: Design, trials: Trials) -> float:
    """Return the margin by what the shortlist reached with the seeds of the first look."""
    seeds = design.seeds[: design.looks[0].seeds]
    first = outcome_at(trials.of(PLOP), seeds, design.outcome)
    return design.margin.of(first.mean or 0.0)


def screened_out(design: Design, trials: Trials) -> dict[str, str]:
    """Return the hopeless rivals of a sequential design, each with the reason."""
    if len(design.looks) == 1:
        return {}
    first = trials.ladder.of(PLOP)
    level = 0.0 if first is None or first.rung.value is None else first.rung.value
    return hopeless(trials.ladder, design.margin.of(level), shortlist=PLOP, kept=COMPULSORY)


def _doubts(design: Design, trials: Trials, confirm: Sequence[TrialResult], seeds: int) -> Doubts:
    """Return what forbids a claim, by the deciding trials so far."""
    metric = design.outcome
    name, level = best_reference(
        references_of(design.study, metric, trials.untrained, seeds),
        higher=higher_is_better(metric),
    )
    return Doubts(doubtful(trials, confirm, metric), level, name)


def doubtful(trials: Trials, confirm: Sequence[TrialResult], metric: str) -> dict[str, str]:
    """Say of each arm why its numbers may not be those of its placement, if anything says so."""
    found = {
        **unsettled(trials.ladder, confirm, trials.untrained),
        **equal_seeds(confirm),
        **trials.rates.blind,
        **trials.rates.lost,
    }
    if (constant := constant_metric(confirm, metric)) is not None:
        found[PLOP] = constant
    for result in confirm:
        if result.mendable:
            # The seeds that are left may be the luckier ones.
            found[result.arm] = (
                f"its trial with the seed {result.seed} was lost to the machine "
                f"({cause_within(result)}), so it has fewer seeds than the others; start again to "
                "run it"
            )
        elif result.nothing_learned:
            found[result.arm] = (
                f"its trial with the seed {result.seed} has learnt nothing: "
                f"{'; '.join(result.nothing_learned)}"
            )
    return found
