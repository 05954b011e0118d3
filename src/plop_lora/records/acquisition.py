"""Acquisitions: where rows come from, what was removed from them and why, and what to look at."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from plop_lora.records.base import Record

Count = Annotated[int, Field(ge=0)]


class Side(StrEnum):
    """A set of rows."""

    TRAIN = "train"
    EVAL = "eval"


class Reason(StrEnum):
    """Why a row is counted, and removed where the settings say so."""

    EMPTY = "no text"
    EXACT = "exact duplicate"
    NEAR = "near duplicate"
    LEAKED = "holds an evaluation row"
    PERSONAL = "personal data or secrets"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """One source of rows.

    Attributes:
        side: Set for which the rows were read.
        name: The user's name of the source.
        sha256: SHA-256 of the file; None for a data set of the hub.
        revision: Commit of a data set of the hub; None for a file.
        rows: Number of rows that were read.
        fields: Names of the fields that are the text of a row.
        licence: What is known of the licence, in words; None where nothing is known.
        licence_from: Where that stands: a file, the card on the hub, or the recipe.
    """

    side: Side
    name: str
    sha256: str | None
    revision: str | None
    rows: Count
    fields: str
    licence: str | None = None
    licence_from: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFinding:
    """The rows of one set that were found for one reason.

    Attributes:
        side: Set of the rows.
        reason: Reason for which they were found.
        action: What was done with them: remove, count or refuse.
        rows: Numbers of the rows in their source, from 1, in ascending order.
    """

    side: Side
    reason: Reason
    action: str
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """An evaluation row that stands in training rows.

    Attributes:
        row: Number of the evaluation row in its source, from 1.
        train_rows: Numbers of the training rows that hold it, in ascending order.
        share: Largest share of the evaluation row that one of them covers; 1 for a copy.
    """

    row: int
    train_rows: tuple[int, ...]
    share: Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonalPlace:
    """A field of a row in which personal data or a secret was found; never the value.

    Attributes:
        side: Set of the row.
        row: Number of the row in its source, from 1.
        field: Name of the field.
        kind: Kind of what was found, such as `email`.
        count: How many times.
    """

    side: Side
    row: int
    field: str
    kind: str
    count: Annotated[int, Field(ge=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquisition(Record):
    """Rows that were acquired, and everything that was done with them.

    Attributes:
        task: Task for which the rows are.
        sources: Sources of the rows.
        held_out: Whether the evaluation rows were held out of the training rows.
        train_rows: Number of training rows that were written.
        eval_rows: Number of evaluation rows that were written.
        train_sha256: SHA-256 of `train.jsonl`; None where nothing was written.
        eval_sha256: SHA-256 of `eval.jsonl`; None where nothing was written.
        unit: What n-grams are made of: words or characters.
        findings: Rows that were found, by set and reason.
        leaks: Evaluation rows that stand in training rows.
        personal: Places of personal data and secrets.
        detectors: What looked for personal data and secrets, with its version.
        notes: What a reader should know of the data.
        recipe: Recipe that was used.
        plop_version: Version of plop-lora.
    """

    kind: ClassVar[str] = "acquisition"

    task: str
    sources: tuple[DataSource, ...]
    held_out: bool
    train_rows: Count
    eval_rows: Count
    train_sha256: str | None
    eval_sha256: str | None
    unit: str
    findings: tuple[RowFinding, ...]
    leaks: tuple[Leak, ...]
    personal: tuple[PersonalPlace, ...]
    detectors: tuple[str, ...]
    notes: tuple[str, ...]
    recipe: dict[str, object]
    plop_version: str

    @property
    def refused(self) -> tuple[RowFinding, ...]:
        """The findings for which the settings refuse the data."""
        return tuple(found for found in self.findings if found.action == "refuse")

    @property
    def exit_code(self) -> int:
        """The exit code of the command line: 3 where the settings refuse the data, else 0."""
        return 3 if self.refused else 0
