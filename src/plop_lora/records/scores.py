"""Scores: the NFN and other indicators of every site of a model, measured on a sample of data."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from plop_lora.errors import UnknownNameError, UsageError, nearest
from plop_lora.records.base import Record, frame
from plop_lora.records.measurements import UNLESS_EMPTY, Measurements, ReferenceChoice

if TYPE_CHECKING:
    from pandas import DataFrame

LEFT_OUT = "left out by --include or --exclude"
"""The reason that is recorded for a weight that the user excluded from scoring."""


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A GGUF file whose weights were dequantised.

    Attributes:
        name: Name of the file.
        sha256: SHA-256 of its content.
        types: Number of tensors by quantisation type, such as `{"F32": 5, "Q8_0": 14}`.
    """

    name: str
    sha256: str
    types: dict[str, int]


@dataclass(frozen=True, slots=True)
class ModelReference:
    """What is needed to find a model again and to build its architecture without weights.

    `gguf` is the file that the weights were read from, None for a checkpoint of transformers.
    """

    name: str
    revision: str | None
    architecture: str
    task_type: str | None
    parameters: int
    config_hash: str | None = None
    config: dict[str, Any] | None = field(default=None, repr=False)
    gguf: Annotated[GgufFile | None, UNLESS_EMPTY] = None


@dataclass(frozen=True, slots=True)
class TypeScore:
    """Mean NFN of a module type with its 95 % interval over sequences (None below two).

    `host_type` is the type of the weight that takes the adapter: the type itself, or for a slice
    such as `qkv_proj[q]` the fused projection `qkv_proj`. `role` is `attention`, `mlp` or `other`.
    `eligible` is False for types that are never proposed by default (towers, routers, modules
    outside the blocks).
    """

    type: str
    host_type: str
    nfn: float
    low: float | None
    high: float | None
    modules: int
    parameters: int
    role: str
    eligible: bool


@dataclass(frozen=True, slots=True)
class ExpertScore:
    """One expert of a site: the number of tokens routed to it, and its NFN, None without tokens."""

    expert: int
    tokens: int
    nfn: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class SiteScore:
    """Token-weighted mean NFN of one site; `tokens` counts what entered that mean.

    `host` names the weight that holds the site (see `Host`). Where the host stacks experts, the
    mean is over routed tokens, `tokens` counts a token once for each expert to which it was routed,
    and `experts` holds the values of each expert.
    """

    name: str
    host: str
    type: str
    layer: int | None
    nfn: float
    tokens: int
    in_features: int
    out_features: int
    parameters: int
    experts: tuple[ExpertScore, ...] = ()


@dataclass(frozen=True, slots=True)
class Host:
    """A weight that takes one adapter: a module, or a parameter that stacks experts.

    `out_features` covers all of its slices. A rank costs
    `copies * (in_features + out_features)` parameters.
    """

    name: str
    type: str
    layer: int | None
    in_features: int
    out_features: int
    copies: int = 1
    is_parameter: bool = False

    @property
    def parameters_per_rank(self) -> int:
        """Trainable parameters of one LoRA rank."""
        return self.copies * (self.in_features + self.out_features)

    @property
    def largest_rank(self) -> int:
        """The largest useful rank, which is the smaller side of the matrix."""
        return min(self.in_features, self.out_features)


def whole_weight(name: str) -> str:
    """Return the weight that holds a slice; any other name as it is.

    >>> whole_weight("attn.qkv_proj[q]"), whole_weight("attn.o_proj")
    ('attn.qkv_proj', 'attn.o_proj')
    """
    return re.sub(r"\[[^\[\]]*\]$", "", name)


@dataclass(frozen=True, slots=True)
class NotMeasured:
    """A weight without a score, and the reason.

    `by_rule` is True for weights that are never proposed (embeddings, heads, routers, towers,
    convolutions) and False for those that could have been measured.
    """

    name: str
    type: str
    parameters: int
    reason: str
    by_rule: bool = False

    @property
    def weight(self) -> str:
        """Name of the weight: `qkv_proj` for its slice `qkv_proj[q]`, which takes no adapter."""
        return whole_weight(self.name)


