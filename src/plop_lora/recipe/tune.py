"""The part of a recipe that describes a search."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from plop_lora.recipe.finetune import MOST_SEEDS, FinetuneRecipe
from plop_lora.recipe.section import Recipe, Section

MOST_TRIALS = 10_000
"""Upper bound of the number of trials, so that a typing error cannot plan a billion of them."""


class TuneDesign(Section):
    """The search space and the limits of a search."""

    placements: tuple[str, ...] = Field(
        (),
        description="The placements that are searched: names of strategies "
        "such as plop or attention, or files of placements. By default plop, all-linear, mlp and "
        "attention.",
    )
    ranks: tuple[int, ...] = Field((4, 8, 16, 32), description="The LoRA ranks that are searched.")
    inits: tuple[str, ...] = Field(
        ("default", "orthogonal"),
        description="The initialisations that are searched, by the names that PEFT gives them.",
    )
    rates: tuple[float, float] = Field(
        (0.1, 10.0),
        description="The range of the learning rate, as two factors of the default rate.",
    )
    learning_rates: tuple[float, float] | None = Field(
        None,
        description="The lowest and the highest learning rate, given as rates instead of the "
        "factors in `rates`.",
        exclude_if=lambda value: value is None,
    )
    loraplus: tuple[float, ...] = Field(
        (1.0,),
        description="The LoRA+ ratios that are searched: the learning rate of B divided by that of "
        "A. With 1 both have the same rate.",
    )
    trials: int = Field(
        20,
        ge=1,
        le=MOST_TRIALS,
        description="The largest number of trials that the search may run, including those that "
        "find the learning rate around which it searches.",
    )
    hours: float | None = Field(
        None,
        gt=0,
        description="The number of device-hours after which no further trial starts. By default "
        "there is no limit.",
    )
    seeds: int = Field(
        3,
        ge=1,
        le=MOST_SEEDS,
        description="The number of new seeds at which the best configurations are trained again "
        "to confirm the result.",
    )
    storage: str | None = Field(
        None, description="The URL of a database through which several workers share one search."
    )


class TuneRecipe(TuneDesign, FinetuneRecipe, Recipe):
    """The part of a recipe that `plop tune` reads."""

    CHANGEABLE: ClassVar[tuple[str, ...]] = (
        "trials", "hours", "seeds", "storage", *FinetuneRecipe.CHANGEABLE,
    )  # fmt: skip
