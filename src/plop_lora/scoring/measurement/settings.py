"""What decides a measurement beside its batches, for a worker that measures somewhere else."""

from __future__ import annotations

from dataclasses import dataclass

from plop_lora.indicators import INDICATORS, NFN, Indicator, OfFeatures, OfWeights
from plop_lora.models.origin import PLAIN, Origin


@dataclass(frozen=True, slots=True)
class IndicatorSettings:
    """What is measured of every site: NFN, and what was asked for beside it.

    Attributes:
        denominator: `analytic` or `monte_carlo`, see `expected_norms.expected_norm`.
        seed: Seed of the denominator, and of what estimates from draws.
        further: Indicators beside NFN; those that follow from a record are not measured.
    """

    denominator: str = "analytic"
    seed: int = 0
    further: tuple[Indicator, ...] = ()

    @property
    def features(self) -> dict[str, OfFeatures]:
        """The indicators that are given the rows of every call, NFN first."""
        measures = {row.name: row.measure for row in (INDICATORS[NFN], *self.further)}
        return {name: kind for name, kind in measures.items() if isinstance(kind, OfFeatures)}

    @property
    def weights(self) -> dict[str, OfWeights]:
        """The indicators that are given every weight once."""
        measures = {row.name: row.measure for row in self.further}
        return {name: kind for name, kind in measures.items() if isinstance(kind, OfWeights)}


NFN_ALONE = IndicatorSettings()


@dataclass(frozen=True, slots=True)
class MeasurementSettings:
    """The model and the options; `model` is None for one that was given as a module."""

    model: str | None
    device: str
    dtype: str
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    denominator: str
    seed: int
    cache: bool
    origin: Origin = PLAIN
    further: tuple[Indicator, ...] = ()

    @property
    def indicators(self) -> IndicatorSettings:
        """What is measured of every site."""
        return IndicatorSettings(self.denominator, self.seed, self.further)
