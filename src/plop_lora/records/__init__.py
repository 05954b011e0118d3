"""The saved records: frozen dataclasses, one JSON document each."""

from plop_lora.records.base import Record
from plop_lora.records.comparison import Comparison, TypeDifference
from plop_lora.records.placement import (
    DECIDED,
    TIE,
    UNDECIDED,
    UNSCORED,
    AdapterSettings,
    Choice,
    Gap,
    PlacedSite,
    Placement,
)
from plop_lora.records.scores import (
    BoundaryPair,
    Coverage,
    ExpertScore,
    GroupCount,
    Host,
    Measurements,
    ModelReference,
    NotMeasured,
    Provenance,
    Scores,
    SiteScore,
    Stopping,
    TypeScore,
)

__all__ = [
    "DECIDED",
    "TIE",
    "UNDECIDED",
    "UNSCORED",
    "AdapterSettings",
    "BoundaryPair",
    "Choice",
    "Comparison",
    "Coverage",
    "ExpertScore",
    "Gap",
    "GroupCount",
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
    "Stopping",
    "TypeDifference",
    "TypeScore",
]
