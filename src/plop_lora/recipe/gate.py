"""What a recipe says of a gate: which checks an adapter has to pass, and by which margins."""

from __future__ import annotations

from pydantic import Field

from plop_lora.recipe.finetune import COMPLETION, PROMPT, TEXT, GeneralRecipe
from plop_lora.recipe.limits import (
    CounterfactualLimits,
    FairnessLimits,
    ForgettingLimits,
    HarnessLimits,
    LogPair,
    MemorisationLimits,
    OwnCheck,
    SafetyLimits,
    TaskLimits,
)
from plop_lora.recipe.section import Recipe, Section
from plop_lora.records.trial import EvaluationSettings, TrainingSettings


class GateSettings(Section):
    """How an adapter is judged before it ships."""

    base: str | None = Field(
        None,
        description="The base model: a hub id or a local folder. By default the model that the "
        "configuration of the adapter names.",
    )
    against: str | None = Field(
        None,
        description="The folder of another adapter of the same base, such as the one in "
        "production, which takes the place of the base in every comparison.",
    )
    checks: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="The checks that the adapter has to pass. By default task, forgetting and "
        "safety, which stands for coherence, endings, refusals and over-refusals, and every other "
        "one for which the recipe gives what it needs.",
    )
    task: TaskLimits = Field(
        default_factory=lambda: TaskLimits.model_validate({}),
        description="What the check of the task demands; the keys are listed below.",
    )
    forgetting: ForgettingLimits = Field(
        default_factory=lambda: ForgettingLimits.model_validate({}),
        description="What the check of forgetting allows; the keys are listed below.",
    )
    safety: SafetyLimits = Field(
        default_factory=lambda: SafetyLimits.model_validate({}),
        description="What the checks of safety compare; the keys are listed below.",
    )
    fairness: FairnessLimits = Field(
        default_factory=lambda: FairnessLimits.model_validate({}),
        description="What the checks of groups allow; the keys are listed below.",
    )
    counterfactual: CounterfactualLimits = Field(
        default_factory=lambda: CounterfactualLimits.model_validate({}),
        description="What the check of counterfactual pairs allows; the keys are listed below.",
    )
    memorisation: MemorisationLimits = Field(
        default_factory=lambda: MemorisationLimits.model_validate({}),
        description="What the checks of memorisation compare; the keys are listed below.",
    )
    harness: HarnessLimits = Field(
        default_factory=lambda: HarnessLimits.model_validate({}),
        description="The tasks of lm-evaluation-harness that are run; the keys are listed below.",
    )
    logs: tuple[LogPair, ...] = Field(
        (),
        description="Logs of suites that were run elsewhere, each pair of which is a check, with "
        "the keys base, adapter, metric, higher_is_better, margin and spread.",
    )
    own: tuple[OwnCheck, ...] = Field(
        (),
        description="Checks of your own, with the keys function, name, rows, higher_is_better, "
        "margin and spread.",
    )


class GateRecipe(Recipe):
    """Everything `plop gate` can be told. What it shares with `verify` has the same key there."""

    task: str = Field("sft", description="The task for which the adapter was trained: sft or grpo.")
    eval: str | None = Field(
        None,
        description="The rows on which adapter and base are compared: a file, or a data set of the "
        "Hugging Face Hub, written as name:config:split. The adapter must not be trained on them. "
        "Only checks that read other items do without.",
    )
    text: str | None = TEXT
    prompt: str | None = PROMPT
    completion: str | None = COMPLETION
    training: TrainingSettings = Field(
        TrainingSettings(),
        description="Of the settings of the training, max_length, dtype, device and rewards are "
        "used.",
    )
    evaluation: EvaluationSettings = Field(
        EvaluationSettings(), description="How rows are evaluated: the metric and the batch size."
    )
    general: GeneralRecipe = Field(
        GeneralRecipe(), description="The general text for the check of forgetting."
    )
    gate: GateSettings = Field(
        default_factory=lambda: GateSettings.model_validate({}),
        description="Which checks the adapter has to pass; the keys are listed below.",
    )
