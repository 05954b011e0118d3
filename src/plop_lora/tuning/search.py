"""A search: a study, what may be chosen from, the trials it makes and how their outcome is read."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from plop_lora.files import atomic_file
from plop_lora.recipe import Runner, TuneDesign, TuneRecipe
from plop_lora.records import TrialResult, TrialSpec
from plop_lora.records.trial import Phase
from plop_lora.records.tuning import Configuration
from plop_lora.study.compare import cause_of, value_of
from plop_lora.study.rates import Length, shortened
from plop_lora.study.splits import REPORT, SELECT, TRAIN
from plop_lora.study.study import Study
from plop_lora.training.runners.events import RunTrials, Watch
from plop_lora.tuning.space import Space

LADDER_SHARE = 0.25


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """Everything that stays the same while a search goes on.

    Attributes:
        study: what all trials have in common.
        space: what may be chosen from.
        recipe: what the user wrote, by which the search is known again.
        run_trials: goes through trials.
        watch: told of every trial.
    """

    study: Study
    space: Space
    recipe: TuneRecipe
    run_trials: RunTrials
    watch: Watch

    @property
    def policy(self) -> TuneDesign:
        """What the user wrote of the search itself: how many trials, hours and seeds, and where."""
        return self.recipe

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return self.study.folder

    @property
    def ladder(self) -> Length:
        """How much a trial of the ladder sees."""
        return shortened(self.study, LADDER_SHARE)

    def identity(self) -> str:
        """Return what names the search: the SHA-256 of all that its trials depend on.

        The number of trials, hours, seeds and workers may change from one start to the next, and
        each machine may have the rows under a path of its own.
        """
        free = {*TuneRecipe.CHANGEABLE, "train", "eval", "general"}
        study, model = self.study, self.study.model
        table = self.space.table.items()
        parts = {
            "recipe": self.recipe.model_dump(mode="json", exclude=free),
            "scores": study.scores.digest(),
            "model": [model.name, model.revision, model.weights],
            "rows": [study.splits.digests[part] for part in (TRAIN, SELECT, REPORT)],
            "placements": {f"{name} {rank}": made.digest() for (name, rank), made in table},
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def spec(
        self,
        point: Configuration,
        *,
        seed: int,
        phase: Phase,
        judged_on: str,
        length: Length | None = None,
    ) -> TrialSpec:
        """Return the trial of a configuration, judged on a split; of the ladder's length, if any.

        Args:
            point: what is tried.
            seed: of the trial.
            phase: what it is for.
            judged_on: `SELECT` or `REPORT`.
            length: how much it sees, None for all.
        """
        return self.study.trial_spec(
            point.label,
            self.space.placement(point),
            learning_rate=point.learning_rate,
            seed=seed,
            phase=phase,
            judged_on=judged_on,
            rows=None if length is None else length.rows,
            steps=None if length is None else length.steps,
        )

    def run(self, specs: Sequence[TrialSpec]) -> tuple[TrialResult, ...]:
        """Run trials, or read what an earlier start has left of them."""
        return self.study.run(specs, self.run_trials, self.watch)

    def outcome(self, result: TrialResult) -> tuple[float | None, str | None]:
        """Return the value of a trial, or None and why it has none."""
        metric = self.study.metric
        if (cause := cause_of(result, metric)) is not None:
            return None, cause
        if result.trainable_parameters > self.space.budget:
            return None, (
                f"trained {result.trainable_parameters:,} adapter parameters, above the budget of "
                f"{self.space.budget:,}"
            )
        return value_of(result, metric), None


def workers_of(runner: Runner) -> int:
    """Return how many trials are asked for at once: one a GPU, or one for two CPU cores."""
    if runner.workers is not None:
        return runner.workers
    import torch

    return torch.cuda.device_count() or max(1, (os.cpu_count() or 1) // 2)


def worker_name(folder: Path) -> str:
    """Return the name of the worker that a run folder stands for, made at its first start."""
    path = folder / "worker"
    if not path.exists():
        with atomic_file(path) as file:
            file.write(uuid.uuid4().hex + "\n")
    return path.read_text(encoding="utf-8").strip()
