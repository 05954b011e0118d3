"""Indicators by which module types are ranked: NFN and alternatives. Does not import torch."""

from plop_lora.indicators.estimates import estimator
from plop_lora.indicators.kinds import FeatureRows, OfFeatures, OfModels, OfRecords, OfWeights
from plop_lora.indicators.registry import (
    INDICATORS,
    NFN,
    Indicator,
    find_indicator,
    recorded_indicator,
)

__all__ = [
    "INDICATORS",
    "NFN",
    "FeatureRows",
    "Indicator",
    "OfFeatures",
    "OfModels",
    "OfRecords",
    "OfWeights",
    "estimator",
    "find_indicator",
    "recorded_indicator",
]
