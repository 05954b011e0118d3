"""Gates: whether a tuned adapter may ship, check by check, and the plan of a gate."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from plop_lora.records.base import Record


class CheckVerdict(StrEnum):
    """What a check says of an adapter."""

    PASS = "pass"
    FAIL = "fail"
    NOT_ENOUGH_DATA = "not enough data"


PASS, FAIL, NOT_ENOUGH_DATA = CheckVerdict

_Unless = Field(exclude_if=lambda value: not value)
"""Of fields that older files lack, which keep their identity so."""
_EXIT_CODES = {PASS: 0, FAIL: 3, NOT_ENOUGH_DATA: 4}


@dataclass(frozen=True, slots=True)
class Measured:
    """A value with its two-sided 95 % interval over items; the ends are None for one item."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckPart:
    """What a check found for a part of its items, such as one group of rows.

    The fields are those of `CheckResult`. `verdict` is that on the part alone; None where parts
    have none. `p` is that of "it does not lose more than the limit", adjusted for the number of
    parts by Holm's step-down.
    """

    name: str
    items: Annotated[int, Field(ge=1)]
    groups: Annotated[int, Field(ge=1)]
    base: Measured
    adapter: Measured
    difference: Measured
    bound_low: float | None = None
    bound_high: float | None = None
    verdict: CheckVerdict | None = None
    items_needed: int | None = None
    p: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstItem:
    """An item on which the adapter did worse than the base, or that could not be judged.

    It holds the value of both sides and no text: `name` is a short identifier of the item, or the
    number of its row, and `item` the hash of its content. `suite` and `index` say where the
    evidence has what both sides answered. A value is None where a judge left it undecided.
    """

    name: str
    item: str
    suite: str
    index: Annotated[int, Field(ge=0)]
    base: float | None
    adapter: float | None

    @property
    def difference(self) -> float | None:
        """Adapter minus base, None where a side has no value."""
        return None if self.base is None or self.adapter is None else self.adapter - self.base


@dataclass(frozen=True, slots=True)
class Chance:
    """What chance alone brings about, from permutations of the items.

    `p` is that of a difference as large as the observed one, and `exceeded` the difference that 5 %
    of the permutations exceed.
    """

    p: float
    exceeded: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """The outcome of one check, adapter against base on the same items.

    `difference` is adapter minus base. `limit` is the difference at which the verdict turns. The
    check passes if the one-sided bounds at `level`, from `bound_low` to `bound_high`, lie on the
    good side of it, and fails if they lie on the other side. The bounds are widened by
    `noise_floor`, which is the mean absolute change of the base's own values between two passes
    with different batches; None where it is not measured. `groups` is the number of independent
    items: rows that share a question are one. `items_needed` is the number of items that would
    decide with a power of 0.8 if the difference is what it appears to be. It is None where the
    check is decided, and where no number would decide. `binary` says whether the value of an item
    is 0 or 1, and `undecided` is the number of items that a judge could not decide on one side or
    both. `reason` says why nothing was decided, where it is not for lack of items. Where a check
    looks at several parts of its items, `parts` has them all, and the fields here are those of the
    part named `part`, which is the worst one. `notes` say what a reader should know of the items.
    `worst_items` are a few of those that lost most, in that order, of a check that does not pass or
    that warns.
    """

    check: str
    verdict: CheckVerdict
    mode: str
    metric: str
    higher_is_better: bool
    base: Measured
    adapter: Measured
    difference: Measured
    level: Annotated[float, Field(gt=0, lt=1)]
    limit: float
    bound_low: float | None
    bound_high: float | None
    noise_floor: float | None
    items: Annotated[int, Field(ge=1)]
    groups: Annotated[int, Field(ge=1)]
    source: str
    items_needed: int | None = None
    warning: str = ""
    advice: tuple[str, ...] = ()
    binary: Annotated[bool, _Unless] = False
    undecided: Annotated[int, _Unless] = 0
    reason: Annotated[str, _Unless] = ""
    part: Annotated[str, _Unless] = ""
    parts: Annotated[tuple[CheckPart, ...], _Unless] = ()
    chance: Annotated[Chance | None, _Unless] = None
    notes: Annotated[tuple[str, ...], _Unless] = ()
    worst_items: Annotated[tuple[WorstItem, ...], _Unless] = ()


