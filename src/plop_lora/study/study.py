"""A study: a recipe of finetunes read once, everything that it leaves open filled in and checked.

`verify` and `tune` are two policies over one study. It has the model, the rows, the settings, the
budget and the folder; it knows neither arms nor a search space. Of the package this is the one
module that reads a recipe's keys, so that a key means the same to both. No torch before `check`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from plop_lora.models.folders import model_name
from plop_lora.placement import place
from plop_lora.placement.budget import parse_budget
from plop_lora.recipe import FinetuneRecipe, Price, Runner
from plop_lora.records import (
    EvaluationSettings,
    Placement,
    Scores,
    TrainingSettings,
    TrialData,
    TrialResult,
    TrialSpec,
)
from plop_lora.records.trial import Phase, higher_is_better
from plop_lora.study import checks
from plop_lora.study.folder import TRIALS, mark
from plop_lora.study.general import general_text, source_of
from plop_lora.study.model import (
    Scored,
    check_config,
    check_trainable,
    check_weights_fit,
    is_scored,
    model_of,
)
from plop_lora.study.splits import Splits, check_splits, prepare_splits, write_splits
from plop_lora.study.usual_rate import usual_rate
from plop_lora.training.runners.events import RunTrials, Watch, ignore
from plop_lora.training.task import Task
from plop_lora.training.tasks import check_metric, task_named
from plop_lora.training.weights import TrainedModel


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Finetunes:
    """Everything that the finetunes of a recipe have in common, wherever their placements are from.

    Attributes:
        scored: the scores or the placement that the run is made from.
        folder: of the run: splits, trials and the record.
        task: what is trained for.
        model: what every trial loads, with what identifies its weights.
        trains_scored: whether that is the very model that was scored.
        splits: the rows: trained on, selected on, reported on.
        training: how every trial trains.
        evaluation: how every trial is judged; its metric is named and its folder a whole path.
        usual_rate: learning rate from which rates are tried.
        seed: of the splits; trials count up from it.
        runner: where trials run.
        price: what a device costs.
        report_to: names of trackers.
        general_source: what the general text is called.
    """

    scored: Scored
    folder: Path
    task: Task
    model: TrainedModel
    trains_scored: bool
    splits: Splits
    training: TrainingSettings
    evaluation: EvaluationSettings
    usual_rate: float
    seed: int
    runner: Runner = field(default_factory=Runner)
    price: Price = field(default_factory=Price)
    report_to: tuple[str, ...] = ()
    general_source: str = ""

    @classmethod
    def read(
        cls, scored: Scored, recipe: FinetuneRecipe, folder: Path, *, whole: bool = False
    ) -> Finetunes:
        """Read a recipe and find every fault that shows without running anything.

        Nothing is written, no model is loaded, and no function of the user's is imported.

        Args:
            scored: scores or a placement of the model that is finetuned, or of one like it.
            recipe: data, training, evaluation and the rest.
            folder: of the run; one that holds other rows is refused.
            whole: whether the selection split is trained on as well.

        Raises:
            DataError: rows that are missing, unreadable, too few, or evaluated and trained on.
            UsageError: a recipe that cannot work, or a folder that holds other data.
            ModelError: the task does not fit the model.
        """
        task = task_named(recipe.task)
        metric = task.metric_of(recipe.evaluation)
        check_metric(task, metric)
        task.check_settings(recipe.training)
        check_trainable(scored, recipe.model)
        if recipe.model is not None:
            model_name(recipe.model)
        task.check_model(task.name, scored.model)
        model = model_of(scored, recipe.model, recipe.revision)
        check_config(model, scored, download=False)
        numbers_for = checks.compares_numbers(task, recipe.training, metric)
        general = general_text(recipe.general, task, folder)
        splits = prepare_splits(recipe, numbers_for=numbers_for)
        splits = (splits.whole() if whole else splits).with_general(general.texts, general.notes)
        check_splits(splits, folder)
        steps = task.passes(recipe.training, len(splits.train)).steps
        return Finetunes(
            scored=scored,
            folder=folder,
            task=task,
            model=model,
            trains_scored=is_scored(scored, recipe.model, recipe.revision),
            splits=splits,
            training=recipe.training,
            evaluation=_resolved(recipe.evaluation, metric),
            usual_rate=usual_rate(task.full_rate, steps, scored.model, recipe.full_rate),
            seed=recipe.seed,
            runner=recipe.runner,
            price=recipe.price,
            report_to=recipe.report_to,
            general_source=source_of(recipe.general),
        )

    @property
    def metric(self) -> str:
        """The metric that decides."""
        assert self.evaluation.metric is not None, "open names it"
        return self.evaluation.metric

    @property
    def higher(self) -> bool:
        """Whether the metric is better when higher."""
        return higher_is_better(self.metric)

    # ----------------------------------------------------------------------- trials

    def trial_spec(
        self,
        name: str,
        placement: Placement,
        *,
        learning_rate: float,
        seed: int,
        phase: Phase,
        judged_on: str,
        rows: int | None = None,
        steps: int | None = None,
    ) -> TrialSpec:
        """Return one trial of this study.

        Args:
            name: of what is tried: an arm, or a configuration.
            placement: where its adapters stand.
            learning_rate: of the adapters.
            seed: of everything random in it.
            phase: what the trial is for, one of those of `TrialSpec`.
            judged_on: the split that judges it, `SELECT` or `REPORT`.
            rows: the first training rows that it takes, None for all.
            steps: optimizer steps in place of those of the recipe.
        """
        training = self.training
        if steps is not None:
            training = dataclasses.replace(training, steps=steps)
        return TrialSpec(
            arm=name,
            seed=seed,
            phase=phase,
            task=self.task.name,
            model=self.model.name,
            placement=placement,
            learning_rate=learning_rate,
            data=self.data(judged_on, rows),
            training=training,
            evaluation=self.evaluation,
            labels=self.splits.labels,
            revision=self.model.revision,
            weights=self.model.weights,
        )

    def data(self, judged_on: str, rows: int | None = None) -> TrialData:
        """Return the files of a trial that is judged on a split."""
        return self.splits.data(judged_on, rows)

    def run(
        self, specs: Sequence[TrialSpec], run: RunTrials, watch: Watch = ignore
    ) -> tuple[TrialResult, ...]:
        """Run trials, or read what an earlier start has left of them, in the order of the specs."""
        if not specs:
            return ()
        return run(specs, self.folder / TRIALS, self.runner, report_to=self.report_to, watch=watch)

    def finished(self, specs: Sequence[TrialSpec]) -> list[TrialResult]:
        """Return the results of those trials that the folder has."""
        from plop_lora.training.folder import trial_folder
        from plop_lora.training.trial import find_result

        found = (find_result(trial_folder(self.folder / TRIALS, spec), spec) for spec in specs)
        return [result for result in found if result is not None]

    # ----------------------------------------------------------------------- the folder

    def claim(self, verb: str) -> None:
        """Mark the folder as a run of a verb and write the splits into it.

        Raises:
            UsageError: it belongs to another verb, other weights or other data.
            OutputError: the folder cannot be written.
        """
        mark(self.folder, verb, self.model)
        write_splits(self.splits, self.folder)

    def check(self, placements: Sequence[Placement]) -> None:
        """Find what shows only when functions of the user run or a model is looked at.

        Args:
            placements: those that trials will train.

        Raises:
            MissingExtraError: the trainer of the task is not installed.
            ModelError: the model to be trained is not there, or is another than was scored.
            DataError, UsageError: functions that fail, or rows that no trial could read.
        """
        from plop_lora.study.fit import check_rows_fit

        checks.check_trainer(self.task)
        checks.check_dtype(self.training)
        splits = (self.splits.train, self.splits.report)
        checks.check_functions(self.task, self.metric, self.training, splits)
        check_config(self.model, self.scored, download=True)
        check_rows_fit(self.task, self.training, self.model, self.splits)
        if not self.trains_scored:
            check_weights_fit(self.model, placements)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Study(Finetunes):
    """What the trials of a run have in common, of which the shortlist is made from scores.

    Attributes:
        scores: what is scored, and what placements are made from.
        budget: adapter parameters of a placement.
        rank: LoRA rank of the shortlist where no budget is given.
        top: number of types of the shortlist; None takes the usual one.
    """

    scores: Scores
    budget: int
    rank: int
    top: int | None

    @classmethod
    def open(cls, scores: Scores, recipe: FinetuneRecipe, folder: Path) -> Study:
        """Read a recipe as `Finetunes.read` does, with its budget.

        Raises:
            DataError, ModelError, UsageError: as `Finetunes.read`.
        """
        shared = Finetunes.read(scores, recipe, folder)
        return cls(
            **{field.name: getattr(shared, field.name) for field in dataclasses.fields(shared)},
            scores=scores,
            budget=_budget(scores, recipe),
            rank=recipe.rank,
            top=recipe.top,
        )


def budget_of(scores: Scores, rank: int = 16, top: int | None = None) -> int:
    """Return the parameters of the shortlist at a rank: the budget where none is given."""
    return place(scores, top=top, rank=rank).trainable_parameters


def _budget(scores: Scores, recipe: FinetuneRecipe) -> int:
    if recipe.budget is None:
        return budget_of(scores, recipe.rank, recipe.top)
    return parse_budget(recipe.budget, scores.model.parameters)


def _resolved(settings: EvaluationSettings, metric: str) -> EvaluationSettings:
    """Name the metric, and give the folder of tasks its whole path: trials run elsewhere."""
    folder = settings.include_path
    whole = None if folder is None else str(Path(folder).expanduser().resolve())
    return dataclasses.replace(settings, metric=metric, include_path=whole)
