"""Placement: which weights get an adapter of which rank, and why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from plop_lora.errors import UsageError
from plop_lora.records.base import Record, frame
from plop_lora.records.scores import Host, ModelReference

DECIDED = "decided"
UNDECIDED = "undecided, score more data"
TIE = "a tie within"
"""A verdict that begins with it ends in the tolerance, in NFN."""
UNSCORED = "not decided by scores"


@dataclass(frozen=True, slots=True)
class PlacedSite:
    """One adapter: the weight that takes it, its LoRA rank and alpha, what it trains.

    `is_parameter` marks a stack of `copies` experts held as one parameter, which trainers address
    by other means than a module; each expert gets the rank.
    """

    name: str
    type: str
    layer: int | None
    rank: Annotated[int, Field(ge=1)]
    alpha: Annotated[float, Field(gt=0)]
    parameters: Annotated[int, Field(ge=0)]
    copies: Annotated[int, Field(ge=1)] = 1
    is_parameter: bool = False


@dataclass(frozen=True, slots=True)
class AdapterSettings:
    """How the adapters are made, beyond where they stand.

    Attributes:
        rslora: scale by alpha / sqrt(rank) instead of alpha / rank (arXiv 2312.03732).
        loraplus_ratio: learning rate of B over that of A (LoRA+, arXiv 2402.12354), or None.
        init: PEFT's name of the initialisation, `default` for its own.
        dropout: LoRA dropout; 0 where experts held as one parameter are adapted.
    """

    rslora: bool = False
    loraplus_ratio: float | None = None
    init: str = "default"
    dropout: float = 0.0


@dataclass(frozen=True, slots=True)
class Gap:
    """Paired difference in the indicator, `other` minus the choice, with its 95 % interval."""

    other: str
    difference: float
    low: float | None
    high: float | None
    verdict: str


@dataclass(frozen=True, slots=True)
class Choice:
    """A chosen type: its score (None without one), its ranks, its distance to its neighbours.

    `nfn` is None where another indicator ranks the types, whose number is then `value`; `low` and
    `high` are the bounds of either.

    `next` is the gap to the following type in the order of the strategy, `left_out` the gap to
    the nearest type that was not chosen; None where there is no such type. `forced` names the
    slices of a fused weight that come along although they would not have been chosen alone.
    """

    type: str
    nfn: float | None
    low: float | None
    high: float | None
    modules: int
    lowest_rank: int
    highest_rank: int
    parameters: int
    next: Gap | None
    left_out: Gap | None
    forced: tuple[str, ...] = ()
    value: Annotated[float | None, Field(exclude_if=lambda value: value is None)] = None

    @property
    def score(self) -> float | None:
        """The number by which it was ranked: NFN, or `value` of another indicator."""
        return self.nfn if self.value is None else self.value


@dataclass(frozen=True, repr=False)
class Placement(Record):
    """Weights with rank and alpha, why they were chosen, and which weights stay untouched.

    `scaling` is the factor in front of B·A, the same for every adapter: alpha / rank, or
    alpha / sqrt(rank) with `settings.rslora`. `hosts` are all weights of known size, placed or
    not; `untouched` names every weight without an adapter, of known size or not. `indicator` names
    the one in whose order the types stand.
    """

    kind: ClassVar[str] = "placement"

    model: ModelReference
    strategy: str
    verdict: str
    choices: tuple[Choice, ...]
    sites: tuple[PlacedSite, ...]
    scaling: Annotated[float, Field(gt=0)]
    trainable_parameters: int
    budget: int | None
    hosts: tuple[Host, ...]
    untouched: tuple[str, ...]
    seed: int
    scores_digest: str | None
    plop_version: str
    settings: AdapterSettings = AdapterSettings()
    notes: tuple[str, ...] = ()
    indicator: Annotated[str, Field(exclude_if=lambda name: name == "nfn")] = "nfn"

    def to_peft(self, model: Any = None, *, dry_run: bool = True, allow_loss: bool = False) -> Any:
        """Return the placement as `peft.LoraConfig`; see `exports.trainers.peft.to_peft`."""
        from plop_lora.exports.trainers.peft import to_peft

        return to_peft(self, model, dry_run=dry_run, allow_loss=allow_loss)

    def to_pandas(self, rows: str = "choices") -> Any:
        """Return the placement as a `pandas.DataFrame`.

        Args:
            rows: `choices` for one row a chosen type, `sites` for one row an adapter.

        Raises:
            UsageError: `rows` is neither.
        """
        if rows not in ("choices", "sites"):
            raise UsageError(f"There are no rows {rows!r}. Allowed: choices, sites.")
        return frame(self.choices if rows == "choices" else self.sites)

    def export(
        self,
        folder: str | Path,
        to: str | None = None,
        *,
        dry_run: bool = True,
        allow_loss: bool = False,
        serve: str | None = None,
    ) -> Path:
        """Write the placement as a trainer's file and return its path.

        Args:
            folder: The folder that the file is written into.
            to: The name of a trainer, such as `axolotl`, as for `plop_lora.export`; the errors
                stand there too.
            dry_run: Whether the real library reads the file first, as there.
            allow_loss: Whether a loss is accepted, as there.
            serve: The server that will serve the trained adapter, as there.
        """
        from plop_lora.exports.dispatch import export

        return export(self, folder, to=to, dry_run=dry_run, allow_loss=allow_loss, serve=serve).path
