"""The pipeline: from data to a decision, stage by stage, in a folder that goes on where it stopped.

Each stage is the step of a verb. Nothing is computed here. Imports no torch by itself.
"""

from plop_lora.pipeline.asked import RunRecipe
from plop_lora.pipeline.start import plan, run, stands, start

__all__ = ["RunRecipe", "plan", "run", "stands", "start"]
