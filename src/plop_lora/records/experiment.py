"""Experiments: an A/B test of adapters in production as designed, and its coverage over time.

An `Experiment` never changes after its start: its digest is its identity, and a changed file is
refused on load. The one thing that may change while it runs, the share of units that take part,
is kept beside it, in a `Ramp` that names the digest of its experiment.
"""

from __future__ import annotations

import hmac
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import ClassVar

from pydantic import AwareDatetime

from plop_lora._version import __version__
from plop_lora.errors import RecordError, UsageError
from plop_lora.records.base import Record
from plop_lora.records.experiment_checks import (
    check_arms,
    check_aware,
    check_gated,
    check_guardrails,
    check_known,
    check_metric,
    check_names,
    check_numbers,
    check_share,
)
from plop_lora.records.gate import GateVerdict


class MetricKind(StrEnum):
    """How the values of units become the value of an arm."""

    MEAN = "mean"
    SHARE = "share"
    RATIO = "ratio"


class PerUnit(StrEnum):
    """How the values of one unit are put together first."""

    MEAN = "mean"
    SUM = "sum"


MEAN, SHARE, RATIO = MetricKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A metric of an experiment.

    The values of a unit are put together first, as `per_unit` says, because values of one unit are
    not independent of each other. A `mean` is the mean over units, and a `share` is the mean of
    values from 0 to 1. A `ratio` divides the sum of the values `numerator` by that of the values
    `denominator`, over all units of an arm. With `cuped` the spread that values from before the
    exposure predict is taken away.
    """

    name: str
    kind: MetricKind = MEAN
    higher_is_better: bool = True
    per_unit: PerUnit = PerUnit.MEAN
    numerator: str = ""
    denominator: str = ""
    cuped: bool = False

    def __post_init__(self) -> None:
        check_metric(self.name, self.kind == RATIO, (self.numerator, self.denominator))

    @property
    def values(self) -> tuple[str, ...]:
        """Names of the values that an observation has for this metric."""
        return (self.numerator, self.denominator) if self.kind == RATIO else (self.name,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guardrail:
    """A metric that must not become worse than the control by `margin` or more.

    The margin is positive, in units of the metric. Which direction is worse follows from the
    metric's `higher_is_better`.
    """

    metric: str
    margin: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentArm:
    """One adapter of an experiment, or the base model where `adapter` is None.

    `weight` is the share of the covered units that get it. `adapter_digest` identifies the files
    of the adapter, as in a gate verdict. `gate` is the verdict of `plop gate` on the adapter, and
    `accepted` is the reason for which it runs without one that passes. The control needs neither.
    """

    name: str
    weight: float
    adapter: str | None = None
    adapter_digest: str | None = None
    gate: GateVerdict | None = None
    accepted: str = ""


@dataclass(frozen=True, repr=False, kw_only=True)
class Experiment(Record):
    """An A/B test of adapters, as designed before its start.

    `unit` says what is randomised and analysed, such as an account. `coverage` is the share of all
    units that take part at the start; see `Ramp` for how it is raised later. `salt` decides which
    units get which arm, and is kept secret. `primary` is the metric that decides, and the others
    decide nothing unless they are `guardrails`. Observations of the first `burn_in_hours` are left
    out. `planned_units` is the number of units in all arms at which the intervals are tightest.
    `error` is the probability that an arm without effect is ever shown to be better or worse in
    the primary metric, and that an arm at the margin passes a guardrail. `harm_error` is the
    probability that an arm that equals the control is ever called harmful.
    """

    kind: ClassVar[str] = "experiment"

    name: str
    unit: str
    arms: tuple[ExperimentArm, ...]
    control: str
    salt: str
    metrics: tuple[Metric, ...]
    primary: str
    planned_units: int
    guardrails: tuple[Guardrail, ...] = ()
    coverage: float = 1.0
    burn_in_hours: float = 0.0
    error: float = 0.05
    harm_error: float = 0.025
    notes: tuple[str, ...] = ()
    plop_version: str = __version__

    def __post_init__(self) -> None:
        check_names(self.name, self.unit, self.salt)
        check_arms(self.arms, self.control)
        for arm in self.arms:
            if arm.name != self.control:
                check_gated(arm)
        check_guardrails(self.metrics, self.primary, self.guardrails)
        check_share("coverage", self.coverage)
        check_numbers(self.planned_units, self.burn_in_hours, self.error, self.harm_error)

    @property
    def split(self) -> Mapping[str, float]:
        """Arm → its share of the covered units."""
        return {arm.name: arm.weight for arm in self.arms}

    @property
    def candidates(self) -> tuple[str, ...]:
        """Names of the arms that are compared with the control."""
        return tuple(arm.name for arm in self.arms if arm.name != self.control)

    @property
    def burn_in(self) -> timedelta:
        """Time from the start whose observations are left out."""
        return timedelta(hours=self.burn_in_hours)

    def metric(self, name: str) -> Metric:
        """Return the metric of a name.

        Raises:
            UnknownNameError: The experiment has no such metric.
        """
        check_known(name, [metric.name for metric in self.metrics])
        return next(metric for metric in self.metrics if metric.name == name)

    def assign(self, unit: str, *, coverage: float | None = None) -> str | None:
        """Return the name of the arm of a unit, or None if the unit does not take part.

        A unit has two numbers from 0 to 1, from the HMAC-SHA-256 of its id under the salt. It takes
        part if the first is below the coverage, and the second picks the arm. So the arm of a unit
        is the same in every process and under every coverage, a unit that takes part stays when
        the coverage is raised, and experiments with other salts are independent of this one.

        Args:
            unit: Id of the unit, the same whenever it returns.
            coverage: Share of all units that take part now, such as `Ramp.coverage`; None takes
                that of the start.

        Raises:
            UsageError: The unit is no text or empty, or the coverage is not from 0 to 1.

        Source: The two numbers are 53 bits each of the digest, big-endian, from bytes 0 to 7 and
        8 to 15.
        """
        _check_unit(unit)
        if coverage is not None:
            check_share("coverage", coverage)
        share = self.coverage if coverage is None else coverage
        first, second = _positions(self.salt, unit)
        if first >= share:
            return None
        upper_ends = itertools.accumulate(arm.weight for arm in self.arms)
        pairs = zip(self.arms, upper_ends, strict=True)
        return next((arm.name for arm, end in pairs if second < end), self.arms[-1].name)

    def pseudonym(self, unit: str) -> str:
        """Return the text under which a unit is stored, from which its id cannot be told.

        Pseudonyms of one unit in two experiments differ, and neither tells the unit's arm.

        Raises:
            UsageError: The unit is no text or empty.

        Source: The first 16 bytes of the HMAC-SHA-256 of "unit:" and the id, in hexadecimal.
        """
        _check_unit(unit)
        return _hmac(self.salt, f"unit:{unit}")[:16].hex()


def _positions(salt: str, unit: str) -> tuple[float, float]:
    """Return the two numbers of a unit, each uniform from 0 to below 1."""
    digest = _hmac(salt, unit)
    first, second = (int.from_bytes(digest[start : start + 8]) >> 11 for start in (0, 8))
    return first / 2**53, second / 2**53


def _hmac(salt: str, text: str) -> bytes:
    return hmac.digest(salt.encode(), text.encode(errors="surrogatepass"), "sha256")


def _check_unit(unit: object) -> None:
    if not isinstance(unit, str) or not unit:
        raise UsageError(f"A unit is a text that is not empty, not {unit!r}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class RampStep:
    """A change of the coverage: from when, to what share, and why."""

    at: AwareDatetime
    coverage: float
    reason: str = ""


@dataclass(frozen=True, repr=False, kw_only=True)
class Ramp(Record):
    """The coverage of a running experiment over time.

    The experiment itself does not change with it: the arm of a unit is the same under every
    coverage, and the split between the arms is the same at all times. The coverage is only raised,
    because units would leave in the middle if it were lowered; a coverage of 0 ends the experiment
    for good.
    """

    kind: ClassVar[str] = "experiment-ramp"

    experiment_digest: str
    steps: tuple[RampStep, ...]

    def __post_init__(self) -> None:
        if not self.steps:
            raise UsageError("A ramp has at least one step, that of the start.")
        for step in self.steps:
            check_aware(step.at)
            check_share("coverage", step.coverage)
        for before, step in itertools.pairwise(self.steps):
            _check_step(before, step)

    @classmethod
    def of_start(cls, experiment: Experiment, at: datetime, reason: str = "start") -> Ramp:
        """Return the ramp of an experiment that starts now, with the experiment's own coverage."""
        step = RampStep(at=at, coverage=experiment.coverage, reason=reason)
        return cls(experiment_digest=experiment.digest(), steps=(step,))

    @property
    def coverage(self) -> float:
        """The share of all units that take part now."""
        return self.steps[-1].coverage

    @property
    def started(self) -> datetime:
        """Time of the start."""
        return self.steps[0].at

    def raised(self, coverage: float, at: datetime, reason: str = "") -> Ramp:
        """Return the ramp with one more step.

        Raises:
            UsageError: The coverage would be lowered, the experiment has ended, or `at` is earlier
                than the last step.
        """
        step = RampStep(at=at, coverage=coverage, reason=reason)
        return replace(self, steps=(*self.steps, step))

    def ended(self, at: datetime, reason: str) -> Ramp:
        """Return the ramp with a last step, after which no unit takes part."""
        return self.raised(0.0, at, reason)

    def check(self, experiment: Experiment) -> None:
        """Refuse an experiment that is not the one that was started.

        Raises:
            RecordError: The digests differ.
        """
        if experiment.digest() != self.experiment_digest:
            raise RecordError(
                f"The experiment {experiment.name!r} was changed after its start: its digest is "
                f"not {self.experiment_digest[:16]}…, which its ramp names. Take the file as it "
                "was, or start another experiment with another salt."
            )


def _check_step(before: RampStep, step: RampStep) -> None:
    if step.at < before.at:
        raise UsageError(
            f"The coverage cannot change at {step.at.isoformat()}, which is before the last change "
            f"at {before.at.isoformat()}."
        )
    if not before.coverage:
        raise UsageError(
            "The experiment has ended: its coverage is 0. Start another one with another salt."
        )
    if 0 < step.coverage <= before.coverage:
        raise UsageError(
            f"The coverage is {before.coverage:g} and cannot become {step.coverage:g}: it is only "
            "raised, so that no unit leaves. A coverage of 0 ends the experiment."
        )
