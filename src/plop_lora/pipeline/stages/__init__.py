"""The stages of a run: what each of them reads, does and says, one file each."""

from __future__ import annotations

from plop_lora.pipeline.asked import RunRecipe
from plop_lora.pipeline.stage import Stage
from plop_lora.pipeline.stages.acquire import ACQUIRE
from plop_lora.pipeline.stages.adapter import finetune_stage
from plop_lora.pipeline.stages.gate import GATE
from plop_lora.pipeline.stages.handing import export_stage
from plop_lora.pipeline.stages.place import PLACE
from plop_lora.pipeline.stages.proof import TUNE_STAGE, VERIFY_STAGE
from plop_lora.pipeline.stages.score import SCORE
from plop_lora.recipe.run import VERIFY


def stages_of(recipe: RunRecipe) -> list[Stage]:
    """Return the stages of a run in their order."""
    proven = VERIFY_STAGE if recipe.run.proof == VERIFY else TUNE_STAGE
    last = (finetune_stage(proven.name), GATE, export_stage(proven.name))
    return [ACQUIRE, SCORE, PLACE, proven, *last]
