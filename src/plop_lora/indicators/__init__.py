"""Indicators by which module types are ranked: NFN and alternatives. Does not import torch."""

from plop_lora.indicators.estimates import estimator
from plop_lora.indicators.kinds import (
    FeatureRows,
    NotComputableError,
    OfFeatures,
    OfModels,
    OfRecords,
    OfReferences,
    OfWeights,
)
from plop_lora.indicators.registry import (
    CONTRAST,
    INDICATORS,
    NFN,
    Indicator,
    find_indicator,
    recorded_indicator,
    recorded_indicators,
)

__all__ = [
    "CONTRAST",
    "INDICATORS",
    "NFN",
    "FeatureRows",
    "Indicator",
    "NotComputableError",
    "OfFeatures",
    "OfModels",
    "OfRecords",
    "OfReferences",
    "OfWeights",
    "estimator",
    "find_indicator",
    "recorded_indicator",
    "recorded_indicators",
]
