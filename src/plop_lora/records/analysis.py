"""Analyses of experiments: what the observations show, in words and numbers, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import AwareDatetime, Field

from plop_lora.records.base import Record


class Design(StrEnum):
    """How often the data may be looked at."""

    SEQUENTIAL = "sequential"
    FIXED = "fixed"


class Role(StrEnum):
    """What a metric is there for."""

    GUARDRAIL = "guardrail"
    PRIMARY = "primary"
    OTHER = "other"


class MetricVerdict(StrEnum):
    """What the observations say of one metric of one arm, against the control."""

    BETTER = "better"
    NON_INFERIOR = "non-inferior"
    WORSE = "worse"
    HARM = "harm"
    UNDECIDED = "cannot separate"
    NOT_ENOUGH_DATA = "not enough data"
    VOID = "void"


class Action(StrEnum):
    """What to do with an arm."""

    SHIP = "ship"
    STOP = "stop"
    CONTINUE = "continue"


class Cause(StrEnum):
    """Why."""

    BETTER = "better"
    HARM = "harm"
    MISMATCH = "sample ratio mismatch"
    NO_GAIN = "no improvement shown"
    UNDECIDED = "not decided yet"


SEQUENTIAL, FIXED = Design
SHIP, STOP, CONTINUE = Action
_EXIT_CODES = {SHIP: 0, STOP: 3, CONTINUE: 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRatio:
    """Whether the numbers of units follow the split.

    `p` holds for one look at the data, and `sequential_p` for any number of looks. `mismatch` says
    whether the result is void, by the one of them that belongs to the design.
    """

    units: Mapping[str, int]
    expected: Mapping[str, float]
    p: float
    sequential_p: float
    mismatch: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """What was left out of all comparisons.

    `crossed` is the number of units that were seen in two arms, and `burn_in` the number of
    observations before the end of the burn-in.
    """

    crossed: int
    burn_in: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricComparison:
    """One metric of one arm against the control.

    `control_value` and `arm_value` are the values of the two arms without any adjustment.
    `difference` is the arm minus the control, adjusted where the metric asks for it, with its
    interval from `low` to `high` at the error of the experiment. `worst` and `best` are one-sided
    bounds of the improvement, negative where the arm is worse: a guardrail passes if `worst` is
    above minus the `margin`, and an arm is harmful if `best` is below 0. `missing` is the number of
    units of both arms without a value. `reduction` is the share of the variance that values from
    before took away. `units_needed` would decide the metric, if the difference is what it appears
    to be. Numbers are None where there is not enough data.
    """

    arm: str
    metric: str
    role: Role
    higher_is_better: bool
    verdict: MetricVerdict
    reason: str
    units: int
    missing: int
    control_value: float | None = None
    arm_value: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    worst: float | None = None
    best: float | None = None
    margin: float | None = None
    reduction: float | None = None
    units_needed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CoursePoint:
    """What was known of the primary metric of an arm at a time, as in a `MetricComparison`."""

    at: AwareDatetime
    arm: str
    units: int
    difference: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmDecision:
    """What to do with one arm, why, and what would change it."""

    arm: str
    action: Action
    cause: Cause
    reason: str
    change: str


@dataclass(frozen=True, repr=False, kw_only=True)
class Analysis(Record):
    """What the observations of an experiment show, and what to do.

    `comparisons` are those of the guardrails of each arm first, then of the primary metric, then of
    the others. `decisions` has one entry for each arm but the control. `course` says what earlier
    looks by the sequential design would have shown, where that was asked for.
    """

    kind: ClassVar[str] = "experiment-analysis"

    experiment: str
    experiment_digest: str
    design: Design
    units: int
    planned_units: int
    sample_ratio: SampleRatio
    dropped: Dropped
    comparisons: tuple[MetricComparison, ...]
    decisions: tuple[ArmDecision, ...]
    plop_version: str
    notes: tuple[str, ...] = ()
    course: Annotated[tuple[CoursePoint, ...], Field(exclude_if=lambda value: not value)] = ()

    @property
    def action(self) -> Action:
        """Ship if an arm may ship, else continue if an arm is not decided, else stop."""
        actions = {decision.action for decision in self.decisions}
        return SHIP if SHIP in actions else CONTINUE if CONTINUE in actions else STOP

    @property
    def winner(self) -> str | None:
        """The arm that may ship; of several, the one that improves the primary metric most."""
        able = {decision.arm for decision in self.decisions if decision.action is SHIP}
        gains = {
            row.arm: row.difference * (1 if row.higher_is_better else -1)
            for row in self.comparisons
            if row.role is Role.PRIMARY and row.arm in able and row.difference is not None
        }
        return max(gains, key=lambda arm: gains[arm], default=None)

    @property
    def lines(self) -> tuple[str, ...]:
        """The reasons in the order in which the analysis goes."""
        return (
            self.sample_ratio.reason,
            self.dropped.reason,
            *(row.reason for row in self.comparisons),
            *(f"{decision.reason} {decision.change}" for decision in self.decisions),
        )

    @property
    def exit_code(self) -> int:
        """0 if an arm may ship, 3 if the experiment is to stop, 4 if it is to continue."""
        return _EXIT_CODES[self.action]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSize:
    """How many units a design needs.

    `units` are those of each arm, and `days` is None where the traffic is not known. `detectable`
    is the difference that is shown with the power of the plan.
    """

    design: Design
    units: tuple[int, ...]
    total: int
    days: int | None
    detectable: float


@dataclass(frozen=True, repr=False, kw_only=True)
class ExperimentPlan(Record):
    """How large an experiment has to be, or what one of a given size can show.

    `mean` and `sd` are those of the metric over units in past data, from `source`. `margin` is that
    of a guardrail whose true difference is 0; otherwise the plan is that of a primary metric. The
    power of the sequential design counts its last look alone, so earlier looks can only add to it.
    """

    kind: ClassVar[str] = "experiment-plan"

    mean: float
    sd: float
    source: str
    effect: float | None
    margin: float | None
    weights: tuple[float, ...]
    units_per_day: float | None
    coverage: float
    power: float
    error: float
    sizes: tuple[SampleSize, ...]
    plop_version: str
    notes: tuple[str, ...] = ()
