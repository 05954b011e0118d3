"""What a recipe says of an A/B test of adapters in production."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from plop_lora.recipe.section import Recipe, Section
from plop_lora.records.experiment import MetricKind, PerUnit


class ArmSettings(Section):
    """One arm: an adapter, or the base model without one."""

    adapter: str | None = Field(
        None,
        description="The folder of the adapter, as PEFT saved it. Empty is the base model without "
        "an adapter.",
    )
    weight: float = Field(
        description="The share of the covered units that get this arm. The weights of all arms add "
        "up to 1.",
    )
    gate: str | None = Field(
        None,
        description="The file of the verdict of `plop gate` on this adapter. Every arm but the "
        "control needs one that passes.",
    )
    accepted: str = Field(
        "",
        description="Why the arm runs without a gate that passes. The reason is kept in the "
        "experiment.",
    )


class MetricSettings(Section):
    """One metric: how the values of units become the value of an arm."""

    kind: MetricKind = Field(
        MetricKind.MEAN,
        description="How values become the value of an arm: the mean over units (mean), the mean "
        "of values from 0 to 1 (share), or the sum of one value over that of another (ratio).",
    )
    higher_is_better: bool = Field(
        True, description="Whether an arm with a higher value is the better one."
    )
    per_unit: PerUnit = Field(
        PerUnit.MEAN,
        description="How several values of one unit are put together first: mean or sum.",
    )
    numerator: str = Field("", description="The name of the value above the line of a ratio.")
    denominator: str = Field("", description="The name of the value below the line of a ratio.")
    cuped: bool = Field(
        False,
        description="Whether the spread that a value from before the experiment predicts is taken "
        "away. Such values are logged with the kind before.",
    )


class ExperimentSettings(Section):
    """An A/B test as it is designed: the keys of the section `ab` of a recipe."""

    name: str = Field(
        description="The name of the experiment. No other one in the same database may have it."
    )
    unit: str = Field(
        description="What is randomised and analysed, such as account. The requests of one unit "
        "all get the same arm.",
    )
    arms: Mapping[str, ArmSettings] = Field(
        description="The arms by name, each with the keys adapter, weight, gate and accepted."
    )
    control: str = Field(
        description="The name of the arm that the others are compared with, such as the one in "
        "production.",
    )
    metrics: Mapping[str, MetricSettings] = Field(
        min_length=1,
        description="The metrics by name, each with the keys kind, higher_is_better, per_unit, "
        "numerator, denominator and cuped.",
    )
    primary: str = Field(description="The metric that decides.")
    guardrails: Mapping[str, float] = Field(
        default_factory=dict,
        description="The metrics that must not become worse, each with its margin: the loss that "
        "is accepted, above 0, in the unit of the metric. Its higher_is_better says which "
        "direction is worse.",
    )
    planned_units: int = Field(
        ge=2,
        description="The number of units in all arms at which the intervals are tightest; "
        "`plop ab plan` computes it.",
    )
    coverage: float = Field(
        1.0,
        gt=0,
        le=1,
        description="The share of all units that take part at the start. It can be raised later "
        "with `plop ab ramp`, and never lowered.",
    )
    burn_in_hours: float = Field(
        0.0,
        ge=0,
        description="The number of hours from the start whose observations are left out.",
    )
    error: float = Field(
        0.05,
        gt=0,
        lt=0.5,
        description="The probability that an arm without effect is ever shown to be better or "
        "worse, and that an arm at its margin passes a guardrail.",
    )
    harm_error: float = Field(
        0.025,
        gt=0,
        lt=0.5,
        description="The probability that an arm that equals the control is ever called harmful.",
    )
    notes: tuple[str, ...] = Field((), description="Sentences that are kept in the experiment.")


class ExperimentRecipe(Recipe):
    """The part of a recipe that `plop ab init` reads."""

    ab: ExperimentSettings = Field(
        description="The section of the A/B test, of which plop ab init --template writes every "
        "key."
    )
