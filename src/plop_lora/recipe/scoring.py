"""What a recipe says of scoring."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, model_validator

from plop_lora.options import ADAPTIVE
from plop_lora.recipe.section import Recipe, Section

USUAL_TOP = 3
"""The number of types that the paper's choice holds."""


class ScoringSettings(Section):
    """How `score` measures; the same keys as the section `score` of a recipe.

    `denominator` may be given as `baseline`, its former name.
    """

    max_length: int = Field(
        512, ge=1, description="Tokens that are kept of each text, at most the model's positions."
    )
    batch_size: int | None = Field(
        None,
        ge=1,
        description="Sequences a batch; without it a budget of tokens is filled. It never changes "
        "the scores.",
    )
    seed: int = Field(0, description="The seed of the sample and of the denominator.")
    dtype: str = Field(
        "auto",
        description="The dtype of a model given by name: float32, bfloat16, float16, or auto, "
        "which is the checkpoint's own, or float32 on a processor that is slow in it.",
    )
    device: str = Field("auto", description="Where it runs: auto, cpu, cuda, cuda:1 or mps.")
    include: tuple[str, ...] = Field(
        (), description="Shell patterns of modules or types to score, wherever they stand."
    )
    exclude: tuple[str, ...] = Field((), description="Shell patterns of what to leave out.")
    denominator: str = Field(
        "analytic",
        description="The expected norm in closed form (analytic), or drawn (monte_carlo).",
    )
    indicators: tuple[str, ...] = Field(
        (),
        description="The indicators that are recorded beside NFN, by name, on the same tokens and "
        "without a second forward pass.",
    )
    stop: str = Field(
        ADAPTIVE,
        description="When to stop: as soon as the choice is known (adaptive), or after every text "
        "(fixed), as a paper needs it.",
    )
    tolerance: float = Field(
        0.03, ge=0, description="How much better, in NFN, a type left out may be than a chosen one."
    )
    top: int = Field(USUAL_TOP, ge=1, description="How many types the choice holds.")
    reference: bool = Field(
        True,
        description="Whether random tokens are scored as well, which say whether the choice would "
        "be the same without these texts.",
    )
    engine: str = Field(
        "auto",
        description="Where the model is: in memory, streamed block by block from disk (stream), or "
        "on a cluster (ray); auto streams what does not fit.",
    )
    ray_address: str | None = Field(
        None, description="The address of the Ray cluster, in place of RAY_ADDRESS."
    )
    cache: bool = Field(
        True, description="Whether what depends on the weights alone is remembered."
    )
    revision: str | None = Field(
        None, description="A branch, tag or commit of the model on the hub."
    )
    token: str | None = Field(
        None,
        description="An access token of the hub, which is never recorded; HF_TOKEN works as well.",
        exclude=True,
        repr=False,
    )
    trust_remote_code: bool = Field(
        False,
        description="Whether Python code that lies beside the weights may run, with all the rights "
        "of your account.",
    )

    @model_validator(mode="before")
    @classmethod
    def _by_its_former_name(cls, values: object) -> object:
        if not isinstance(values, Mapping) or "baseline" not in values:
            return values
        others = {key: value for key, value in values.items() if key != "baseline"}
        return {"denominator": values["baseline"], **others}


class ScoreRecipe(Recipe):
    """Everything of a recipe that `plop score` reads."""

    score: ScoringSettings = Field(
        default_factory=lambda: ScoringSettings.model_validate({}),
        description="How it measures; its keys stand below.",
    )
