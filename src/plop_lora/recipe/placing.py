"""The section of a recipe that describes a placement."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pydantic import Field, field_validator

from plop_lora.recipe.section import Recipe, Section
from plop_lora.records.placement import AdapterSettings


class PlacementSettings(Section):
    """How `place` chooses module types and ranks: the keys of the section `place` of a recipe."""

    strategy: str = Field(
        "plop",
        description="The rule that chooses the module types: plop (lowest NFN), plop-inverse "
        "(highest NFN), contrast, attention, mlp, all-linear, random, query-value, v-up-down, "
        "v-o-down, learned (the rule of plop learn) or custom (the types that are named).",
    )
    indicator: str = Field(
        "nfn",
        description="The indicator by which plop and plop-inverse rank the module types. The "
        "strategy contrast has its own.",
    )
    top: int | None = Field(
        None,
        ge=1,
        description="The number of module types that the strategies plop, plop-inverse, contrast "
        "and random choose, and learned where it keeps the default placement. By default the "
        "number for which scoring was run, usually 3.",
    )
    rank: int | None = Field(
        None,
        ge=1,
        description="The LoRA rank of every adapter. By default 16, unless a budget is given.",
    )
    budget: str | int | None = Field(
        None,
        description="The largest number of trainable parameters: a number such as 10M, or a share "
        "of the model's parameters such as 0.5%. The ranks follow from it.",
    )
    types: tuple[str, ...] = Field(
        (),
        description="The module types that the strategy custom chooses. The name of one slice of "
        "a fused projection chooses the whole projection.",
    )
    learned: str | None = Field(
        None,
        description="The file that plop learn has written, for the strategy learned. By default "
        "the one that comes with plop-lora.",
    )
    layers: str | frozenset[int] | None = Field(
        None,
        description="The blocks that get adapters, counted from 0, such as 0-11 or 0,2,4. By "
        "default all of them.",
    )
    scaling: float = Field(
        2.0,
        gt=0,
        description="The factor by which B·A is multiplied in every adapter: alpha / rank, or "
        "alpha / sqrt(rank) with rslora.",
    )
    seed: int = Field(0, description="The seed with which the strategy random draws types.")
    rslora: bool = Field(
        False,
        description="Whether to scale by alpha / sqrt(rank) instead of alpha / rank "
        "(rank-stabilised LoRA).",
    )
    loraplus_ratio: float | None = Field(
        None,
        gt=0,
        description="The learning rate of B divided by that of A (LoRA+). By default both have the "
        "same rate.",
    )
    init: str = Field(
        "default",
        description="The initialisation of the adapters, by the name that PEFT gives it, such as "
        "gaussian, orthogonal, pissa, olora or eva.",
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="The dropout probability of the LoRA layers."
    )

    @field_validator("layers", mode="before")
    @classmethod
    def _any_collection(cls, layers: Any) -> Any:
        collected = isinstance(layers, Collection) and not isinstance(layers, str)
        return tuple(layers) if collected else layers

    @property
    def adapters(self) -> AdapterSettings:
        """The settings of the adapters in the form that a placement records."""
        return AdapterSettings(self.rslora, self.loraplus_ratio, self.init, self.dropout)


class PlaceRecipe(Recipe):
    """The part of a recipe that `plop place` reads."""

    place: PlacementSettings = Field(
        default_factory=lambda: PlacementSettings.model_validate({}),
        description="How module types and ranks are chosen; the keys are listed below.",
    )
