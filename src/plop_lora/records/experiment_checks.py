"""Checks of an experiment before its start, with texts that say what is allowed.

Takes the fields of an experiment and raises; imports none of the records.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from plop_lora.errors import UnknownNameError, UsageError, nearest
from plop_lora.escapes import acting

if TYPE_CHECKING:
    from datetime import datetime

    from plop_lora.records.experiment import ExperimentArm, Guardrail, Metric

_ROUNDING = 1e-9
"""How far the weights may add up to something else than 1."""


def check_names(name: str, unit: str, salt: str) -> None:
    """Refuse texts that are empty or hold control characters."""
    for what, text in (("name", name), ("unit", unit), ("salt", salt)):
        _check_text(what, text)


def check_aware(at: datetime) -> None:
    """Refuse a time without a time zone."""
    if at.tzinfo is None:
        raise UsageError(
            f"The time {at.isoformat()} has no time zone. Give one, such as "
            "datetime.now(timezone.utc)."
        )


def check_share(what: str, value: float) -> None:
    """Refuse a share that is not from 0 to 1."""
    if not 0 <= value <= 1:
        raise UsageError(f"The {what} is {value:g}; it must be from 0 to 1.")


def check_numbers(planned_units: int, burn_in_hours: float, error: float, harm: float) -> None:
    """Refuse numbers with which nothing could be decided."""
    if planned_units < 2:
        raise UsageError(
            f"{planned_units} units are planned; at least 2 are needed. "
            "plop_lora.ab.plan computes how many."
        )
    if not 0 <= burn_in_hours < math.inf:
        raise UsageError(f"The burn-in is {burn_in_hours:g} hours; it must be 0 or more.")
    for what, value in (("error", error), ("harm_error", harm)):
        if not 0 < value < 0.5:
            raise UsageError(f"{what} is {value:g}; it must be above 0 and below 0.5.")


def check_metric(name: str, is_ratio: bool, parts: tuple[str, str]) -> None:
    """Refuse a ratio without numerator or denominator, and these for other kinds."""
    _check_text("name of a metric", name)
    if is_ratio and not all(parts):
        raise UsageError(f"The ratio {name!r} needs the names of a numerator and a denominator.")
    if not is_ratio and any(parts):
        raise UsageError(
            f"Only a ratio has a numerator and a denominator; {name!r} is of another kind."
        )


def check_arms(arms: Sequence[ExperimentArm], control: str) -> None:
    """Refuse arms that cannot be told apart, and weights that do not add up to 1."""
    names = [arm.name for arm in arms]
    for name in names:
        _check_text("name of an arm", name)
    if len(arms) < 2:
        raise UsageError("An experiment has at least two arms.")
    _check_unique("arm", names)
    if control not in names:
        raise UnknownNameError(
            f"The control {control!r} is none of the arms: {', '.join(names)}."
            f"{nearest(control, names)}"
        )
    for arm in arms:
        if not 0 < arm.weight < 1:
            raise UsageError(
                f"The weight of {arm.name!r} is {arm.weight:g}; it must be above 0 and below 1."
            )
        if (arm.adapter is None) != (arm.adapter_digest is None):
            raise UsageError(f"The arm {arm.name!r} needs both an adapter and its digest.")
    total = math.fsum(arm.weight for arm in arms)
    if abs(total - 1) > _ROUNDING:
        raise UsageError(f"The weights of the arms add up to {total:g}; they must add up to 1.")
    _check_adapters(arms)


def _check_adapters(arms: Sequence[ExperimentArm]) -> None:
    seen: dict[str | None, str] = {}
    for arm in arms:
        other = seen.setdefault(arm.adapter_digest, arm.name)
        if other != arm.name:
            what = "adapter" if arm.adapter_digest else "base model"
            raise UsageError(
                f"The arms {other!r} and {arm.name!r} are the same {what}, so there is nothing to "
                "compare. Give each arm an adapter of its own."
            )


def check_gated(arm: ExperimentArm) -> None:
    """Refuse a candidate whose gate does not pass, unless it has a reason that is kept."""
    if arm.gate is not None and arm.gate.adapter_digest != arm.adapter_digest:
        raise UsageError(
            f"The gate verdict of {arm.name!r} is about another adapter, {arm.gate.adapter}, or "
            "about other files of it. Run plop gate on the adapter as it is."
        )
    if arm.accepted or arm.adapter is None:
        return
    found = "no gate verdict" if arm.gate is None else f"the gate verdict {str(arm.gate.verdict)!r}"
    if arm.gate is None or arm.gate.verdict != "pass":
        raise UsageError(
            f"The arm {arm.name!r} has {found}. Users would be exposed to an adapter that is not "
            "known to be safe. Make one that passes with plop gate, or say in accepted= why it "
            "runs all the same."
        )


def check_guardrails(
    metrics: Sequence[Metric], primary: str, guardrails: Sequence[Guardrail]
) -> None:
    """Refuse metrics that are not there, and margins that are no distance."""
    names = [metric.name for metric in metrics]
    _check_unique("metric", names)
    for name in (primary, *(guardrail.metric for guardrail in guardrails)):
        check_known(name, names)
    _check_unique("guardrail", [primary, *(guardrail.metric for guardrail in guardrails)])
    for guardrail in guardrails:
        if not 0 < guardrail.margin < math.inf:
            raise UsageError(
                f"The margin of {guardrail.metric!r} is {guardrail.margin:g}; it must be above 0. "
                "It is the distance by which the metric may become worse, and the metric's "
                "higher_is_better says which direction is worse."
            )


def check_known(name: str, names: Sequence[str]) -> None:
    """Refuse a metric that the experiment does not have."""
    if name not in names:
        raise UnknownNameError(
            f"There is no metric {name!r}; there are: {', '.join(names) or 'none'}."
            f"{nearest(name, names)}"
        )


def _check_unique(what: str, names: Iterable[str]) -> None:
    name, count = Counter(names).most_common(1)[0] if names else ("", 0)
    if count > 1:
        raise UsageError(
            f"Two of the {what}s are named {name!r}."
            if what != "guardrail"
            else f"{name!r} has two roles; a metric is the primary one or one guardrail."
        )


def _check_text(what: str, text: str) -> None:
    if not text or acting(text) is not None:
        raise UsageError(f"The {what} is {text!r}; it must be a text on one line, not empty.")
