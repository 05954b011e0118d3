"""What a recipe says of scoring."""

from __future__ import annotations

from pydantic import Field

from plop_lora.recipe.section import Section


class Scoring(Section):
    """What `score` records beside NFN."""

    indicators: tuple[str, ...] = Field(
        default=(),
        description="The indicators that are recorded beside NFN, by name; see `plop score "
        "--indicator`.",
    )


class ScoreRecipe(Section):
    """Everything of a recipe that `plop score` reads."""

    score: Scoring = Field(Scoring(), description="What is recorded; its keys stand below.")
