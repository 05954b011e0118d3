"""The section `acquire` of a recipe: what is done with rows before anything is made of them."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from plop_lora.recipe.finetune import COMPLETION, LARGEST_SEED, PROMPT, TEXT
from plop_lora.recipe.section import Recipe, Section, one_of

REMOVE, COUNT, REFUSE = "remove", "count", "refuse"
ACTIONS = (REMOVE, COUNT, REFUSE)
TASKS = ("sft", "classify", "grpo")
"""Names of the built-in tasks; a task of the user's own is written as module:NAME."""
BY_ROW, BY_GROUP, BY_TIME = "row", "group", "time"
WORDS, CHARACTERS, AUTO = "words", "characters", "auto"
PERSONAL_KINDS = (
    "email", "phone", "card", "iban", "my-number", "ip-address", "api-key", "password",
    "private-key",
)  # fmt: skip
"""Kinds of personal data and secrets that are looked for."""
Action = Annotated[str, AfterValidator(partial(one_of, allowed=ACTIONS))]
_ACTION = "remove, count (report and keep them) or refuse (write nothing, exit code 3)."


class SplitSettings(Section):
    """How evaluation rows are held out of the training rows where none are given."""

    by: str = Field(
        BY_ROW,
        description="What is held out where the recipe has no eval: row (rows at random), group "
        "(whole groups at random) or time (the latest rows).",
    )
    share: float = Field(
        0.1, gt=0, lt=1, description="The share of the rows that is held out as evaluation rows."
    )
    column: str | None = Field(
        None,
        description="The column by which rows are split: the group of a row, or its time as a "
        "number or in the form of ISO 8601.",
    )

    @field_validator("by")
    @classmethod
    def _known(cls, by: str) -> str:
        return one_of(by, (BY_ROW, BY_GROUP, BY_TIME))

    @model_validator(mode="after")
    def _column_where_needed(self) -> Self:
        if (self.by == BY_ROW) != (self.column is None):
            raise ValueError("group and time need a column, and row takes none")
        return self


class NearSettings(Section):
    """Which rows are near duplicates of an earlier row of the same set."""

    action: Action = Field(
        REMOVE, description=f"What is done with near duplicates of an earlier row: {_ACTION}"
    )
    threshold: float = Field(
        0.8,
        gt=0,
        le=1,
        description="The share of their n-grams that two rows have in common (Jaccard index) from "
        "which on they are near duplicates.",
    )
    ngram: int | None = Field(
        None,
        ge=1,
        le=100,
        description="The number of words or characters of an n-gram. By default 3 words or 5 "
        "characters.",
    )


class LeakageSettings(Section):
    """Which evaluation rows stand in the training rows."""

    action: Action = Field(
        REMOVE,
        description="What is done with training rows that hold an evaluation row, so that the "
        f"evaluation rows keep their number: {_ACTION}",
    )
    ngram: int | None = Field(
        None,
        ge=2,
        le=200,
        description="The number of words or characters of an n-gram that is looked for in the "
        "training rows. By default 13 words or 30 characters.",
    )
    share: float = Field(
        0.7,
        gt=0,
        le=1,
        description="The share of an evaluation row that n-grams of one training row have to cover "
        "for the row to count as leaked.",
    )


class PersonalSettings(Section):
    """What is done with rows that hold personal data or secrets."""

    action: Action = Field(
        COUNT,
        description=f"What is done with rows that hold personal data or secrets: {_ACTION}",
    )
    kinds: tuple[str, ...] = Field(
        PERSONAL_KINDS, description="The kinds of personal data and secrets that are looked for."
    )

    regions: tuple[str, ...] = Field(
        ("JP", "US"),
        description="The countries whose national form of telephone numbers is looked for, by "
        "their two letters. International numbers are always. Countries other than JP and US need "
        "the extra data.",
    )

    @field_validator("regions")
    @classmethod
    def _two_letters(cls, regions: tuple[str, ...]) -> tuple[str, ...]:
        for region in regions:
            if not (len(region) == 2 and region.isascii() and region.isupper()):
                raise ValueError(f"{region!r} is no code of a country; write two letters as in JP")
        return tuple(dict.fromkeys(regions))

    @field_validator("kinds")
    @classmethod
    def _known_kinds(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(one_of(kind, PERSONAL_KINDS) for kind in kinds))


class AcquireSettings(Section):
    """What `plop acquire` does with the rows of its sources."""

    split: SplitSettings = Field(
        SplitSettings.model_validate({}),
        description="How evaluation rows are held out where none are given; the keys are listed "
        "below.",
    )
    exact: Action = Field(
        REMOVE, description=f"What is done with rows that repeat an earlier row: {_ACTION}"
    )
    near: NearSettings = Field(
        NearSettings.model_validate({}),
        description="What is done with near duplicates; the keys are listed below.",
    )
    leakage: LeakageSettings = Field(
        LeakageSettings.model_validate({}),
        description="What is done with evaluation rows among the training rows; the keys are "
        "listed below.",
    )
    personal: PersonalSettings = Field(
        PersonalSettings.model_validate({}),
        description="What is done with personal data and secrets; the keys are listed below.",
    )
    unit: str = Field(
        AUTO,
        description="What n-grams are made of: words, characters, or auto (characters where a "
        "tenth of all of them or more belong to scripts without spaces, such as Japanese).",
    )
    licence: str | None = Field(
        None,
        description="The licence of the data, where neither the card of a hub data set nor a "
        "LICENSE beside a file says it.",
    )
    revision: str | None = Field(
        None,
        description="The branch, tag or commit of hub data sets. It is resolved to a commit, which "
        "the record keeps. By default the main branch.",
    )

    @field_validator("unit")
    @classmethod
    def _known_unit(cls, unit: str) -> str:
        return one_of(unit, (AUTO, WORDS, CHARACTERS))


class AcquireRecipe(Recipe):
    """Everything `plop acquire` can be told; what `verify` can be told too has the same key."""

    task: str = Field(
        "sft",
        description="The task for which the rows are acquired: sft, classify, grpo, or a task of "
        "your own, written as module:NAME.",
    )
    train: str = Field(
        description="The training rows: a file, or a data set of the Hugging Face Hub, written as "
        "name:config:split."
    )
    eval: str | None = Field(
        None,
        description="The rows on which results are evaluated, from a source of the same kind. By "
        "default they are held out of the training rows.",
    )
    text: str | None = TEXT
    prompt: str | None = PROMPT
    completion: str | None = COMPLETION
    label: str | None = Field(
        None, description="The field that holds the class of a row, for the task classify."
    )
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="The seed of the split.")
    acquire: AcquireSettings = Field(
        AcquireSettings.model_validate({}),
        description="What is done with the rows; the keys are listed below.",
    )

    @field_validator("task")
    @classmethod
    def _known_task(cls, task: str) -> str:
        return task if ":" in task else one_of(task, TASKS)
