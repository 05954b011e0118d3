"""The design of a verification: which trials decide, at which rates and seeds.

A design is a study with its arms. From it come the trials of the ladder (`ladder`) and those of
the confirmation: every arm at its own best rate, every seed, all rows, judged on the report split.
No torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from plop_lora.indicators.signal import Signal
from plop_lora.placement import PLOP
from plop_lora.recipe import VerifyDesign
from plop_lora.recipe.margin import Margin, parse_margin, usual_margin
from plop_lora.recipe.verify import LOSS, METRIC, SEQUENTIAL
from plop_lora.records import TrialSpec
from plop_lora.records.trial import CONFIRM, UNTRAINED, higher_is_better
from plop_lora.records.verification import Look
from plop_lora.study.rates import Length, shortened
from plop_lora.study.splits import REPORT
from plop_lora.study.study import Study
from plop_lora.study.usual_rate import rounded
from plop_lora.verification.arm_rules import COMPULSORY, DEFAULT_ARMS
from plop_lora.verification.arms import Arm, make_arms
from plop_lora.verification.looks import planned_looks

UNTRAINED_MODEL = "untrained model"
SEEDS, MOST_SEEDS = 5, 6
"""Of the fixed design, and at most of the sequential one, which has nearly the same power."""
QUICK_SEEDS = 2
USUAL_WIDEN = 2
"""How many rates may be added at each end of a ladder of factors."""
LEAST_SEEDS = 2
"""One seed has no spread, so nothing can be told from it."""
SMALL_LOSS = 0.05
"""Share of the loss that the usual margin is at most. Of a task that is nearly solved, with a loss
below 0.4, 0.02 nats would be much of what is left."""


@dataclass(frozen=True, slots=True, eq=False)
class Design:
    """A study with its arms, and how they are compared.

    Attributes:
        study: what all trials have in common.
        arms: the shortlist first.
        rates: learning rates with which the ladder begins, rising.
        widen: how many rungs may be added at each end of the ladder.
        seeds: of an arm that is not settled before; the ladder runs on the first.
        looks: at how many seeds the arms are judged, and what errors may be made.
        margin: loss of what decides that is accepted.
        by_metric: whether the metric decides where there is a held-out loss as well.
        ladder: how much a short trial of the ladder sees.
        quick: whether this is a smoke test.
        notes: what a reader should know.
    """

    study: Study
    arms: tuple[Arm, ...]
    rates: tuple[float, ...]
    widen: int
    seeds: tuple[int, ...]
    looks: tuple[Look, ...]
    margin: Margin
    by_metric: bool
    ladder: Length
    quick: bool
    notes: tuple[str, ...]

    @property
    def outcome(self) -> str:
        """What decides: the held-out loss where the task has one, unless the metric is to."""
        return outcome_of(self.study, by_metric=self.by_metric)

    @property
    def beside(self) -> str | None:
        """What is reported beside it, None where the task has no other."""
        other = outcome_of(self.study, by_metric=not self.by_metric)
        return None if other == self.outcome else other

    @property
    def takes_all_rows(self) -> bool:
        """Whether the short trials of the ladder are as long as those that decide."""
        return self.ladder.rows >= len(self.study.splits.train)


def outcome_of(study: Study, *, by_metric: bool) -> str:
    """Return the metric, or the held-out loss where judging gives it."""
    return LOSS if LOSS in study.task.metrics and not by_metric else study.metric


def arm_names(wanted: VerifyDesign) -> tuple[str, ...]:
    """Return the arms that are asked for, the shortlist first, the strongest rival among them.

    Those of no design of its own may be fewer in the end: a rule may find nothing in a model.
    """
    return tuple(dict.fromkeys((PLOP, *(wanted.arms or DEFAULT_ARMS), COMPULSORY)))


def make_design(
    study: Study,
    wanted: VerifyDesign,
    *,
    signals: Mapping[str, Signal] | None = None,
    names: Sequence[str] | None = None,
) -> Design:
    """Make the arms of a study, and fill in what is left open of how they are compared.

    Args:
        study: what the trials have in common.
        wanted: arms, rates, seeds and margin, as the user wrote them.
        signals: of the arms that need one, by selector.
        names: the arms; by default those that are wanted.

    Raises:
        UsageError: an unknown arm, a budget that an arm cannot meet.
    """
    sequential = wanted.design == SEQUENTIAL and not wanted.quick
    count = QUICK_SEEDS if wanted.quick else wanted.seeds or (MOST_SEEDS if sequential else SEEDS)
    seeds = tuple(range(study.seed, study.seed + count))
    arms = make_arms(
        wanted.arms if names is None else names,
        study.scores,
        budget=study.budget,
        top=study.top,
        seeds=seeds,
        signals=signals,
        largest_rank=study.task.largest_rank,
    )
    rates = _rates(study, wanted)
    notes: tuple[str, ...] = ()
    if len(rates) == 1:
        notes = ("all arms train at one learning rate, which favours those that it suits",)
    rivals = len(arm_names(wanted)) - 1
    by_metric = wanted.decide_by == METRIC
    return Design(
        study=study,
        arms=arms,
        rates=rates,
        widen=_widen(wanted),
        seeds=seeds,
        looks=planned_looks(count, rivals, sequential=sequential),
        margin=_margin(wanted, outcome_of(study, by_metric=by_metric)),
        by_metric=by_metric,
        ladder=shortened(study, wanted.ladder_share),
        quick=wanted.quick,
        notes=notes,
    )


def _margin(wanted: VerifyDesign, outcome: str) -> Margin:
    if wanted.margin is not None:
        return parse_margin(wanted.margin)
    return Margin(usual_margin(outcome), None if higher_is_better(outcome) else SMALL_LOSS)


def _widen(wanted: VerifyDesign) -> int:
    if wanted.widen is not None:
        return wanted.widen
    return USUAL_WIDEN if wanted.learning_rates is None else 0


def _rates(study: Study, wanted: VerifyDesign) -> tuple[float, ...]:
    if wanted.learning_rates is not None:
        return wanted.learning_rates
    return tuple(rounded(study.usual_rate * factor, 6) for factor in wanted.ladder)


# --------------------------------------------------------------------------- trials


def confirm_specs(
    design: Design,
    rates: Mapping[str, float],
    arms: Collection[str] | None = None,
    seeds: int | None = None,
) -> tuple[TrialSpec, ...]:
    """Return the trials of the report, by arm and seed.

    Args:
        design: whose arms they are of.
        rates: learning rate of each arm; one without is left out.
        arms: by default all.
        seeds: how many of the seeds, by default all.
    """
    return tuple(
        design.study.trial_spec(
            arm.name, placement, learning_rate=rates[arm.name], seed=seed, phase=CONFIRM,
            judged_on=REPORT,
        )
        for arm in design.arms
        if arm.name in rates and (arms is None or arm.name in arms)
        for placement, seed in list(zip(arm.placements, design.seeds, strict=True))[:seeds]
    )  # fmt: skip


def untrained_spec(design: Design, judged_on: str) -> TrialSpec:
    """Return the trial that judges the model as it was, on a split.

    It takes one step at a learning rate of 0. The adapters of the shortlist start without effect,
    and keep it; so what is judged is the untrained model, by the same way as every arm.
    """
    study = design.study
    rows = study.training.batch_size * study.training.accumulation
    return study.trial_spec(
        UNTRAINED_MODEL, design.arms[0].placements[0], learning_rate=0.0, seed=design.seeds[0],
        phase=UNTRAINED, judged_on=judged_on, rows=min(len(study.splits.train), rows), steps=1,
    )  # fmt: skip
