"""The base class of saved records: one JSON document, written atomically, validated on load.

Every record carries `kind` and `schema_version`, so that a file of another kind or of a newer
release is refused by name instead of half understood, and a digest of its content, so that a
digit that changed on the way is noticed. Records hold data; what is done with them
stands to their right in the import order. The conveniences that users expect on a record
(`placement.to_peft()`, a table in a notebook) are imported when they are called.

Imports pydantic to validate on load; neither torch nor numpy.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import TypeAdapter, ValidationError

from plop_lora.errors import RecordError, UsageError
from plop_lora.files import atomic_file
from plop_lora.records.reading import DIGEST, check_digest, check_values, digest_of, read_document
from plop_lora.records.wording import fault_at

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from pandas import DataFrame

    from plop_lora.reports.page.notebook import Drawing

_ADAPTERS: dict[str, TypeAdapter[Any]] = {}


def _adapter(record_class: type[Record]) -> TypeAdapter[Any]:
    """Build the validator of a kind once."""
    if record_class.kind not in _ADAPTERS:
        _ADAPTERS[record_class.kind] = TypeAdapter(record_class)
    return _ADAPTERS[record_class.kind]


class Record:
    """Base class of all records, which can be converted to JSON, saved and loaded."""

    kind: ClassVar[str]
    schema_version: ClassVar[int] = 1

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON values, `kind` and `schema_version` first."""
        head = {"kind": self.kind, "schema_version": self.schema_version}
        body: dict[str, Any] = _adapter(type(self)).dump_python(self, mode="json", by_alias=True)
        return head | body

    def to_json(self) -> str:
        """Return the record as one JSON document, with its digest, which `load` compares."""
        document = self.to_dict()
        head = {key: document.pop(key) for key in _HEAD} | {DIGEST: self.digest()}
        return json.dumps(head | document, ensure_ascii=False, allow_nan=False)

    def digest(self) -> str:
        """Return the SHA-256 of the record's values as JSON, which is its identity."""
        return digest_of(self.to_dict())

    def save(self, path: str | Path) -> Path:
        """Write the record atomically and return the path.

        Raises:
            OutputError: The path cannot be written. An older file there is left unchanged.
        """
        with atomic_file(Path(path)) as file:
            file.write(self.to_json() + "\n")
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a record of exactly this kind.

        Raises:
            RecordError: The file does not exist, is truncated or not a record, is of another kind
                or a newer schema, does not match its digest, or holds an invalid text or number.
        """
        return cls.from_dict(read_document(Path(path), _maker(cls.kind)), source=str(path))

    @classmethod
    def of(cls, given: object) -> Self:
        """Return a record unchanged, or read it from a file.

        Raises:
            UsageError: `given` is neither a record of this kind nor a path.
            RecordError: The file cannot be loaded; see `load`.
        """
        if isinstance(given, cls):
            return given
        if isinstance(given, str | Path):
            return cls.load(given)
        raise UsageError(
            f"A {cls.kind!r} record or its file is needed here, not {_named(given)}. Make "
            f"one with: {_maker(cls.kind)}."
        )

    @classmethod
    def from_dict(cls, document: object, *, source: str = "the document") -> Self:
        """Build a record from plain JSON values; `source` names them in errors.

        Raises:
            RecordError: The values are not a valid record; see `load`.
        """
        if not isinstance(document, dict) or "kind" not in document:
            raise RecordError(
                f"{source} is not a plop-lora record (no 'kind'). "
                f"Expected {_a(cls.kind)} record; make one with: {_maker(cls.kind)}."
            )
        if document["kind"] != cls.kind:
            raise RecordError(
                f"{source} is {_a(document['kind'])} record, but {_a(cls.kind)} record is needed "
                f"here; make one with: {_maker(cls.kind)}."
            )
        _check_version(document.get("schema_version"), cls.schema_version, source)
        check_values(document, source)
        check_digest(document, source)
        body = {key: value for key, value in document.items() if key not in (*_HEAD, DIGEST)}
        try:
            record: Self = _adapter(cls).validate_python(body)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "top level"
            raise RecordError(
                f"{source} is a damaged {cls.kind!r} record: {fault_at(place, first)}. "
                f"Make it again with: {_maker(cls.kind)}."
            ) from error
        return record

    def plot(self, language: str = "en") -> Drawing:
        """Return the figures of the record, which a notebook draws; `save` writes them as HTML.

        Args:
            language: Language of the words, `en` or `ja`.

        Raises:
            UsageError: `plop report` does not show records of this kind, or the language is
                unknown.
        """
        from plop_lora.reports.page.notebook import drawing_of

        return drawing_of(self, language)

    def __str__(self) -> str:
        """Return the table that the command line prints."""
        from plop_lora.reports.terminal import as_text

        return as_text(self)

    def __repr__(self) -> str:
        """Return one line that summarises the record; `print` shows the table."""
        from plop_lora.reports.brief import brief

        return f"<{type(self).__name__}: {brief(self)}>"

    def _repr_html_(self) -> str:
        from plop_lora.reports.terminal import as_html

        return as_html(self)


_HEAD = ("kind", "schema_version")


def frame(rows: Iterable[DataclassInstance]) -> DataFrame:
    """Return dataclass rows as a `pandas.DataFrame`, a column each for their fields."""
    import pandas

    return pandas.DataFrame([asdict(row) for row in rows])


def _named(given: object) -> str:
    """Describe what was given instead of the record: its kind, or its class."""
    if isinstance(given, Record):
        return f"a {given.kind!r} record"
    return f"an object of the class {type(given).__name__}"


def _a(kind: object) -> str:
    """Return a kind of record with its article, "an 'experiment'"."""
    return f"{'an' if str(kind).startswith(('a', 'e', 'i', 'o', 'u')) else 'a'} {kind!r}"


def _maker(kind: str) -> str:
    commands = {
        "acquisition": "plop acquire --train TRAIN --folder acquired",
        "scores": "plop score MODEL --data DATA -o scores.json",
        "placement": "plop place scores.json -o placement.json",
        "comparison": "plop compare a.json b.json -o comparison.json",
        "trial": "plop verify scores.json --train TRAIN --eval EVAL --task TASK",
        "trial-result": "plop trial spec.json",
        "verification-plan": "plop verify scores.json --train TRAIN --eval EVAL --plan",
        "verification": "plop verify scores.json --train TRAIN --eval EVAL --task TASK",
        "experiment": "plop ab init --recipe ab.yaml -o experiment.json",
        "experiment-ramp": "plop ab ramp 10% -e experiment.json --reason REASON",
        "experiment-plan": "plop ab plan --baseline 0.10 --effect 0.02 -o plan.json",
        "experiment-status": "plop ab status -e experiment.json -o status.json",
        "experiment-import": "plop ab import events.csv -e experiment.json",
        "experiment-analysis": "plop ab analyze -e experiment.json -o analysis.json",
        "pipeline-run": "plop run recipe.yaml",
        "finetune-plan": "plop finetune placement.json --recipe recipe.yaml --plan",
        "finetune": "plop finetune placement.json --recipe recipe.yaml",
        "gate-plan": "plop gate ADAPTER --recipe gate.yaml --plan",
        "gate-walk": "plop gate --checkpoints DIR --recipe gate.yaml -o walk.json",
        "gate-verdict": "plop gate ADAPTER --recipe gate.yaml -o verdict.json",
        "replay": "plop ab replay prompts.jsonl --upstream URL --experiment FILE -o replay.json",
        "tuning-plan": "plop tune scores.json --train TRAIN --eval EVAL --task TASK --plan",
        "robustness": "plop robustness MODEL --data DATA -o robustness.json",
        "learned-model": "plop learn FOLDER -o learned.json",
        "tuning": "plop tune scores.json --train TRAIN --eval EVAL --task TASK",
    }
    return commands[kind]


def _check_version(version: object, newest: int, source: str) -> None:
    if version is None:
        raise RecordError(
            f"{source} has no schema_version, so its format is unknown. It was not written by "
            "plop-lora, or it was truncated. Make it again with the command that wrote it."
        )
    if type(version) is not int or version < 1:
        raise RecordError(
            f"{source} has schema_version {version!r}, which must be a whole number from 1 to "
            f"{newest}. Make it again with the command that wrote it."
        )
    if version > newest:
        raise RecordError(
            f"{source} has schema_version {version}; this plop-lora reads up to "
            f"{newest}. Upgrade with: pip install --upgrade plop-lora"
        )
