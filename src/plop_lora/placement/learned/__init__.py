"""A placement rule that is fitted to finished trials, and abstains unless it is worth it."""

from plop_lora.placement.learned.advice import Advice, advise, study_model
from plop_lora.placement.learned.features import features_of, further_indicators, history_types
from plop_lora.placement.learned.fit import DEFAULT, fit

__all__ = [
    "DEFAULT",
    "Advice",
    "advise",
    "features_of",
    "fit",
    "further_indicators",
    "history_types",
    "study_model",
]
