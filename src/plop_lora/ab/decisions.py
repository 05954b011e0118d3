"""What to do with an arm: ship, stop or continue, why, and what would change it.

The rule: an arm ships if its primary metric is better and every guardrail is within its margin. An
arm that is shown to be harmful, in either, is stopped. A result whose sample ratio is void decides
nothing.

Source: Schultzberg, Ankargren, Frånberg, "Risk-aware product decisions in A/B tests with multiple
metrics", arXiv 2402.11609: guardrails by non-inferiority without a correction for their number,
tests of deterioration of all metrics, and tests of quality. Different here: one primary metric.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plop_lora.records import ArmDecision, MetricComparison, SampleRatio
from plop_lora.records.analysis import (
    CONTINUE,
    FIXED,
    SHIP,
    STOP,
    Cause,
    Design,
    MetricVerdict,
    Role,
)


@dataclass(frozen=True, slots=True)
class State:
    """How far an experiment has come.

    Attributes:
        design: Whether the data may be looked at once or at any time.
        units: Number of units that are compared.
        planned: Number of units that were planned.
        sample_ratio: Whether the numbers of units follow the split.
        doubtful: Whether they would not at a single look.
    """

    design: Design
    units: int
    planned: int
    sample_ratio: SampleRatio
    doubtful: bool

    @property
    def complete(self) -> bool:
        """Whether as many units have come as were planned."""
        return self.units >= self.planned


def decide(arm: str, rows: Sequence[MetricComparison], state: State) -> ArmDecision:
    """Return what to do with an arm.

    Args:
        arm: Name of the arm.
        rows: Its comparisons with the control.
        state: How far the experiment has come.
    """
    if state.sample_ratio.mismatch:
        return ArmDecision(
            arm=arm, action=STOP, cause=Cause.MISMATCH,
            reason=f"{arm}: stop. The sample ratio is void, so no metric can be trusted.",
            change="Find the cause, mend it, and start another experiment with another salt.",
        )  # fmt: skip
    harmed = [row.metric for row in rows if row.verdict is MetricVerdict.HARM]
    if harmed:
        return ArmDecision(
            arm=arm, action=STOP, cause=Cause.HARM,
            reason=f"{arm}: stop. The arm is harmful: it is shown to be worse in {_and(harmed)}.",
            change="Give its units the control now. Further units would not make it better; "
            "another adapter is another experiment.",
        )  # fmt: skip
    open_rows = [row for row in rows if row.role is not Role.OTHER and not _settled(row)]
    if not open_rows and not state.doubtful and (state.complete or state.design is not FIXED):
        return _ship(arm, rows)
    if state.doubtful:
        return _doubt(arm)
    return _no_gain(arm, open_rows, state) if state.complete else _go_on(arm, open_rows, state)


def _settled(row: MetricComparison) -> bool:
    return row.verdict in (MetricVerdict.BETTER, MetricVerdict.NON_INFERIOR)


def _ship(arm: str, rows: Sequence[MetricComparison]) -> ArmDecision:
    primary = next(row for row in rows if row.role is Role.PRIMARY)
    guardrails = [row.metric for row in rows if row.role is Role.GUARDRAIL]
    within = f", and within its margin in {_and(guardrails)}" if guardrails else ""
    return ArmDecision(
        arm=arm, action=SHIP, cause=Cause.BETTER,
        reason=f"{arm}: ship. The arm is better in {primary.metric}{within}.",
        change="A sample ratio that becomes void, or harm that shows later, would take this back.",
    )  # fmt: skip


def _no_gain(arm: str, open_rows: Sequence[MetricComparison], state: State) -> ArmDecision:
    losses = [_possible(row) for row in open_rows]
    return ArmDecision(
        arm=arm, action=STOP, cause=Cause.NO_GAIN,
        reason=f"{arm}: stop, and keep the control. All {state.planned:,} planned units have come, "
        f"and this is not shown: {_and([_missing(row) for row in open_rows])}. No harm is shown "
        f"either, but it is not ruled out: {'; '.join(losses)}.",
        change="Only a larger experiment could tell" + _needed(open_rows, state.planned) + ".",
    )  # fmt: skip


def _doubt(arm: str) -> ArmDecision:
    return ArmDecision(
        arm=arm, action=CONTINUE, cause=Cause.UNDECIDED,
        reason=f"{arm}: continue, because the sample ratio would be a mismatch at a single look.",
        change="Look for its cause. By chance it passes with further units; otherwise it becomes "
        "void.",
    )  # fmt: skip


def _go_on(arm: str, open_rows: Sequence[MetricComparison], state: State) -> ArmDecision:
    why = (
        f"this is not shown yet: {_and([_missing(row) for row in open_rows])}"
        if open_rows
        else "a fixed design is decided once, when all planned units have come"
    )
    left = max(state.planned - state.units, 0)
    return ArmDecision(
        arm=arm, action=CONTINUE, cause=Cause.UNDECIDED,
        reason=f"{arm}: continue, because {why}.",
        change=f"{left:,} of {state.planned:,} planned units are still to come"
        f"{_needed(open_rows, state.planned)}. Harm in a guardrail or the primary metric would "
        "stop it at once.",
    )  # fmt: skip


def _missing(row: MetricComparison) -> str:
    if row.role is Role.GUARDRAIL:
        return f"that {row.metric} is within its margin"
    return f"that {row.metric} is better"


def _possible(row: MetricComparison) -> str:
    if row.worst is None:
        return f"of {row.metric} nothing is known"
    return f"{row.metric} may be worse by up to {max(-row.worst, 0.0):.3g}"


def _needed(rows: Sequence[MetricComparison], planned: int) -> str:
    """Say how many units would decide what is open, where a number would."""
    if not rows or any(row.units_needed is None for row in rows):
        return ""
    most = max(row.units_needed or 0 for row in rows)
    more = ", more than are planned" if most > planned else ""
    return (
        f"; about {most:,} in both arms would decide{more}, if the differences are what they "
        "appear to be"
    )


def _and(names: Sequence[str]) -> str:
    return " and ".join(names)
