"""What a recipe says of a verification."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, field_validator

from plop_lora.recipe.finetune import MOST_SEEDS, FinetuneRecipe
from plop_lora.recipe.margin import parse_margin
from plop_lora.recipe.section import Recipe, Section, one_of

SEQUENTIAL, FIXED = DESIGNS = ("sequential", "fixed")
LOSS, METRIC = OUTCOMES = ("loss", "metric")


class VerifyDesign(Section):
    """What is compared in a verification: the arms, at which rates and seeds, by which margin."""

    arms: tuple[str, ...] = Field(
        (),
        description="The rival placements: names such as attention, mlp or "
        "all-linear, or files of placements. By default the usual ones.",
    )
    design: str = Field(
        SEQUENTIAL,
        description="Whether all seeds are trained at once (fixed), or the arms are judged after "
        "every further seed and those that are settled are trained no further (sequential). Both "
        "make false claims equally often.",
    )
    seeds: int | None = Field(
        None,
        ge=1,
        le=MOST_SEEDS,
        description="The number of seeds with which every arm is trained: by default 5 in the "
        "fixed design. In the sequential design it is the largest number, by default 6.",
        exclude_if=lambda value: value is None,
    )
    decide_by: str = Field(
        LOSS,
        description="What the verdict is about: the held-out loss (loss), which tells arms apart "
        "with far fewer rows, or the metric of the evaluation (metric). The other one is reported "
        "beside it. A task without a held-out loss goes by its metric.",
    )
    margin: str | float | None = Field(
        None,
        description="How far behind a rival the shortlist may be: a number in the unit of what "
        "decides, or a share of the shortlist's own value, such as 5%. By default 0.02 nats or 5 % "
        "of the shortlist's loss, whichever is smaller, and 0.01 of a metric.",
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
    widen: int | None = Field(
        None,
        ge=0,
        le=10,
        description="How many learning rates may be added at each end of the ladder, for all arms, "
        "while the best rate of one stands at that end. By default 2, and none where "
        "`learning_rates` are given.",
        exclude_if=lambda value: value is None,
    )
    ladder_share: float = Field(
        0.25,
        gt=0,
        le=1,
        description="The share of the training rows that a short trial of a learning rate sees; "
        "rates that such trials cannot tell apart are tried on all rows.",
    )
    quick: bool = Field(
        False, description="Whether two seeds are enough: a smoke test, marked as one."
    )

    @field_validator("design")
    @classmethod
    def _known_design(cls, design: str) -> str:
        return one_of(design, DESIGNS)

    @field_validator("decide_by")
    @classmethod
    def _known_outcome(cls, outcome: str) -> str:
        return one_of(outcome, OUTCOMES)

    @field_validator("margin")
    @classmethod
    def _readable_margin(cls, margin: str | float | None) -> str | float | None:
        if margin is None:
            return None
        found = parse_margin(margin)
        return margin if found.value is None else found.value

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
        "arms", "design", "seeds", "margin", "decide_by", "quick", *FinetuneRecipe.CHANGEABLE,
    )  # fmt: skip
    """More seeds or another rival go on from the trials that are there."""
