"""What a recipe says of a search."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from plop_lora.recipe.finetune import MOST_SEEDS, FinetuneRecipe
from plop_lora.recipe.section import Recipe, Section

MOST_TRIALS = 10_000
"""No search needs more."""


class TuneDesign(Section):
    """What a search may choose from, and how long it may take."""

    placements: tuple[str, ...] = Field(
        (), description="The strategies, or files of placements, that are searched."
    )
    ranks: tuple[int, ...] = Field((4, 8, 16, 32), description="The LoRA ranks that are searched.")
    inits: tuple[str, ...] = Field(
        ("default", "orthogonal"),
        description="The initialisations that are searched, by the names that PEFT gives them.",
    )
    rates: tuple[float, float] = Field(
        (0.1, 10.0), description="The range of the learning rate, as factors of the usual one."
    )
    learning_rates: tuple[float, float] | None = Field(
        None,
        description="The lowest and the highest learning rate, in place of factors.",
        exclude_if=lambda value: value is None,
    )
    loraplus: tuple[float, ...] = Field(
        (1.0,), description="The LoRA+ ratios that are searched; 1 is a plain optimizer."
    )
    trials: int = Field(
        20,
        ge=1,
        le=MOST_TRIALS,
        description="How many trials the search may run, those of the learning-rate ladder "
        "included.",
    )
    hours: float | None = Field(
        None, gt=0, description="The device-hours after which no trial starts."
    )
    seeds: int = Field(
        3, ge=1, le=MOST_SEEDS, description="How many fresh seeds confirm what was found."
    )
    storage: str | None = Field(
        None, description="The URL of a database that several workers of one search share."
    )


class TuneRecipe(TuneDesign, FinetuneRecipe, Recipe):
    """Everything `plop tune` can be told."""

    CHANGEABLE: ClassVar[tuple[str, ...]] = (
        "trials", "hours", "seeds", "storage", *FinetuneRecipe.CHANGEABLE,
    )  # fmt: skip
