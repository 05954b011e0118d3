"""What a recipe says of a placement."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pydantic import Field, field_validator

from plop_lora.recipe.section import Recipe, Section
from plop_lora.records.placement import AdapterSettings


class PlacementSettings(Section):
    """What `place` chooses by; the same keys as the section `place` of a recipe."""

    strategy: str = Field(
        "plop",
        description="The rule that chooses: plop (lowest NFN), plop-inverse, attention, mlp, "
        "all-linear, random, query-value, v-up-down, v-o-down or custom.",
    )
    indicator: str = Field(
        "nfn",
        description="The indicator of the scores in whose order plop and plop-inverse take types.",
    )
    top: int | None = Field(
        None,
        ge=1,
        description="How many types plop, plop-inverse and random take; by default as many as "
        "scoring decided for, usually 3.",
    )
    rank: int | None = Field(
        None, ge=1, description="The LoRA rank of every adapter; 16 where no budget is given."
    )
    budget: str | int | None = Field(
        None,
        description="How many trainable parameters there may be: 10M, or 0.5% of the model's.",
    )
    types: tuple[str, ...] = Field(
        (), description="The types that the strategy custom takes; a slice stands for its weight."
    )
    layers: str | frozenset[int] | None = Field(
        None, description="The only blocks that get adapters, counted from 0: 0-11 or 0,2,4."
    )
    scaling: float = Field(
        2.0,
        gt=0,
        description="The factor in front of B·A of every adapter: alpha / rank, or "
        "alpha / sqrt(rank) with rslora.",
    )
    seed: int = Field(0, description="The seed of the strategy random.")
    rslora: bool = Field(False, description="Whether the scaling is alpha / sqrt(rank).")
    loraplus_ratio: float | None = Field(
        None, gt=0, description="The learning rate of B over that of A (LoRA+)."
    )
    init: str = Field(
        "default",
        description="The initialisation by PEFT's name of it, such as gaussian, orthogonal, "
        "pissa, olora or eva.",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="The LoRA dropout.")

    @field_validator("layers", mode="before")
    @classmethod
    def _any_collection(cls, layers: Any) -> Any:
        collected = isinstance(layers, Collection) and not isinstance(layers, str)
        return tuple(layers) if collected else layers

    @property
    def adapters(self) -> AdapterSettings:
        """How the adapters are made, as a placement records it."""
        return AdapterSettings(self.rslora, self.loraplus_ratio, self.init, self.dropout)


class PlaceRecipe(Recipe):
    """Everything of a recipe that `plop place` reads."""

    place: PlacementSettings = Field(
        default_factory=lambda: PlacementSettings.model_validate({}),
        description="How types and ranks are chosen; its keys stand below.",
    )
