"""What every saved record can do: become one JSON document, be written atomically, be loaded.

Every record carries `kind` and `schema_version`, so that a file of another kind or of a newer
release is refused by name instead of half understood. Records hold data; what is done with them
stands to their right in the import order. The conveniences that users expect on a record
(`placement.to_peft()`, a table in a notebook) are looked up by name when they are called.

Imports pydantic to validate on load; neither torch nor numpy.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import TypeAdapter, ValidationError

from plop_lora.errors import RecordError, UsageError, nearest
from plop_lora.files import atomic_file


def later(module_name: str, name: str) -> Callable[..., Any]:
    """Find a step that stands to the right of this file, at the moment it is called."""
    step: Callable[..., Any] = getattr(importlib.import_module(f"plop_lora.{module_name}"), name)
    return step


_ADAPTERS: dict[str, TypeAdapter[Any]] = {}


def _adapter(record_class: type[Record]) -> TypeAdapter[Any]:
    """Build the validator of a kind once."""
    if record_class.kind not in _ADAPTERS:
        _ADAPTERS[record_class.kind] = TypeAdapter(record_class)
    return _ADAPTERS[record_class.kind]


class Record:
    """What every record can do: become JSON, be saved, be loaded."""

    kind: ClassVar[str]
    schema_version: ClassVar[int] = 1

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON values, `kind` and `schema_version` first."""
        head = {"kind": self.kind, "schema_version": self.schema_version}
        body: dict[str, Any] = _adapter(type(self)).dump_python(self, mode="json")
        return head | body

    def to_json(self) -> str:
        """Return the record as one JSON document."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False)

    def digest(self) -> str:
        """Return the SHA-256 of the JSON document, for provenance."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def save(self, path: str | Path) -> Path:
        """Write the record atomically and return the path.

        Raises:
            OutputError: the path cannot be written; an older file there stays as it was.
        """
        with atomic_file(Path(path)) as file:
            file.write(self.to_json() + "\n")
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a record of exactly this kind.

        Raises:
            RecordError: no such file, truncated or foreign JSON, another kind, a newer schema.
        """
        return cls.from_dict(_read_json(Path(path), cls.kind), source=str(path))

    @classmethod
    def of(cls, given: Any) -> Self:
        """Return a record as it is, or read it from the file that is named.

        Raises:
            UsageError: neither a record of this kind nor a path; the text says what is wanted.
            RecordError: as for `load`.
        """
        if isinstance(given, cls):
            return given
        if isinstance(given, str | Path):
            return cls.load(given)
        raise UsageError(
            f"A {cls.kind!r} record or its file is needed here, not {_named(given)}. To "
            f"{_maker(cls.kind)}."
        )

    @classmethod
    def from_dict(cls, document: Any, *, source: str = "the document") -> Self:
        """Build a record from plain JSON values; `source` names them in errors.

        Raises:
            RecordError: as for `load`.
        """
        if not isinstance(document, dict) or "kind" not in document:
            raise RecordError(
                f"{source} is not a plop-lora record (no 'kind'). "
                f"Expected a {cls.kind!r} record: {_maker(cls.kind)}."
            )
        if document["kind"] != cls.kind:
            raise RecordError(
                f"{source} is a {document['kind']!r} record, but a {cls.kind!r} record is "
                f"needed here: {_maker(cls.kind)}."
            )
        version = document.get("schema_version")
        if not isinstance(version, int) or version > cls.schema_version:
            raise RecordError(
                f"{source} has schema_version {version!r}; this plop-lora reads up to "
                f"{cls.schema_version}. Upgrade with: pip install --upgrade plop-lora"
            )
        body = {key: value for key, value in document.items() if key not in _HEAD}
        try:
            record: Self = _adapter(cls).validate_python(body)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "top level"
            raise RecordError(
                f"{source} is a damaged {cls.kind!r} record: {place}: {first['msg'].lower()}. "
                f"Make it again: {_maker(cls.kind)}."
            ) from error
        return record

    def __str__(self) -> str:
        """Return the table that the command line prints."""
        return str(later("report.terminal", "as_text")(self))

    def __repr__(self) -> str:
        """Return one line that says what the record is of; `print` shows the table."""
        return f"<{type(self).__name__}: {later('report.brief', 'brief')(self)}>"

    def _repr_html_(self) -> str:
        return str(later("report.terminal", "as_html")(self))


_HEAD = ("kind", "schema_version")


def frame(rows: Iterable[Any]) -> Any:
    """Return dataclass rows as a `pandas.DataFrame`, a column each for their fields."""
    import pandas

    return pandas.DataFrame([asdict(row) for row in rows])


def _named(given: Any) -> str:
    """Say what was given instead of a record: its kind, or its class."""
    if isinstance(given, Record):
        return f"a {given.kind!r} record"
    return f"an object of the class {type(given).__name__}"


def _maker(kind: str) -> str:
    commands = {
        "scores": "plop score MODEL --data DATA -o scores.json",
        "placement": "plop place scores.json -o placement.json",
        "comparison": "plop compare a.json b.json -o comparison.json",
        "trial": "plop verify scores.json --train TRAIN --eval EVAL --task TASK",
        "trial-result": "plop trial spec.json",
        "verification-plan": "plop verify scores.json --train TRAIN --eval EVAL --plan",
        "verification": "plop verify scores.json --train TRAIN --eval EVAL --task TASK",
        "tuning-plan": "plop tune scores.json --train TRAIN --eval EVAL --task TASK --plan",
        "tuning": "plop tune scores.json --train TRAIN --eval EVAL --task TASK",
    }
    return f"make one with: {commands[kind]}"


def _read_json(path: Path, kind: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        folder = path.parent
        beside = [entry.name for entry in folder.glob("*.json")] if folder.is_dir() else []
        raise RecordError(
            f"No such file: {path}.{nearest(path.name, beside)} To {_maker(kind)}."
        ) from error
    except OSError as error:
        raise RecordError(f"Cannot read {path}: {error.strerror or error}.") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RecordError(
            f"{path} is not complete JSON ({error}). It was truncated or is another kind of "
            "file; make it again with the command that wrote it."
        ) from error
