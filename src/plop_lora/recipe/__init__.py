"""The user's YAML as frozen models. Unknown keys are rejected, and every field has a description.

There is one section per verb, and the options of the command line are made from its fields. Imports
pydantic and PyYAML; no torch.
"""

from plop_lora.recipe.ab import (
    ArmSettings,
    ExperimentRecipe,
    ExperimentSettings,
    MetricSettings,
)
from plop_lora.recipe.finetune import (
    RUNNERS,
    DataRecipe,
    FinetuneRecipe,
    GeneralRecipe,
    Price,
    Runner,
)
from plop_lora.recipe.gate import GateRecipe, GateSettings
from plop_lora.recipe.placing import PlacementSettings, PlaceRecipe
from plop_lora.recipe.scoring import USUAL_TOP, ScoreRecipe, ScoringSettings
from plop_lora.recipe.section import WITH_OPTION, Section, option_of
from plop_lora.recipe.tune import TuneDesign, TuneRecipe
from plop_lora.recipe.verify import VerifyDesign, VerifyRecipe

__all__ = [
    "RUNNERS",
    "USUAL_TOP",
    "WITH_OPTION",
    "ArmSettings",
    "DataRecipe",
    "ExperimentRecipe",
    "ExperimentSettings",
    "FinetuneRecipe",
    "GateRecipe",
    "GateSettings",
    "GeneralRecipe",
    "MetricSettings",
    "PlaceRecipe",
    "PlacementSettings",
    "Price",
    "Runner",
    "ScoreRecipe",
    "ScoringSettings",
    "Section",
    "TuneDesign",
    "TuneRecipe",
    "VerifyDesign",
    "VerifyRecipe",
    "option_of",
]
