"""The settings of a measurement, in a form that can be sent to a worker on another machine."""

from __future__ import annotations

from dataclasses import dataclass

from plop_lora.indicators import INDICATORS, NFN, Indicator, OfFeatures, OfWeights
from plop_lora.models.origin import PLAIN, Origin


@dataclass(frozen=True, slots=True)
class IndicatorSettings:
    """The indicators to compute for every site: NFN, and any further ones.

    Attributes:
        denominator: `analytic` or `monte_carlo`, see `expected_norms.expected_norm`.
        seed: Seed of the random draws of the denominator and of other estimates.
        further: Indicators in addition to NFN; those that follow from a record are ignored here.
    """

    denominator: str = "analytic"
    seed: int = 0
    further: tuple[Indicator, ...] = ()

    @property
    def features(self) -> dict[str, OfFeatures]:
        """The indicators that are computed from the rows of every call, NFN first."""
        measures = {row.name: row.measure for row in (INDICATORS[NFN], *self.further)}
        return {name: kind for name, kind in measures.items() if isinstance(kind, OfFeatures)}

    @property
    def weights(self) -> dict[str, OfWeights]:
        """The indicators that are computed once for every weight."""
        measures = {row.name: row.measure for row in self.further}
        return {name: kind for name, kind in measures.items() if isinstance(kind, OfWeights)}


NFN_ALONE = IndicatorSettings()


@dataclass(frozen=True, slots=True)
class MeasurementSettings:
    """The model and the options of a measurement.

    Attributes:
        model: Hub id or local folder; None for a model that was given as a module.
        device: Device of the model, or `auto`.
        dtype: Dtype of the weights, or `auto`.
        include: Shell patterns of the sites to score.
        exclude: Shell patterns of the sites to leave out.
        denominator: `analytic` or `monte_carlo`.
        seed: Seed of the random draws.
        cache: Whether expected norms are cached on disk.
        origin: Revision, token, and whether code beside the weights may run.
        further: Indicators to record in addition to NFN.
    """

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
        """The indicators to compute for every site."""
        return IndicatorSettings(self.denominator, self.seed, self.further)