@dataclass(frozen=True, slots=True)
class Coverage:
    """The share of the block parameters that the measured sites hold.

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

    @property
    def share_of_asked(self) -> float:
        """Measured share of the block parameters selected by --include and --exclude, 0 to 1."""
        left = sum(e.parameters for e in self.not_measured if e.reason == LEFT_OUT)
        asked = self.block_parameters - left
        return self.measured_parameters / asked if asked > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Provenance:
    """How and on what hardware the scores were computed.

    `denominator` is `analytic` or `monte_carlo`. Files keep its former name `baseline`, because
    another key would change the digest of older files, by which studies refer to them.
    """

    data: str
    data_fingerprint: str
    plop_version: str
    versions: dict[str, str]
    dtype: str
    device: str
    seed: int
    denominator: Annotated[str, Field(alias="baseline")]
    created: str
    elapsed_seconds: float
    peak_memory_bytes: int
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def special_tokens(self) -> bool:
        """Whether the special tokens around a text count, as they did before this was recorded."""
        return bool(self.settings.get("special_tokens", True))


@dataclass(frozen=True, slots=True)
class BoundaryPair:
    """A pair of a chosen type and another: NFN of `left_out` minus that of `chosen`, with bounds.

    The bounds hold at every interim analysis (`statistics.sequential_margin`).
    """

    chosen: str
    left_out: str
    difference: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class GroupCount:
    """The numbers of sequences of one group of texts that were scored and that were drawn."""

    group: str
    used: int
    available: int


@dataclass(frozen=True, slots=True)
class Stopping:
    """Why and when scoring stopped.

    Attributes:
        mode: `adaptive`, or `fixed` where all sequences are scored.
        reason: Reason as text.
        decided: Whether, with the given `confidence` over all interim analyses, no type outside
            the choice is better than a chosen one by more than `tolerance`. False if `fixed`.
        used: Number of sequences that were scored.
        available: Number of sequences that were drawn.
        top: Number of types to choose.
        ties: Pairs whose order is open but whose gap is within the tolerance.
        undecided: Pairs in which the type outside the choice may be better by more than the
            tolerance.
        groups: Numbers of sequences by group, if the texts have groups.
    """

    mode: str
    reason: str
    decided: bool
    used: int
    available: int
    top: int
    tolerance: float
    confidence: float
    ties: tuple[BoundaryPair, ...] = ()
    undecided: tuple[BoundaryPair, ...] = ()
    groups: tuple[GroupCount, ...] = ()


@dataclass(frozen=True, slots=True)
class TypeValue:
    """The value of a further indicator for a module type, with its 95 % interval over sequences.

    The interval is None below two sequences and has width 0 if the indicator ignores the data.
    """

    type: str
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class IndicatorScores:
    """A further indicator, measured at the same sites and on the same tokens as NFN.

    Attributes:
        indicator: Name in the registry of indicators.
        types: Values by module type, in the order in which the indicator chooses types.
        values: Value of each site in the order of `Scores.sites`, None if not measured.
        sums: Sums per site and sequence, for the counts of `Scores.measurements`. Empty if the
            indicator ignores the data.
    """

    indicator: str
    types: tuple[TypeValue, ...]
    values: tuple[float | None, ...] = field(repr=False)
    sums: tuple[tuple[float, ...], ...] = field(default=(), repr=False)


@dataclass(frozen=True, repr=False)
class Scores(Record):
    """NFN of every module type and site of a model on a data sample; `types` lowest first.

    `indicators` are those that were recorded beside NFN.
    """

    kind: ClassVar[str] = "scores"

    model: ModelReference
    types: tuple[TypeScore, ...]
    sites: tuple[SiteScore, ...]
    hosts: tuple[Host, ...]
    sequences: int
    tokens: int
    coverage: Coverage
    provenance: Provenance
    measurements: Measurements
    notes: tuple[str, ...] = ()
    stopping: Stopping | None = None
    references: Annotated[tuple[ReferenceChoice, ...], UNLESS_EMPTY] = ()
    indicators: Annotated[tuple[IndicatorScores, ...], UNLESS_EMPTY] = ()

    def __getitem__(self, name: str) -> TypeScore:
        """Return the score of a module type: `scores["q_proj"].nfn`.

        Raises:
            UnknownNameError: There is no such type (a KeyError). The text suggests the nearest.
        """
        for row in self.types:
            if row.type == name:
                return row
        names = self.type_names()
        raise UnknownNameError(
            f"There is no module type {name!r}.{nearest(str(name), names)} "
            f"These scores have: {', '.join(names)}."
        )

    def __contains__(self, name: object) -> bool:
        """Whether a module type of this name was scored."""
        return any(row.type == name for row in self.types)

    def __iter__(self) -> Iterator[TypeScore]:
        """Yield the module types, lowest NFN first."""
        return iter(self.types)

    def to_pandas(self, rows: str = "types") -> DataFrame:
        """Return the scores as a `pandas.DataFrame`, further indicators in columns of their names.

        Args:
            rows: `types` for one row a module type, `sites` for one row a weight.

        Raises:
            UsageError: `rows` is neither.
        """
        if rows == "types":
            of_types = {
                held.indicator: {row.type: row.value for row in held.types}
                for held in self.indicators
            }
            types = frame(self.types)
            return types.assign(**{n: types["type"].map(known) for n, known in of_types.items()})
        if rows == "sites":
            of_sites = {held.indicator: held.values for held in self.indicators}
            return frame(self.sites).drop(columns="experts").assign(**of_sites)
        raise UsageError(f"There are no rows {rows!r}. Allowed: types, sites.")

    def type_names(self, *, eligible_only: bool = False) -> list[str]:
        """Return the names of the types, lowest NFN first."""
        return [row.type for row in self.types if row.eligible or not eligible_only]
