"""The saved records: frozen dataclasses, one JSON document each."""

from plop_lora.records.base import Record
from plop_lora.records.comparison import Comparison, TypeDifference
from plop_lora.records.placement import (
    DECIDED,
    UNDECIDED,
    UNSCORED,
    AdapterSettings,
    Choice,
    Gap,
    PlacedSite,
    Placement,
)
from plop_lora.records.scores import (
    Coverage,
    ExpertScore,
    Host,
    Measurements,
    ModelReference,
    NotMeasured,
    Provenance,
    Scores,
    SiteScore,
    TypeScore,
)

__all__ = [
    "DECIDED",
    "UNDECIDED",
    "UNSCORED",
    "AdapterSettings",
    "Choice",
    "Comparison",
    "Coverage",
    "ExpertScore",
    "Gap",
    "Host",
    "Measurements",
    "ModelReference",
    "NotMeasured",
    "PlacedSite",
    "Placement",
    "Provenance",
    "Record",
    "Scores",
    "SiteScore",
    "TypeDifference",
    "TypeScore",
]
