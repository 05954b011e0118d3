"""What a recipe says of the final finetune."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from plop_lora.recipe.finetune import LARGEST_SEED, FinetuneRecipe
from plop_lora.recipe.section import Recipe, Section

MOST_CHECKPOINTS = 1_000


class FinetuneSettings(Section):
    """How the adapter that ships is trained, beyond what a trial says as well."""

    epochs: float | None = Field(
        default=None,
        gt=0,
        description="The number of passes over the training rows. By default `training.epochs`.",
    )
    steps: int | None = Field(
        default=None,
        ge=1,
        description="The number of optimizer steps; it takes precedence over `epochs`. By default "
        "that of `training`.",
    )
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        description="The learning rate. By default the one that the verification or the search "
        "chose, and for a placement the usual one, from which a verification would start.",
    )
    patience: int = Field(
        default=3,
        ge=0,
        le=MOST_CHECKPOINTS,
        description="The number of evaluations on the selection split in a row without a new best "
        "one, after which the training stops; the best checkpoint ships. With 0 there is no "
        "selection split: the adapter is trained on all training rows and to the last step.",
    )
    per_epoch: int = Field(
        default=4,
        ge=1,
        le=MOST_CHECKPOINTS,
        description="The number of checkpoints, and of evaluations, in a pass over the training "
        "rows.",
    )
    keep: int = Field(
        default=2,
        ge=1,
        le=MOST_CHECKPOINTS,
        description="The number of the last checkpoints that are kept; the best one is kept as "
        "well.",
    )
    seed: int | None = Field(
        default=None,
        ge=0,
        le=LARGEST_SEED,
        description="The seed of the training. By default the `seed` of the recipe.",
    )


class FinalRecipe(FinetuneRecipe, Recipe):
    """Everything `plop finetune` can be told. It reads no `budget`, `rank` or `top`."""

    CHANGEABLE: ClassVar[tuple[str, ...]] = FinetuneRecipe.CHANGEABLE

    finetune: FinetuneSettings = Field(
        default=FinetuneSettings(),
        description="How the adapter that ships is trained; the keys are listed below.",
    )
