"""The section of a recipe that describes scoring."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, model_validator

from plop_lora.options import ADAPTIVE
from plop_lora.recipe.section import Recipe, Section

USUAL_TOP = 3
"""The number of module types that the paper chooses by default."""


class ScoringSettings(Section):
    """How `score` measures: the keys of the section `score` of a recipe.

    `baseline`, the former name of `denominator`, is accepted as well.
    """

    max_length: int = Field(
        512,
        ge=1,
        description="The number of tokens to which each text is truncated. It is limited to the "
        "context length of the model.",
    )
    special_tokens: bool = Field(
        False,
        description="Whether the special tokens around a text, such as [CLS], count in the score. "
        "They go through the model in any case. Batches from Python have masks that decide this.",
    )
    batch_size: int | None = Field(
        None,
        ge=1,
        description="The number of sequences per batch. By default batches are filled up to a "
        "number of tokens. The scores do not depend on it.",
    )
    seed: int = Field(
        0, description="The seed of the sample of texts and of the random draws of the denominator."
    )
    dtype: str = Field(
        "auto",
        description="The dtype in which the model is loaded: float32, bfloat16, float16, or auto, "
        "which is the dtype of the checkpoint, or float32 on a processor that computes slowly in "
        "that dtype.",
    )
    device: str = Field(
        "auto", description="The device on which the model runs: auto, cpu, cuda, cuda:1 or mps."
    )
    include: tuple[str, ...] = Field(
        (),
        description="Shell patterns of the modules or module types to score, also outside the "
        "transformer blocks.",
    )
    exclude: tuple[str, ...] = Field(
        (), description="Shell patterns of the modules or module types to leave out."
    )
    denominator: str = Field(
        "analytic",
        description="How the expected norm in the denominator of NFN is computed: in closed form "
        "(analytic), or from random draws (monte_carlo).",
    )
    indicators: tuple[str, ...] = Field(
        (),
        description="The names of further indicators to record beside NFN, on the same tokens and "
        "without a second forward pass.",
    )
    stop: str = Field(
        ADAPTIVE,
        description="When scoring stops: as soon as the choice of module types is decided "
        "(adaptive), or after all texts (fixed), which published numbers need.",
    )
    tolerance: float = Field(
        0.03,
        ge=0,
        description="The difference in NFN that does not matter: the choice is decided once no "
        "module type outside of it is better than a chosen one by more than this.",
    )
    top: int = Field(USUAL_TOP, ge=1, description="The number of module types that will be chosen.")
    reference: bool = Field(
        True,
        description="Whether a short general English text is scored as well, which shows how much "
        "of the ranking comes from your texts and whether the choice would be another without "
        "them.",
    )
    engine: str = Field(
        "auto",
        description="How the model is run: in memory (memory), streamed block by block from disk "
        "(stream), or on a Ray cluster (ray). With auto, a model that does not fit into memory is "
        "streamed.",
    )
    ray_address: str | None = Field(
        None, description="The address of the Ray cluster; it takes precedence over RAY_ADDRESS."
    )
    cache: bool = Field(
        True,
        description="Whether the expected norms of the weights are cached on disk between runs.",
    )
    revision: str | None = Field(
        None, description="The branch, tag or commit of the model on the hub."
    )
    gguf: str | None = Field(
        None,
        description="The name of the GGUF file to score, in the folder or repository of the model. "
        "Its weights are dequantised.",
    )
    token: str | None = Field(
        None,
        description="An access token of the hub, which is never recorded. The environment variable "
        "HF_TOKEN works as well.",
        exclude=True,
        repr=False,
    )
    trust_remote_code: bool = Field(
        False,
        description="Whether Python code in the model's repository may run, with all the rights of "
        "your account.",
    )

    @model_validator(mode="before")
    @classmethod
    def _by_its_former_name(cls, values: object) -> object:
        if not isinstance(values, Mapping) or "baseline" not in values:
            return values
        others = {key: value for key, value in values.items() if key != "baseline"}
        return {"denominator": values["baseline"], **others}


class ScoreRecipe(Recipe):
    """The part of a recipe that `plop score` reads."""

    score: ScoringSettings = Field(
        default_factory=lambda: ScoringSettings.model_validate({}),
        description="How the model is scored; the keys are listed below.",
    )
