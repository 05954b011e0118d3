"""One search: its recipe, rows and folder, the specs it makes and how their outcome is read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from plop_lora.errors import UsageError
from plop_lora.files import atomic_file, try_lock
from plop_lora.recipe import Runner, TuneRecipe
from plop_lora.records import Scores, TrialResult, TrialSpec
from plop_lora.records.trial import higher_is_better
from plop_lora.records.tuning import Configuration
from plop_lora.training.events import Watch
from plop_lora.training.task import metric_of
from plop_lora.training.weights import TrainedModel
from plop_lora.tuning.space import Space
from plop_lora.tuning.steps import Rows, RowsFile, Steps
from plop_lora.study.folder import TRIALS
from plop_lora.verification.plan import evaluation_of


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """Everything that stays the same while a search goes on."""

    recipe: TuneRecipe
    scores: Scores
    folder: Path
    rows: Rows
    space: Space
    steps: Steps
    watch: Watch
    model: TrainedModel

    @property
    def metric(self) -> str:
        """The metric that decides."""
        return metric_of(self.recipe.task, self.recipe.evaluation)

    @property
    def higher(self) -> bool:
        """Whether more of the metric is better."""
        return higher_is_better(self.metric)

    def identity(self) -> str:
        """Return what names the search: the SHA-256 of all that its trials depend on.

        The number of trials, hours, seeds and workers may change from one start to the next, and
        each machine may have the rows under a path of its own.
        """
        free = {"trials", "hours", "seeds", "runner", "price", "report_to", "storage", "train",
                "eval"}  # fmt: skip
        parts_of_rows = (self.rows.train, self.rows.select, self.rows.report)
        table = self.space.table.items()
        parts = {
            "recipe": self.recipe.model_dump(mode="json", exclude=free),
            "scores": self.scores.digest(),
            "model": [self.model.name, self.model.revision, self.model.weights],
            "rows": [part.sha256 for part in parts_of_rows],
            "placements": {f"{name} {rank}": made.digest() for (name, rank), made in table},
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def spec(
        self,
        point: Configuration,
        *,
        seed: int,
        phase: str,
        judged: RowsFile,
        rows: int | None = None,
    ) -> TrialSpec:
        """Return the trial of a configuration on the first `rows`, judged on a part.

        Steps that the recipe fixes do not follow the rows, so on a share of the rows they are cut
        to the same share: a ladder is to cost no more than that.
        """
        training = self.recipe.training
        if training.steps is not None and rows is not None:
            share = rows / self.rows.train.rows
            training = replace(training, steps=max(1, round(training.steps * share)))
        return TrialSpec(
            arm=point.label,
            seed=seed,
            phase=phase,
            task=self.recipe.task,
            model=self.model.name,
            placement=self.space.placement(point),
            learning_rate=point.learning_rate,
            data=self.rows.data(judged, rows),
            training=training,
            evaluation=evaluation_of(self.recipe),
            labels=self.rows.labels,
            revision=self.model.revision,
            weights=self.model.weights,
        )

    def run(self, specs: Sequence[TrialSpec]) -> tuple[TrialResult, ...]:
        """Run trials, or read what an earlier start has left of them."""
        recipe = self.recipe
        return self.steps.run(
            specs, self.folder / TRIALS, recipe.runner, report_to=recipe.report_to, watch=self.watch
        )

    def outcome(self, result: TrialResult) -> tuple[float | None, str | None]:
        """Return the value of a trial, or None and why it has none."""
        if not result.done:
            return None, result.cause or "no cause given"
        value = result.metrics.get(result.metric)
        if value is None or not math.isfinite(value):
            return None, f"the metric {result.metric} came out as {value}"
        if result.trainable_parameters > self.space.budget:
            return None, (
                f"trained {result.trainable_parameters:,} adapter parameters, above the budget of "
                f"{self.space.budget:,}"
            )
        return value, None


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


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a run folder against a second search; a killed one lets it go by itself.

    Raises:
        UsageError: another process searches in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        if not try_lock(file):
            raise UsageError(
                f"Another plop tune works in {folder}. Wait for it, or give each worker of a "
                "shared search a --folder of its own."
            )
        yield
