"""Placement: which weights get an adapter of which rank, and why."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, model_validator

from plop_lora.errors import UsageError
from plop_lora.records.base import Record, frame
from plop_lora.records.scores import Host, ModelReference

if TYPE_CHECKING:
    from pandas import DataFrame
    from peft import LoraConfig
    from torch import nn


class GapVerdict(StrEnum):
    """Whether the scores separate two types, or the chosen types from the others.

    `decided` means that the interval of the difference excludes zero, and `tie` that neither is
    better by more than a tolerance, which is recorded beside the verdict.
    """

    DECIDED = "decided"
    UNDECIDED = "undecided, score more data"
    TIE = "tie"
    UNSCORED = "not decided by scores"


DECIDED, UNDECIDED, TIE, UNSCORED = GapVerdict
_TIE_IN_WORDS = re.compile(r"a tie within (\d+(?:\.\d+)?(?:e[+-]\d+)?)")
"""The verdict of a tie in older files, in which it contains the tolerance."""


def _with_tolerance(values: object) -> object:
    """Return the values of a record with the tolerance of a tie in a field of its own."""
    if not isinstance(values, dict):
        return values
    found = _TIE_IN_WORDS.fullmatch(str(values.get("verdict")))
    return values if found is None else values | {"verdict": TIE, "tolerance": float(found[1])}


Tolerance = Annotated[float | None, Field(exclude_if=lambda value: value is None)]


@dataclass(frozen=True, slots=True)
class PlacedSite:
    """One adapter: its weight, LoRA rank, alpha and number of trainable parameters.

    `is_parameter` marks a parameter that stacks `copies` experts, which trainers do not address as
    a module. Each expert gets the rank.
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
    """Settings of the adapters that do not depend on their place.

    Attributes:
        rslora: Whether to scale by alpha / sqrt(rank) instead of alpha / rank (arXiv 2312.03732).
        loraplus_ratio: Learning rate of B divided by that of A (LoRA+, arXiv 2402.12354), or None.
        init: Initialisation by the name that PEFT gives it; `default` is PEFT's default.
        dropout: Dropout probability of the LoRA layers; 0 where stacked experts are adapted.
    """

    rslora: bool = False
    loraplus_ratio: float | None = None
    init: str = "default"
    dropout: float = 0.0


@dataclass(frozen=True, slots=True)
class Gap:
    """Paired difference in the indicator, `other` minus the chosen type, with its 95 % interval.

    `tolerance` is the tolerance of a tie, in units of the indicator, and otherwise None.
    """

    other: str
    difference: float
    low: float | None
    high: float | None
    verdict: GapVerdict
    tolerance: Tolerance = None

    _read = model_validator(mode="before")(_with_tolerance)


@dataclass(frozen=True, slots=True)
class Choice:
    """A chosen module type: its score (None without one), its ranks and its gaps to other types.

    `nfn` is None where another indicator ranks the types; its value is then `value`. `low` and
    `high` are the bounds of either.

    `next` is the gap to the following type in the order of the strategy and `left_out` the gap to
    the nearest type that was not chosen, or None where there is no such type. `forced` names the
    slices of a fused weight that are adapted with it although they would not be chosen alone.
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
        """The value by which the type was ranked: NFN, or `value` of another indicator."""
        return self.nfn if self.value is None else self.value


@dataclass(frozen=True, repr=False)
class Placement(Record):
    """Weights with rank and alpha, why they were chosen, and which weights stay untouched.

    `scaling` is the factor by which B·A is multiplied, the same for every adapter: alpha / rank, or
    alpha / sqrt(rank) with `settings.rslora`. `hosts` are all weights of known size, with or
    without an adapter, and `untouched` names every weight without an adapter, of known size or
    not. `indicator` is the indicator that ranks the types. `verdict` says whether the scores
    separate the chosen types from the others, and `tolerance` is the tolerance of a tie.
    """

    kind: ClassVar[str] = "placement"

    model: ModelReference
    strategy: str
    verdict: GapVerdict
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
    tolerance: Tolerance = None

    _read = model_validator(mode="before")(_with_tolerance)

    def to_peft(
        self, model: nn.Module | None = None, *, dry_run: bool = True, allow_loss: bool = False
    ) -> LoraConfig:
        """Return the placement as `peft.LoraConfig`; see `exports.trainers.peft.to_peft`."""
        from plop_lora.exports.trainers.peft import to_peft

        return to_peft(self, model, dry_run=dry_run, allow_loss=allow_loss)

    def to_pandas(self, rows: str = "choices") -> DataFrame:
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
            to: Name of a trainer, such as `axolotl`. This and the other arguments, and the errors,
                are those of `plop_lora.export`.
            dry_run: Whether the file is first applied with the real library and compared.
            allow_loss: Whether the file is written even if it cannot express all of the placement.
            serve: Inference server that will serve the trained adapter.
        """
        from plop_lora.exports.dispatch import export

        return export(self, folder, to=to, dry_run=dry_run, allow_loss=allow_loss, serve=serve).path
