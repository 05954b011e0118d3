"""Verification: do the small finetunes confirm the shortlist, how surely, at what cost."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from plop_lora.records.base import Record
from plop_lora.records.cost import CostLedger
from plop_lora.records.placement import Placement
from plop_lora.records.scores import ModelReference
from plop_lora.records.trial import LearningCurve


class Verdict(StrEnum):
    """What a verification says of the shortlist."""

    CONFIRMED = "confirmed"
    BEATEN = "beaten"
    INCONCLUSIVE = "cannot separate"


class ArmVerdict(StrEnum):
    """What a verification says of one arm.

    `non-inferior` says that the shortlist is, to this rival, and `worse` that the rival is. A
    rival that is `screened out` was hopeless on the selection rows, and was not trained further.
    """

    SHORTLIST = "shortlist"
    NON_INFERIOR = "non-inferior"
    BETTER = "better than shortlist"
    WORSE = "worse"
    UNSEPARATED = "cannot separate"
    FAILED = "failed"
    UNSETTLED = "not settled"
    SCREENED = "screened out"


CONFIRMED, BEATEN, INCONCLUSIVE = Verdict
EXIT_CODES = {CONFIRMED: 0, BEATEN: 3, INCONCLUSIVE: 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A look at the arms with so many seeds, and the one-sided errors that its bounds may make.

    `error` is that of a bound that must hold for every rival, `corrected` that of a bound that is
    corrected for the number of rivals.
    """

    seeds: int
    error: float
    corrected: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmPlan:
    """One rival before it runs: the parameters of its adapters, its share of the budget."""

    arm: str
    parameters: int
    mismatch: float
    types: tuple[str, ...]
    ranks: tuple[int, int]
    nfn: float | None
    note: str = ""


