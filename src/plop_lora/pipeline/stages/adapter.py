"""The stage `finetune`: the adapter that ships, trained here or by a trainer of the user's.

Whoever has a trainer gets its configuration, and the run waits until `--adapter` names the folder
of what it has trained.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from plop_lora.errors import RecordError
from plop_lora.files import atomic_file
from plop_lora.pipeline.asked import RunRecipe
from plop_lora.pipeline.reading import EVAL, TRAIN, code_of, general_content
from plop_lora.pipeline.stage import Stage, Work
from plop_lora.pipeline.stages import proof
from plop_lora.recipe import FinalRecipe
from plop_lora.recipe.run import OWN_TRAINER
from plop_lora.records import Finetune, Placement, Tuning, Verification
from plop_lora.records.run import StageOutcome
from plop_lora.reports.brief import brief

RESULT, TRAINED, GIVEN, HANDED = "finetune.json", "finetune", "adapter.json", "trainer"
_FREE = {"runner", "report_to", "train", "eval"}


def chosen_placement(folder: Path) -> Placement:
    """Return the placement that the stage before has decided for.

    Args:
        folder: Folder of the stage `verify` or `tune`.
    """
    path = folder / proof.RESULTS["verify"]
    if path.exists():
        record = Verification.load(path)
        return record.better_placement or record.placement
    return Tuning.load(folder / proof.RESULTS["tune"]).placement


def adapter_in(work: Work) -> Path:
    """Return the folder of the adapter that the stage `finetune` has made or was given."""
    folder = work.made["finetune"]
    given = folder / GIVEN
    if given.exists():
        return Path(json.loads(given.read_text(encoding="utf-8"))["adapter"])
    return folder / TRAINED / "adapter"


def _recipe(recipe: RunRecipe, rows: Path | None) -> FinalRecipe:
    folder = rows or Path()
    return recipe.section(FinalRecipe, train=str(folder / TRAIN), eval=str(folder / EVAL))
