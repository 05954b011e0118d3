"""From the section `ab` of a recipe to an experiment that can be started.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from plop_lora.ab.arms import adapter_arm, new_salt
from plop_lora.errors import UsageError
from plop_lora.recipe import ExperimentRecipe, ExperimentSettings
from plop_lora.recipe.template import explained
from plop_lora.records import Experiment, ExperimentArm, Guardrail, Metric
from plop_lora.records.gate import CheckVerdict

_START: Mapping[str, object] = {
    "name": "support",
    "unit": "account",
    "arms": {
        "now": {"adapter": None, "weight": 0.5},
        "next": {"adapter": "adapters/next", "weight": 0.5, "gate": "verdict.json"},
    },
    "control": "now",
    "metrics": {
        "resolved": {"kind": "share"},
        "latency_last": {"higher_is_better": False},
    },
    "primary": "resolved",
    "guardrails": {"latency_last": 0.2},
    "planned_units": 14_700,
    "coverage": 0.05,
}
"""An experiment to start from."""


def design(settings: ExperimentSettings, *, accepted: str = "") -> Experiment:
    """Return an experiment with the digests of its adapters, their verdicts and a new salt.

    Args:
        settings: Section `ab` of a recipe.
        accepted: Why arms run whose gate does not pass; it is kept in those that give no reason of
            their own.

    Raises:
        AdapterError: A file of an adapter cannot be read.
        RecordError: The file of a verdict cannot be loaded.
        UsageError: The arms, weights, metrics or margins do not fit together, or an arm has no
            verdict that passes and no reason.
    """
    arms = tuple(_arm(settings, name, accepted) for name in settings.arms)
    for arm in arms:
        if arm.name != settings.control:
            _check_gate(arm)
    return Experiment(
        name=settings.name,
        unit=settings.unit,
        arms=arms,
        control=settings.control,
        salt=new_salt(),
        metrics=tuple(
            Metric(name=name, **metric.model_dump()) for name, metric in settings.metrics.items()
        ),
        primary=settings.primary,
        guardrails=tuple(
            Guardrail(metric=name, margin=margin) for name, margin in settings.guardrails.items()
        ),
        planned_units=settings.planned_units,
        coverage=settings.coverage,
        burn_in_hours=settings.burn_in_hours,
        error=settings.error,
        harm_error=settings.harm_error,
        notes=settings.notes,
    )


def _arm(settings: ExperimentSettings, name: str, accepted: str) -> ExperimentArm:
    given = settings.arms[name]
    arm = adapter_arm(
        name, given.weight, given.adapter, gate=given.gate, accepted=given.accepted.strip()
    )
    needed = name != settings.control and arm.adapter is not None and not _passes(arm)
    return replace(arm, accepted=arm.accepted or accepted) if needed else arm


def _passes(arm: ExperimentArm) -> bool:
    return arm.gate is not None and arm.gate.verdict is CheckVerdict.PASS


def _check_gate(arm: ExperimentArm) -> None:
    """Refuse an arm that has neither a verdict that passes nor a reason, with the next command."""
    if arm.adapter is None or arm.accepted or _passes(arm):
        return
    found = "is missing" if arm.gate is None else f"says {str(arm.gate.verdict)!r}"
    raise UsageError(
        f"The gate of the arm {arm.name!r} {found}, so users would meet an adapter that is not "
        f"known to be safe. Run plop gate {arm.adapter} --recipe gate.yaml -o verdict.json and set "
        f'ab.arms.{arm.name}.gate=verdict.json, or start all the same with --force "reason", '
        "which is kept in the experiment."
    )


def recipe_template(given: Mapping[str, object]) -> str:
    """Return a recipe as YAML: every key of the section `ab` with its description and a value.

    Args:
        given: Plain values by key that take the place of those of the example.

    Raises:
        UsageError: A key is unknown or a value is out of range.
    """
    recipe = ExperimentRecipe.of({"ab": dict(_START)}, given)
    return "\n".join(explained("ab", recipe)) + "\n"
