"""The saved records: frozen dataclasses, one JSON document each, written atomically.

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
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import TypeAdapter, ValidationError

from plop_lora.errors import RecordError
from plop_lora.files import atomic_file

DECIDED = "decided"
UNDECIDED = "undecided, score more data"
UNSCORED = "not decided by scores"


def _later(module_name: str, name: str) -> Callable[..., Any]:
    """Find a step that stands to the right of this file, at the moment it is called."""
    step: Callable[..., Any] = getattr(importlib.import_module(f"plop_lora.{module_name}"), name)
    return step


_ADAPTERS: dict[str, TypeAdapter[Any]] = {}


def _adapter(record_class: type[Record]) -> TypeAdapter[Any]:
    """Build the validator of a kind once."""
    if record_class.kind not in _ADAPTERS:
        _ADAPTERS[record_class.kind] = TypeAdapter(record_class)
    return _ADAPTERS[record_class.kind]


# --------------------------------------------------------------------------- the base


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
        return cls.from_dict(_read_json(Path(path)), source=str(path))

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
        return str(_later("report.terminal", "as_text")(self))

    def __repr__(self) -> str:
        """Return the same table, so that a bare name at a prompt is readable."""
        return str(self)

    def _repr_html_(self) -> str:
        return str(_later("report.terminal", "as_html")(self))


_HEAD = ("kind", "schema_version")


def _maker(kind: str) -> str:
    commands = {
        "scores": "plop score MODEL --data DATA -o scores.json",
        "placement": "plop place scores.json -o placement.json",
        "comparison": "plop compare a.json b.json -o comparison.json",
    }
    return f"make one with: {commands[kind]}"


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecordError(f"No such file: {path}.") from error
    except OSError as error:
        raise RecordError(f"Cannot read {path}: {error.strerror or error}.") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RecordError(
            f"{path} is not complete JSON ({error}). It was truncated or is another kind of "
            "file; make it again with the command that wrote it."
        ) from error


# --------------------------------------------------------------------------- scores


@dataclass(frozen=True, slots=True)
class ModelReference:
    """Enough about a model to find it again and to rebuild its skeleton without weights."""

    name: str
    revision: str | None
    architecture: str
    task_type: str | None
    parameters: int
    config_hash: str | None = None
    config: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class TypeScore:
    """Mean NFN of a module type with its 95 % interval over sequences (None below two).

    `role` is `attention`, `mlp` or `other`; `eligible` is False for what is never proposed
    (towers, routers, modules outside the blocks).
    """

    type: str
    nfn: float
    low: float | None
    high: float | None
    modules: int
    parameters: int
    role: str
    eligible: bool


@dataclass(frozen=True, slots=True)
class SiteScore:
    """Token-weighted mean NFN of one site; `tokens` counts what entered that mean."""

    name: str
    type: str
    layer: int | None
    nfn: float
    tokens: int
    in_features: int
    out_features: int
    parameters: int


@dataclass(frozen=True, slots=True)
class NotMeasured:
    """A weight that is present but has no score, and why."""

    name: str
    type: str
    parameters: int
    reason: str


@dataclass(frozen=True, slots=True)
class Coverage:
    """Which share of the block parameters the measured sites hold.

    Block parameters are the weight matrices inside the repeated blocks: no embeddings, norms,
    biases or output head.
    """

    measured_parameters: int
    block_parameters: int
    not_measured: tuple[NotMeasured, ...] = ()

    @property
    def share(self) -> float:
        """Measured share of the block parameters, 0 to 1."""
        return self.measured_parameters / self.block_parameters if self.block_parameters else 0.0


@dataclass(frozen=True, slots=True)
class Measurements:
    """Per-sequence sums of token NFN and token counts, the raw material of every interval.

    Rows follow `Scores.sites`, columns follow `sequence_ids`. Most sites share one row of
    counts, so `counts` holds the distinct rows and `count_row` the row of each site.
    """

    sequence_ids: tuple[str, ...]
    sums: tuple[tuple[float, ...], ...]
    counts: tuple[tuple[int, ...], ...]
    count_row: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a score came from and what it took."""

    data: str
    data_fingerprint: str
    plop_version: str
    versions: dict[str, str]
    dtype: str
    device: str
    seed: int
    baseline: str
    created: str
    elapsed_seconds: float
    peak_memory_bytes: int
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class Scores(Record):
    """NFN of every module type and site of a model on a data sample; `types` lowest first."""

    kind: ClassVar[str] = "scores"

    model: ModelReference
    types: tuple[TypeScore, ...]
    sites: tuple[SiteScore, ...]
    sequences: int
    tokens: int
    coverage: Coverage
    provenance: Provenance
    measurements: Measurements
    notes: tuple[str, ...] = ()

    def type_names(self, *, eligible_only: bool = False) -> list[str]:
        """Return the names of the types, lowest NFN first."""
        return [row.type for row in self.types if row.eligible or not eligible_only]


# --------------------------------------------------------------------------- placement


@dataclass(frozen=True, slots=True)
class PlacedSite:
    """One adapter: a site with its LoRA rank and alpha, and the parameters it trains."""

    name: str
    type: str
    layer: int | None
    rank: int
    alpha: float
    parameters: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Paired difference in NFN, `other` minus the choice, with its 95 % interval."""

    other: str
    difference: float
    low: float | None
    high: float | None
    verdict: str


@dataclass(frozen=True, slots=True)
class Choice:
    """A chosen type: its score, its ranks, and how far it is from its neighbours.

    `next` is the gap to the following type in the order of the strategy, `left_out` the gap to
    the nearest type that was not chosen; None where there is no such type.
    """

    type: str
    nfn: float
    low: float | None
    high: float | None
    modules: int
    lowest_rank: int
    highest_rank: int
    parameters: int
    next: Gap | None
    left_out: Gap | None


@dataclass(frozen=True, repr=False)
class Placement(Record):
    """Sites with rank and alpha, why they were chosen, and which weights stay untouched."""

    kind: ClassVar[str] = "placement"

    model: ModelReference
    strategy: str
    verdict: str
    choices: tuple[Choice, ...]
    sites: tuple[PlacedSite, ...]
    scaling: float
    trainable_parameters: int
    budget: int | None
    untouched: tuple[str, ...]
    seed: int
    scores_digest: str
    plop_version: str
    notes: tuple[str, ...] = ()

    def to_peft(self, model: Any = None, *, dry_run: bool = True) -> Any:
        """Return the placement as `peft.LoraConfig`; see `plop_lora.export.peft.to_peft`."""
        return _later("export.peft", "to_peft")(self, model, dry_run=dry_run)

    def export(self, folder: str | Path, *, to: str = "peft", dry_run: bool = True) -> Path:
        """Write the placement as a trainer's file; see `plop_lora.export.peft.export`."""
        path: Path = _later("export.peft", "export")(self, folder, to=to, dry_run=dry_run)
        return path


# --------------------------------------------------------------------------- comparison


@dataclass(frozen=True, slots=True)
class TypeDifference:
    """NFN of one type in two score files; difference is `second` minus `first`."""

    type: str
    first: float
    second: float
    difference: float
    low: float | None
    high: float | None
    verdict: str


@dataclass(frozen=True, repr=False)
class Comparison(Record):
    """Two score files side by side, over the types they share.

    `paired_sequences` is the number of sequences that both measured, or None where the
    intervals are unpaired. `kendall_tau` is None below two shared types.
    """

    kind: ClassVar[str] = "comparison"

    first: str
    second: str
    types: tuple[TypeDifference, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    paired_sequences: int | None
    kendall_tau: float | None
    notes: tuple[str, ...] = ()
