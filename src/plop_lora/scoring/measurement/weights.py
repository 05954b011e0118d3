"""The indicators of weights, each computed once for every weight. Shape letters: E expert, O, I."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from plop_lora.errors import MeasurementError
from plop_lora.indicators import NotComputableError, OfWeights
from plop_lora.scoring.sites.find import Site

Weights = dict[str, dict[str, list[float] | str]]
"""Values of indicators of weights, by indicator and name of the site: one value per expert, or the
reason why there is none. A weight that cannot be read is absent."""


@dataclass
class WeightValues:
    """Computes the indicators of weights that are not known yet.

    Attributes:
        sites: The measured sites.
        measures: The indicators, by name.
        seed: Seed of their random draws.
        known: Values by indicator and site, to which `result` adds new ones.
    """

    sites: Sequence[Site]
    measures: Mapping[str, OfWeights]
    seed: int
    known: Weights
    _new: dict[tuple[str, int], torch.Tensor | str] = field(default_factory=dict)

    def add(self, index: int, weight: Callable[[], torch.Tensor | None]) -> None:
        """Compute the values of a site, whose weight the function returns as [O, I] or [E, O, I].

        Nothing is copied to the host where an indicator does not need it.
        """
        name = self.sites[index].name
        for indicator, measure in self.measures.items():
            if (indicator, index) in self._new or name in self.known.get(indicator, {}):
                continue
            given = weight()
            if given is None:
                continue
            matrices = given if given.ndim == 3 else given[None]
            try:
                values = [measure.per_weight(weight_OI, self.seed) for weight_OI in matrices]
            except NotComputableError as reason:
                self._new[indicator, index] = str(reason)
            else:
                self._new[indicator, index] = torch.stack(values)

    def result(self) -> Weights:
        """Return the values of the measured sites, and add new ones to `known`.

        Raises:
            MeasurementError: A value is NaN or infinite.
        """
        for (indicator, index), found in self._new.items():
            site = self.sites[index].name
            numbers = found if isinstance(found, str) else found.float().tolist()
            if not isinstance(numbers, str) and not np.isfinite(numbers).all():
                raise MeasurementError(
                    f"The indicator {indicator!r} is NaN or infinity for the weight of {site}. "
                    f"Leave out --indicator {indicator}."
                )
            self.known.setdefault(indicator, {})[site] = numbers
        names = {site.name for site in self.sites}
        known = {indicator: self.known.get(indicator, {}) for indicator in self.measures}
        return {
            indicator: {site: numbers[site] for site in numbers if site in names}
            for indicator, numbers in known.items()
        }
