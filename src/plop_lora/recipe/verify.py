"""What a recipe says of a verification."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, field_validator

from plop_lora.recipe.finetune import MOST_SEEDS, FinetuneRecipe
from plop_lora.recipe.section import Recipe, Section


class VerifyDesign(Section):
    """What is compared in a verification: the arms, at which rates and seeds, by which margin."""

    arms: tuple[str, ...] = Field(
        (),
        description="The rival placements, by name or as files; the usual ones if there are none.",
    )
    seeds: int = Field(
        5, ge=1, le=MOST_SEEDS, description="How many seeds every arm is trained with."
    )
    margin: float | None = Field(
        None,
        ge=0,
        description="How far behind the shortlist may be; by default 0.01, or 0.02 nats where the "
        "loss decides.",
    )
    ladder: tuple[float, ...] = Field(
        (0.3, 1.0, 3.0),
        min_length=1,
        max_length=100,
        description="The learning rates that are tried, as factors of the usual one.",
    )
    learning_rates: tuple[float, ...] | None = Field(
        None,
        min_length=1,
        max_length=100,
        description="The learning rates that are tried, in place of factors.",
        exclude_if=lambda value: value is None,
    )
    ladder_share: float = Field(
        0.25,
        gt=0,
        le=1,
        description="The share of the training rows that a trial of a learning rate sees.",
    )
    quick: bool = Field(
        False, description="Whether two seeds are enough: a smoke test, marked as one."
    )

    @field_validator("ladder", "learning_rates")
    @classmethod
    def _rising(cls, rungs: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if rungs is None:
            return None
        if min(rungs) <= 0 or len(set(rungs)) < len(rungs):
            raise ValueError("the numbers must be above 0 and differ from each other")
        return tuple(sorted(rungs))


class VerifyRecipe(VerifyDesign, FinetuneRecipe, Recipe):
    """Everything `plop verify` can be told."""

    CHANGEABLE: ClassVar[tuple[str, ...]] = (
        "arms", "seeds", "margin", "quick", *FinetuneRecipe.CHANGEABLE,
    )  # fmt: skip
    """More seeds or another rival go on from the trials that are there."""
