"""The step `run`: the stages in their order, each of them once, and what they say together.

A run that was stopped at any moment goes on where it was when it is called again with the same
folder. Imports no torch by itself.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from plop_lora._version import __version__
from plop_lora.errors import UsageError, nearest
from plop_lora.files import atomic_file
from plop_lora.pipeline.asked import RunRecipe
from plop_lora.pipeline.changes import last_seconds, reason
from plop_lora.pipeline.folder import (
    ASKED,
    CONFIGURATION,
    RECORD,
    check_run_folder,
    finish,
    finished,
)
from plop_lora.pipeline.folder import DONE as FINISHED
from plop_lora.pipeline.folder import opened as opened_folder
from plop_lora.pipeline.stage import Stage, Work, folder_of, key_of
from plop_lora.records.run import (
    DONE,
    OPEN_STAGE,
    PARTLY,
    REUSED,
    PipelineRun,
    StageEstimate,
    StageRun,
    StageState,
)
from plop_lora.training.runners.events import Watch, ignore

Tell = Callable[[StageRun], None]
"""What is told of every stage, when it begins and when it is done."""


@dataclass(frozen=True, slots=True)
class _Identified:
    """A stage with everything that its result depends on."""

    stage: Stage
    configuration: Mapping[str, Any]
    key: str

    @property
    def folder(self) -> Path:
        """Its folder, relative to that of the run."""
        return folder_of(self.stage.name, self.key)

    def run(self, state: StageState, **values: Any) -> StageRun:
        """Return what became of it."""
        return StageRun(
            stage=self.stage.name,
            key=self.key,
            state=state,
            folder=self.folder.as_posix(),
            result=(self.folder / self.stage.result).as_posix(),
            **values,
        )


@dataclass
class _Progress:
    """What is known of the stages so far."""

    recipe: RunRecipe
    root: Path
    watch: Watch
    made: dict[str, Path] = field(default_factory=dict)
    stages: dict[str, StageRun] = field(default_factory=dict)

    def work(self, one: _Identified) -> Work:
        return Work(
            recipe=self.recipe,
            folder=self.root / one.folder,
            scratch=self.root / "scratch" / one.stage.name,
            made={name: self.made[name] for name in one.stage.needs if name in self.made},
            watch=self.watch,
        )

    def add(self, run: StageRun) -> None:
        self.stages[run.stage] = run
        if run.outcome is not None:
            self.made[run.stage] = self.root / run.folder

    def record(self) -> PipelineRun:
        said = [stage.outcome for stage in self.stages.values() if stage.outcome is not None]
        return PipelineRun(
            folder=str(self.root),
            model=self.recipe.model,
            recipe_digest=self.recipe.digest(),
            stages=tuple(self.stages.values()),
            plop_version=__version__,
            waiting=next((one.waiting for one in said if one.waiting), ""),
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
    asked = _asked(list(stages), until, redo)
    for stage in asked.again:
        stage.refresh(recipe)
    chosen, again = _identified(asked.stages, recipe), asked.again
    with opened_folder(root):
        progress = _Progress(recipe, root, watch)
        recipe.write(root / ASKED)
        for one in chosen:
            progress.add(_standing(progress, one, again=one.stage in again))
        for one in chosen:
            if progress.stages[one.stage.name].outcome is None:
                progress.add(_make(progress, one, tell))
            tell(progress.stages[one.stage.name])
            record = progress.record()
            record.save(root / RECORD)
            if record.waiting:
                break
    return record


def plan_stages(
    stages: Iterable[Stage], recipe: RunRecipe, root: Path, *, until: str = "", redo: str = ""
) -> PipelineRun:
    """Return what `run_stages` would do and why; nothing is run and nothing is written.

    Raises:
        PlopError: What `run_stages` would raise before a stage runs.
    """
    asked = _asked(list(stages), until, redo)
    chosen, again = _identified(asked.stages, recipe), asked.again
    check_run_folder(root)
    progress = _Progress(recipe, root, ignore)
    for one in chosen:
        stands = _standing(progress, one, again=one.stage in again)
        if stands.outcome is None:
            stands = replace(stands, estimate=_estimate(progress, one))
        progress.add(stands)
    return progress.record()


def _estimate(progress: _Progress, one: _Identified) -> StageEstimate | None:
    """Return what a stage would take: by its own plan, else what it took when it was last made."""
    if all(name in progress.made for name in one.stage.needs):
        planned = one.stage.estimate(progress.work(one))
        if planned is not None:
            return planned
    seconds = last_seconds(progress.root, one.stage.name)
    return None if seconds is None else StageEstimate(seconds=seconds, source="the last time")


def _identified(stages: Iterable[Stage], recipe: RunRecipe) -> list[_Identified]:
    """Return the stages with their keys; what is wrong with the recipe or the data is told here."""
    keys: dict[str, str] = {}
    found = []
    for stage in stages:
        configuration = stage.configuration(recipe, keys)
        keys[stage.name] = key_of(configuration)
        found.append(_Identified(stage, configuration, keys[stage.name]))
    return found


@dataclass(frozen=True, slots=True)
class _Asked:
    """The stages that are asked for, and those of them that are made again though they are done."""

    stages: list[Stage]
    again: list[Stage]


def _asked(stages: list[Stage], until: str, redo: str) -> _Asked:
    """Return the stages up to `until`, and those from `redo` on.

    Raises:
        UsageError: There is no such stage, or `redo` comes after `until`.
    """
    last = _place(stages, until, "--until") if until else len(stages) - 1
    if not redo:
        return _Asked(stages[: last + 1], [])
    first = _place(stages, redo, "--from")
    if first > last:
        raise UsageError(
            f"--from {redo} comes after --until {until}, so that nothing would be made. The order "
            f"is: {', '.join(stage.name for stage in stages)}."
        )
    return _Asked(stages[: last + 1], stages[first : last + 1])


def _place(stages: list[Stage], name: str, option: str) -> int:
    names = [stage.name for stage in stages]
    if name not in names:
        raise UsageError(
            f"{option} {name}: this run has no such stage.{nearest(name, names)} It has: "
            f"{', '.join(names)}."
        )
    return names.index(name)


def _standing(progress: _Progress, one: _Identified, *, again: bool) -> StageRun:
    """Return a stage that is done already, or why it is to be made."""
    folder = progress.root / one.folder
    done = None if again else finished(folder, one.key)
    if done is not None:
        return one.run(REUSED, seconds=done.seconds, outcome=one.stage.outcome(folder))
    why = reason(progress.root, one.stage.name, one.configuration)
    return one.run(
        PARTLY if folder.exists() and not again else OPEN_STAGE,
        reason="--from asks for it" if again else why,
    )


def _make(progress: _Progress, one: _Identified, tell: Tell) -> StageRun:
    """Run a stage, and say that it is done when all of it is."""
    work = progress.work(one)
    if (work.folder / FINISHED).exists():
        # It is made again on request; half of an old result must not look like a new one.
        shutil.rmtree(work.folder)
    tell(progress.stages[one.stage.name])
    work.folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(work.folder / CONFIGURATION) as file:
        json.dump(one.configuration, file, indent=1, ensure_ascii=False)
    started = time.monotonic()
    one.stage.work(work)
    seconds = time.monotonic() - started
    finish(work.folder, one.key, seconds)
    return one.run(DONE, seconds=seconds, outcome=one.stage.outcome(work.folder))
