"""A learned rule of placement: what it was fitted on, its coefficients, and what it is worth."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from pydantic import Field

from plop_lora.records.base import Record

_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryType:
    """What a learned rule may know of a module type before any training.

    Attributes:
        type: Name of the module type, of the weights that carry an adapter.
        part: What the type does in a block, such as `query` or `down`; its own name where that is
            not known. Types of one part are alike in all models.
        attention: Whether it belongs to the attention.
        nfn: Mean NFN.
        in_features: Mean number of inputs of its weights.
        out_features: Mean number of outputs of its weights.
        parameters: Number of parameters of all its weights.
        further: Values of further indicators by name, turned so that higher values come first.
    """

    type: str
    part: str
    attention: bool
    nfn: _Finite
    in_features: _Positive
    out_features: _Positive
    parameters: _Positive
    further: dict[str, _Finite] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryArm:
    """A placement that was trained: its module types, and its gain over the untrained model.

    The gain is in the unit of the metric, above 0 where the trained model is better. `arm` is the
    name of a rule, or `type:NAME` for one module type alone.
    """

    arm: str
    types: tuple[str, ...]
    gain: _Finite


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryPair:
    """The trials of one network on one task, all of one budget; it holds no text.

    Attributes:
        name: Name of the pair, for tables.
        network: Key of the network. Pairs with the same key are left out together.
        metric: Metric of the gains.
        source: Where the trials are from: `study`, or the digest of a verification.
        types: Module types of the network.
        arms: Placements that were trained.
    """

    name: str
    network: str
    metric: str
    source: str
    types: tuple[HistoryType, ...]
    arms: tuple[HistoryArm, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOutPair:
    """What a rule that was fitted without a pair's network would have chosen there.

    `gain` is the gain of the chosen arm minus that of the default placement, and `regret` what the
    chosen arm leaves of the best gain; both are shares of the best gain.
    """

    pair: str
    network: str
    chosen: str
    gain: float
    regret: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleRegret:
    """The regret of a rule: its mean over pairs, with a 95 % interval over networks."""

    rule: str
    mean: float
    low: float | None
    high: float | None
    pairs: int


@dataclass(frozen=True, repr=False, kw_only=True)
class LearnedModel(Record):
    """A regularised linear model of the gain of a placement, and its cross-validated worth.

    The predicted gain of a placement is the sum of its features times their coefficients, in
    shares of the best gain, up to a constant of the model. `parts` are those of the module types
    that it was fitted on. `gain` is the mean over pairs of what it gains over the default placement
    where the network was left out of the fit, and `low` and `high` are the 95 % interval over
    networks, of which each counts the same; None where there are too few.
    """

    kind: ClassVar[str] = "learned-model"

    features: tuple[str, ...]
    coefficients: tuple[_Finite, ...]
    penalty: _Positive
    further: tuple[str, ...]
    parts: tuple[str, ...]
    gain: _Finite | None
    low: _Finite | None
    high: _Finite | None
    left_out: tuple[LeftOutPair, ...]
    rules: tuple[RuleRegret, ...]
    history: tuple[HistoryPair, ...]
    plop_version: str
    notes: tuple[str, ...] = ()

    @property
    def abstains(self) -> bool:
        """Whether it always leaves the default placement as it is.

        It does unless the interval of its gain on left-out networks lies above 0.
        """
        return self.low is None or not self.low > 0

    @property
    def networks(self) -> int:
        """Number of networks that it was fitted on."""
        return len({pair.network for pair in self.history})
