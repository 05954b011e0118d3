"""The entries to the pipeline: run a recipe, say what it would take, and how a run stands.

Imports no torch by itself.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from plop_lora.errors import RecordError, UsageError
from plop_lora.pipeline.asked import RunRecipe
from plop_lora.pipeline.folder import RECORD, check_run_folder, finished, is_busy
from plop_lora.pipeline.run import Tell, plan_stages, run_stages
from plop_lora.pipeline.stages import stages_of
from plop_lora.records import PipelineRun
from plop_lora.training.runners.events import Watch, ignore

HOME = "plop-run"


def run(
    recipe: str | Path,
    *,
    folder: str | Path = HOME,
    until: str = "",
    redo: str = "",
    watch: Watch = ignore,
    **settings: object,
) -> PipelineRun:
    """Run the pipeline of a recipe, from its data to a decision.

    Called again with the same folder it does nothing that is done already. A stage is done again if
    something that its result depends on has changed: its part of the recipe, the content of its
    data, the model, or a stage before it.

    Args:
        recipe: YAML file with the keys of all verbs.
        folder: Folder of the run.
        until: Name of the last stage to run; empty for all.
        redo: Name of the stage from which on everything is made again.
        watch: Function that is told of every trial that starts or ends.
        settings: Keys of the recipe, which take precedence, such as `run={"adapter": "out"}`.

    Returns:
        What every stage says; its `exit_code` is 0 where the finetunes confirm the shortlist and
        the gate passes, 3 where the gate fails, 4 where something could not be decided, 5 where a
        rival was better than the shortlist.

    Raises:
        PlopError: What a stage raises. What was done before it stays done.
    """
    asked = RunRecipe.read(recipe, settings)
    return start(asked, Path(folder), until=until, redo=redo, watch=watch)


def start(
    recipe: RunRecipe,
    folder: Path,
    *,
    until: str = "",
    redo: str = "",
    watch: Watch = ignore,
    tell: Tell = lambda stage: None,
) -> PipelineRun:
    """Run a recipe that has been read; see `run`."""
    return run_stages(
        stages_of(recipe), recipe, folder, until=until, redo=redo, watch=watch, tell=tell
    )


def plan(
    recipe: RunRecipe | str | Path, folder: str | Path = HOME, *, until: str = "", redo: str = ""
) -> PipelineRun:
    """Return what `run` would do and why. Nothing is run and nothing is written.

    Raises:
        PlopError: What `run` would raise before its first stage.
    """
    asked = recipe if isinstance(recipe, RunRecipe) else RunRecipe.read(recipe)
    return plan_stages(stages_of(asked), asked, Path(folder), until=until, redo=redo)


def stands(folder: str | Path) -> PipelineRun:
    """Return how the run in a folder stands, whatever has become of its recipe and data.

    Raises:
        UsageError: The folder is none of a run.
        RecordError: A file of a finished stage has changed.
    """
    root = Path(folder)
    check_run_folder(root)
    if not (root / RECORD).exists():
        raise UsageError(f"There is no run in {root}. Start one with: plop run recipe.yaml")
    record = PipelineRun.load(root / RECORD)
    for stage in record.stages:
        if stage.outcome is not None and finished(stage.folder_in(root), stage.key) is None:
            raise RecordError(
                f"The folder of the stage {stage.stage} is gone from {root}. Start the run again, "
                "which makes it."
            )
    notes = ("a process works in it now",) if is_busy(root) else ()
    return replace(record, folder=str(root), notes=notes)