@dataclass(frozen=True, repr=False, kw_only=True)
class GateVerdict(Record):
    """Whether an adapter may ship, with the outcome of every check.

    `adapter_digest` identifies the files of the adapter, `base_digest` the weights of the base
    where they are known, and `measurement` everything on which the measured values depend.
    `evidence` is the file with the values of every item. `reference` is the folder of the adapter
    that took the place of the base in the comparisons, if one did.
    """

    kind: ClassVar[str] = "gate-verdict"

    adapter: str
    adapter_digest: str
    base: str
    base_digest: str | None
    task: str
    checks: tuple[CheckResult, ...]
    measurement: str
    evidence: str | None
    plop_version: str
    notes: tuple[str, ...] = ()
    reference: Annotated[str | None, _Unless] = None
    reference_digest: Annotated[str | None, _Unless] = None

    @property
    def verdict(self) -> CheckVerdict:
        """Fail if a check fails, else not enough data if a check could not be decided."""
        return worst(check.verdict for check in self.checks)

    @property
    def exit_code(self) -> int:
        """0 if every check passes, 3 if one fails, 4 if one could not be decided."""
        return _EXIT_CODES[self.verdict]


def worst(verdicts: Iterable[CheckVerdict]) -> CheckVerdict:
    """Return the verdict on an adapter from those of its checks.

    >>> worst([PASS, NOT_ENOUGH_DATA]).value, worst([FAIL, NOT_ENOUGH_DATA]).value
    ('not enough data', 'fail')
    """
    found = set(verdicts)
    return FAIL if FAIL in found else NOT_ENOUGH_DATA if NOT_ENOUGH_DATA in found else PASS


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedCheckpoint:
    """The verdict on the checkpoint of a step."""

    step: int
    verdict: GateVerdict


@dataclass(frozen=True, repr=False, kw_only=True)
class GateWalk(Record):
    """The verdicts on the checkpoints of a run, from the last backwards.

    `checkpoints` is the number of all checkpoints of the run. Those before the first that passes
    every check were not gated.
    """

    kind: ClassVar[str] = "gate-walk"

    folder: str
    checkpoints: int
    gated: tuple[GatedCheckpoint, ...]

    @property
    def passing(self) -> GatedCheckpoint | None:
        """The last checkpoint that passes every check, None if none does."""
        return next((one for one in self.gated if one.verdict.verdict is PASS), None)

    @property
    def exit_code(self) -> int:
        """0 if a checkpoint passes, else the exit code of the last checkpoint of the run."""
        return 0 if self.passing else self.gated[0].verdict.exit_code


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckPlan:
    """What one check could decide with its items.

    `spread` is the assumed standard deviation of the difference over items, and `assumed` the
    assumed true difference. `items_needed` would decide the check at that difference with a power
    of 0.8. `detectable` is how far from `limit` the difference must lie for these items to decide.
    `can_pass` is False where the best outcome on this number of items would not pass: a metric with
    no item lost, or for improve with every item gained.
    """

    check: str
    mode: str
    metric: str
    limit: float
    items: int
    groups: int
    spread: float
    assumed: float
    items_needed: int
    detectable: float
    can_pass: bool
    source: str


@dataclass(frozen=True, repr=False, kw_only=True)
class GatePlan(Record):
    """What a gate could decide, computed from the numbers of items before a model is loaded."""

    kind: ClassVar[str] = "gate-plan"

    adapter: str
    base: str
    task: str
    level: float
    power: float
    checks: tuple[CheckPlan, ...]
    notes: tuple[str, ...] = ()
    reference: str | None = None
