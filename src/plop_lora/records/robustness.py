"""Robustness: whether a choice of module types survives other texts, weights and checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from plop_lora.errors import UnknownNameError, nearest
from plop_lora.records.base import Record, frame
from plop_lora.records.measurements import UNLESS_EMPTY

if TYPE_CHECKING:
    from pandas import DataFrame


class Family(StrEnum):
    """What a variant changes."""

    SAMPLE = "sample"
    MIXTURE = "mixture"
    TEXTS = "texts"
    WEIGHTS = "weights"
    CHECKPOINT = "checkpoint"
    UNRELATED = "unrelated"


class Source(StrEnum):
    """Where the values of a variant come from."""

    RESAMPLED = "resampled from the scores"
    FORWARD = "one forward pass"
    SAVED = "saved scores"


class Outcome(StrEnum):
    """What becomes of the choice under one variant.

    `TIE` is another choice, or one that resamples make too rarely, whose types differ by no more
    than the tolerance. `OPEN` is the same choice where too many resamples make another one.
    """

    SAME = "same"
    TIE = "tie"
    OTHER = "other"
    OPEN = "open"


class Holding(StrEnum):
    """Whether the choice holds, over all variants that should not change it.

    `TIES` is a choice that changes only among types that tie within the tolerance, and `UNSETTLED`
    one that the texts do not decide.
    """

    HOLDS = "holds"
    TIES = "holds up to ties"
    CHANGES = "changes"
    UNSETTLED = "unsettled"


STEADY = 0.95
"""Share of the resamples from which on a choice counts as the same."""
BOOTSTRAP = "bootstrap"
"""Name of the variant that draws the same texts again."""


Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantResult:
    """The ranking and the choice under one variant, against those on all texts.

    Attributes:
        variant: Name of the variant, as `--variants` takes it.
        setting: What was varied, such as `16 texts`; empty for a variant of one setting.
        family: What the variant changes.
        source: Where its values come from.
        paired: Whether texts were resampled in pairs, each with its own variant.
        sequences: Number of texts.
        nfn: NFN by host type. Where the variant is a set of samples, it is the mean over them.
        chosen: Types of the lowest NFN, lowest first. Where the variant is a set of samples, it is
            the choice that most of them make.
        same_choice: Whether these are the types that are chosen on all texts.
        rival: The other choice that most draws make, or the choice of the variant if it is another
            one; empty if there is none.
        margin: Difference in NFN of the types by which the rival and the choice differ, on the
            texts that separate them less; None without a rival.
        near_tie: Whether the margin is within the tolerance.
        tau: Kendall's tau-b of the types' ranking against that on all texts. Where the variant is a
            set of samples, it is the median over them. None if it is undefined.
        tau_low: Lower bound of its 95 % interval over resampled texts, or of 95 % of the samples.
        tau_high: Upper bound of the interval.
        draws: Number of resamples or samples.
        unchanged: Share of the draws that make the choice of all texts.
        unchanged_low: Lower bound of the exact 95 % interval of the share (Clopper and Pearson),
            for the number of draws.
        unchanged_high: Upper bound of the interval.
        seconds: Time that it took.
        notes: What to know of this variant.
    """

    variant: str
    setting: str
    family: Family
    source: Source
    paired: bool
    sequences: int
    nfn: dict[str, float]
    chosen: tuple[str, ...]
    same_choice: bool
    rival: tuple[str, ...]
    margin: float | None
    near_tie: bool
    tau: float | None
    tau_low: float | None
    tau_high: float | None
    draws: int
    unchanged: Share
    unchanged_low: Share
    unchanged_high: Share
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The variant with its setting, `fewer-texts: 16 texts`."""
        return f"{self.variant}: {self.setting}" if self.setting else self.variant

    @property
    def related(self) -> bool:
        """Whether the variant is of other texts or weights that should not change the choice."""
        return self.family not in (Family.SAMPLE, Family.UNRELATED)

    @property
    def judged(self) -> bool:
        """Whether the verdict depends on it; fewer texts and unrelated texts are asked apart."""
        return self.related or self.variant == BOOTSTRAP

    @property
    def outcome(self) -> Outcome:
        """What becomes of the choice."""
        if self.same_choice and self.unchanged >= STEADY:
            return Outcome.SAME
        if self.near_tie:
            return Outcome.TIE
        return Outcome.OPEN if self.same_choice else Outcome.OTHER


@dataclass(frozen=True, slots=True)
class VariantLeftOut:
    """A variant that could not be had for this model and these texts, and the reason."""

    variant: str
    reason: str


@dataclass(frozen=True, repr=False, kw_only=True)
class Robustness(Record):
    """Whether the choice of module types survives variants of the texts, weights and checkpoints.

    `nfn` is that on all texts, by host type, and `chosen` are the `top` lowest. `scores_digest` is
    that of the scores that every variant is compared with. `advice` follows from the results.
    `forwards` counts passes over the texts, the first included. `sequence_ids` names the texts by
    a hash, as in `Measurements`; older records lack it.
    """

    kind: ClassVar[str] = "robustness"

    model: str
    architecture: str
    parameters: int
    data: str
    data_fingerprint: str
    sequences: int
    tokens: int
    nfn: dict[str, float]
    chosen: tuple[str, ...]
    top: int
    tolerance: float
    verdict: Holding
    advice: str
    results: tuple[VariantResult, ...]
    left_out: tuple[VariantLeftOut, ...]
    forwards: int
    elapsed_seconds: float
    seed: int
    scores_digest: str
    plop_version: str
    dtype: str
    device: str
    created: str
    prompt: str | None = None
    notes: tuple[str, ...] = ()
    sequence_ids: Annotated[tuple[str, ...], UNLESS_EMPTY] = field(default=(), repr=False)

    def __getitem__(self, name: str) -> VariantResult:
        """Return the result of a variant by its name: `robustness["fewer-texts: 16 texts"]`.

        Raises:
            UnknownNameError: There is no such result (a KeyError). The text suggests the nearest.
        """
        for result in self.results:
            if result.name == name:
                return result
        names = [result.name for result in self.results]
        raise UnknownNameError(
            f"There is no result {name!r}.{nearest(str(name), names)} There are: "
            f"{', '.join(names)}."
        )

    def __iter__(self) -> Iterator[VariantResult]:
        """Yield the results in the order of the record."""
        return iter(self.results)

    def to_pandas(self) -> DataFrame:
        """Return the results as a `pandas.DataFrame`, one row a variant."""
        return frame(self.results)