@dataclass(frozen=True, repr=False, kw_only=True)
class VerificationPlan(Record):
    """What a verification would run, how long, for how much, and what it could detect.

    The power is that of the verdict, simulated with all rivals, looks and the margin, from the
    spreads `seed_sd`, `item_sd` and `noise_sd` of a difference of two arms that were measured in
    other runs of the task: `detectable` is how much better one rival must be to be found in 80 % of
    runs, None with one seed, which can tell nothing; `confirms` is how often the shortlist is
    confirmed where all arms are equal. An arm has at most `seeds`, so there are at most
    `confirm_trials`; `expected_confirm_trials` is their simulated mean. `margin_share` is the share
    of the shortlist's value that the margin is at most. `untrained_trials` judge the model as it
    was. The ladder has `ladder_trials` by what is known, and no more than `ladder_trials_at_most`;
    `widen` rates may be added at each of its ends.
    """

    kind: ClassVar[str] = "verification-plan"

    model: ModelReference
    task: str
    metric: str
    margin: float | None
    budget: int
    arms: tuple[ArmPlan, ...]
    seeds: tuple[int, ...]
    learning_rates: tuple[float, ...]
    ladder_trials: int
    confirm_trials: int
    train_rows: int
    ladder_rows: int
    selection_rows: int
    report_rows: int
    seconds: float | None
    money: float | None
    detectable: float | None
    seed_sd: float
    item_sd: float
    quick: bool
    notes: tuple[str, ...] = ()
    untrained_trials: int = 0
    ladder_trials_at_most: int | None = None
    widen: int | None = None
    noise_sd: float = 0.0
    confirms: float | None = None
    expected_confirm_trials: float | None = None
    margin_share: float | None = None
    looks: tuple[Look, ...] = ()
    beside: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BesideResult:
    """What an arm reached in the outcome that is reported beside the one that decides.

    `difference` is shortlist minus rival, turned so that above 0 the shortlist is better, with its
    two-sided 95 % interval, of this comparison alone; None where nothing can be said. A difference
    of `detectable` would have been told from none with a power of 0.8. No verdict depends on it.
    """

    mean: float | None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    detectable: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneralText:
    """The general text of a verification: its name, how many texts and tokens, the untrained loss.

    `loss` is the mean over texts of the mean over their tokens, in nats per token.
    """

    source: str
    texts: int
    tokens: int
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgetting:
    """What an arm has lost outside the task: the rise of its loss on general text, in nats a token.

    `rise` is the mean over seeds and texts of the loss of the trained model minus that of the
    untrained one, with its 95 % interval. `difference` is the rise of this arm minus that of the
    shortlist, above 0 where the shortlist forgets less, with its interval; None for the shortlist
    itself. Intervals are paired by seed and text, and None with fewer than two seeds.
    """

    rise: float
    low: float | None = None
    high: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmResult:
    """One rival after all its seeds.

    `values` are what decides by seed, None where the trial failed; an arm that was settled has
    fewer, and `ended` says at how many it was, and why. `difference` is shortlist minus rival,
    turned so that above 0 the shortlist is better. It lies between `low` and `high`, the bounds
    that decide (None for the shortlist itself or where nothing can be said): the rival is better
    where `high` is below minus the margin, and the shortlist is not worse where `low` is not. `p`
    is two-sided, after Holm, at that look alone. `freedom` is the degrees of freedom of the seed
    variance, which is moderated over all arms. In records of earlier versions `low` and `high` are
    a two-sided 95 % interval, and `bound` decided.

    `seconds` and `peak_memory` (in bytes) are means over the deciding trials, and `forgetting` is
    None where no loss on general text was measured. `curves` are those of the deciding trials in
    the order of `values`; there are none in records of earlier versions.
    """

    arm: str
    parameters: int
    mismatch: float
    learning_rate: float | None
    nfn: float | None
    mean: float | None
    values: tuple[float | None, ...]
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    verdict: ArmVerdict
    causes: tuple[str, ...] = ()
    bound: float | None = None
    freedom: float | None = None
    ended: str = ""
    beside: BesideResult | None = None
    forgetting: Forgetting | None = None
    seconds: float | None = None
    peak_memory: int | None = None
    curves: Annotated[
        tuple[LearningCurve | None, ...], Field(exclude_if=lambda value: not value)
    ] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What is reached without a finetune: by the model as it was, or by one answer for all rows.

    `value` is the metric on the report split, None with a `cause` where it could not be judged.
    """

    name: str
    value: float | None
    cause: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LadderStep:
    """One learning rate of one arm on the first seed, judged on the selection split.

    `value` is the metric, `loss` the held-out loss, which chooses the rate where it is known.
    `full` marks a trial on all rows, after short ones had left the rate open. `informative` says
    whether the trial has left the level of the untrained model by more than its error.
    """

    arm: str
    learning_rate: float
    value: float | None
    cause: str | None = None
    loss: float | None = None
    full: bool = False
    informative: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictive:
    """Spearman's rho between the arms' mean NFN and what they reached, over how many arms.

    `p` is two-sided, from permutations of the NFN of the module types; records of releases before
    took arms as independent.
    """

    rho: float | None
    arms: int
    p: float | None


@dataclass(frozen=True, repr=False, kw_only=True)
class Verification(Record):
    """The outcome of equal-budget finetunes of rival placements.

    `verdict` is `confirmed` (the shortlist is best or non-inferior to every rival within the
    margin), `beaten` (a rival is better by more than the margin; `better` names it) or
    `cannot separate` (`more` says how many seeds or examples would). `quick` marks a smoke test.
    `references` say what is reached without a finetune: arms at that level have learned nothing,
    and that they are alike is no success of any. `looks` are those that were taken, of at most
    `seeds`. `metric` decides; `beside` names the outcome that is reported beside it, if any.
    `general` says on which text the arms' forgetting was measured, None where it was not.
    """

    kind: ClassVar[str] = "verification"

    model: ModelReference
    task: str
    metric: str
    higher_is_better: bool
    margin: float
    budget: int
    shortlist: str
    verdict: Verdict
    better: str | None
    more: str | None
    arms: tuple[ArmResult, ...]
    ladder: tuple[LadderStep, ...]
    seeds: tuple[int, ...]
    report_rows: int
    selection_rows: int
    train_rows: int
    predictive: Predictive
    cost: CostLedger
    placement: Placement
    better_placement: Placement | None
    quick: bool
    scores_digest: str | None
    plop_version: str
    notes: tuple[str, ...] = ()
    references: tuple[Reference, ...] = ()
    looks: tuple[Look, ...] = ()
    beside: str | None = None
    general: GeneralText | None = None

    @property
    def exit_code(self) -> int:
        """0 confirmed, 3 beaten, 4 cannot separate; of a smoke test 0 where every arm trained.

        A smoke test asks whether everything runs, and not which placement is better: 4 says that
        an arm has no result for some seed.
        """
        if self.quick:
            ran = all(arm.values and None not in arm.values for arm in self.arms)
            return EXIT_CODES[CONFIRMED if ran else INCONCLUSIVE]
        return EXIT_CODES[self.verdict]
