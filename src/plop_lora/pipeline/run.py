"""The step `run`: the stages in their order, each of them once, and what they say together.

A run that was stopped at any moment goes on where it was when it is called again with the same
folder. Imports no torch by itself.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plop_lora._version import __version__
from plop_lora.errors import UsageError, nearest
from plop_lora.files import atomic_file
from plop_lora.pipeline.asked import RunRecipe
from plop_lora.pipeline.changes import reason
from plop_lora.pipeline.folder import CONFIGURATION, RECORD, check_run_folder, finish, finished
from plop_lora.pipeline.folder import DONE as FINISHED
from plop_lora.pipeline.folder import opened as opened_folder
from plop_lora.pipeline.stage import Stage, Work, folder_of, key_of
from plop_lora.records.run import DONE, OPEN_STAGE, PARTLY, REUSED, PipelineRun, StageRun
from plop_lora.training.runners.events import Watch, ignore

Tell = Callable[[StageRun], None]
"""What is told of every stage, when it begins and when it is done."""


@dataclass
class _Progress:
    """What is known of the stages so far."""

    recipe: RunRecipe
    root: Path
    watch: Watch
    keys: dict[str, str] = field(default_factory=dict)
    made: dict[str, Path] = field(default_factory=dict)
    stages: list[StageRun] = field(default_factory=list)

    def work(self, stage: Stage, key: str) -> Work:
        return Work(
            recipe=self.recipe,
            folder=self.root / folder_of(stage.name, key),
            scratch=self.root / "scratch" / stage.name,
            made={name: self.made[name] for name in stage.needs if name in self.made},
            watch=self.watch,
        )

    def record(self, waiting: str = "") -> PipelineRun:
        return PipelineRun(
            folder=str(self.root),
            model=self.recipe.model,
            recipe_digest=self.recipe.digest(),
            stages=tuple(self.stages),
            plop_version=__version__,
            waiting=waiting,
        )


def run_stages(
    stages: Iterable[Stage],
    recipe: RunRecipe,
    root: Path,
    *,
    until: str = "",
    redo: str = "",
    watch: Watch = ignore,
    tell: Tell = lambda stage: None,
) -> PipelineRun:
    """Run what is not done yet, and return what all stages say.

    Args:
        stages: Stages in their order.
        recipe: Recipe of the run.
        root: Folder of the run.
        until: Name of the last stage to run; empty for all.
        redo: Name of the stage from which on everything is made again, though it is done.
        watch: Function that is told of every trial.
        tell: Function that is told of every stage.

    Raises:
        UsageError: There is no such stage, or the folder is in use or not one of a run.
        RecordError: A file of a finished stage has changed since.
        PlopError: What a stage raises. What was done before it stays done.
    """
    chosen = _until(list(stages), until)
    again = _from(chosen, redo)
    with opened_folder(root):
        progress = _Progress(recipe, root, watch)
        waiting = ""
        for stage in chosen:
            configuration = stage.configuration(recipe, progress.keys)
            key = key_of(configuration)
            made = _done(progress, stage, key, again=stage in again)
            if made is None:
                made = _make(progress, stage, configuration, key, tell)
            tell(made)
            progress.stages.append(made)
            progress.keys[stage.name] = key
            progress.made[stage.name] = root / made.folder
            waiting = made.outcome.waiting if made.outcome is not None else ""
            if waiting:
                break
        record = progress.record(waiting)
        record.save(root / RECORD)
    return record


def plan_stages(
    stages: Iterable[Stage], recipe: RunRecipe, root: Path, *, until: str = "", redo: str = ""
) -> PipelineRun:
    """Return what `run_stages` would do and why; nothing is run and nothing is written.

    Raises:
        PlopError: What `run_stages` would raise before a stage runs.
    """
    chosen = _until(list(stages), until)
    again = _from(chosen, redo)
    check_run_folder(root)
    progress = _Progress(recipe, root, ignore)
    for stage in chosen:
        configuration = stage.configuration(recipe, progress.keys)
        key = progress.keys[stage.name] = key_of(configuration)
        there = _done(progress, stage, key, again=stage in again)
        if there is None:
            there = _planned(progress, stage, configuration, key, again=stage in again)
        else:
            progress.made[stage.name] = root / there.folder
        progress.stages.append(there)
    return progress.record()


def _until(stages: list[Stage], name: str) -> list[Stage]:
    if not name:
        return stages
    return stages[: _place(stages, name, "--until") + 1]


def _from(stages: list[Stage], name: str) -> list[Stage]:
    return stages[_place(stages, name, "--from") :] if name else []


def _place(stages: list[Stage], name: str, option: str) -> int:
    names = [stage.name for stage in stages]
    if name not in names:
        raise UsageError(
            f"{option} {name}: this run has no such stage.{nearest(name, names)} It has: "
            f"{', '.join(names)}."
        )
    return names.index(name)


def _done(progress: _Progress, stage: Stage, key: str, *, again: bool) -> StageRun | None:
    """Return a stage that is done already, None if it is to be made."""
    folder = folder_of(stage.name, key)
    done = finished(progress.root / folder, key)
    if done is None or again:
        return None
    return StageRun(
        stage=stage.name,
        key=key,
        state=REUSED,
        folder=folder.as_posix(),
        result=(folder / stage.result).as_posix(),
        seconds=done.seconds,
        outcome=stage.outcome(progress.root / folder),
    )


def _planned(
    progress: _Progress, stage: Stage, configuration: Mapping[str, Any], key: str, *, again: bool
) -> StageRun:
    folder = folder_of(stage.name, key)
    begun = (progress.root / folder).exists()
    ready = all(name in progress.made for name in stage.needs)
    return StageRun(
        stage=stage.name,
        key=key,
        state=PARTLY if begun and not again else OPEN_STAGE,
        folder=folder.as_posix(),
        result=(folder / stage.result).as_posix(),
        reason="--from asks for it" if again else reason(progress.root, stage.name, configuration),
        estimate=stage.estimate(progress.work(stage, key)) if ready else "",
    )


def _make(
    progress: _Progress, stage: Stage, configuration: Mapping[str, Any], key: str, tell: Tell
) -> StageRun:
    """Run a stage, and say that it is done when all of it is."""
    work = progress.work(stage, key)
    if (work.folder / FINISHED).exists():
        # It is made again on request; half of an old result must not look like a new one.
        shutil.rmtree(work.folder)
    tell(_planned(progress, stage, configuration, key, again=False))
    work.folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(work.folder / CONFIGURATION) as file:
        json.dump(configuration, file, indent=1, ensure_ascii=False)
    started = time.monotonic()
    stage.work(work)
    seconds = time.monotonic() - started
    finish(work.folder, key, seconds)
    folder = folder_of(stage.name, key)
    return StageRun(
        stage=stage.name,
        key=key,
        state=DONE,
        folder=folder.as_posix(),
        result=(folder / stage.result).as_posix(),
        seconds=seconds,
        outcome=stage.outcome(work.folder),
    )
