"""The steps `tune` and `plan`: the stages in their order, the record, the recipe that is left."""

from __future__ import annotations

import contextlib
import shlex
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from plop_lora._version import __version__
from plop_lora.errors import RecordError, require
from plop_lora.escapes import escaped
from plop_lora.files import atomic_file
from plop_lora.recipe import FinetuneRecipe, TuneRecipe, VerifyRecipe
from plop_lora.records import Placement, Scores, TrialResult, TrialSpec
from plop_lora.records.tuning import (
    RUNNING,
    Configuration,
    SearchTrial,
    Stage,
    Tuning,
    TuningPlan,
)
from plop_lora.training.events import Watch, ignore
from plop_lora.training.folder import RESULT, SPEC
from plop_lora.training.task import LORA_OVER_FULL
from plop_lora.tuning import study as memory
from plop_lora.tuning.confirm import Confirmation, confirm, unconfirmed
from plop_lora.tuning.job import Job, alone_in
from plop_lora.tuning.search import (
    FINALISTS,
    LADDER_SHARE,
    Ladder,
    climb,
    ladder_rows,
    lost,
    narrowed,
    search,
)
from plop_lora.tuning.space import build_space, ladder_rates
from plop_lora.tuning.steps import Steps, usual_steps
from plop_lora.study.folder import TRIALS, TUNE, check_folder, mark
from plop_lora.study.model import model_of
from plop_lora.verification.plan import default_margin
from plop_lora.verification.run import check_groups_of, check_trainer

HOME = "plop-tune"
PLACEMENT, RECIPE = "placement.json", "recipe.yaml"


def tune(
    scores: Scores | str | Path,
    recipe: TuneRecipe | str | Path | None = None,
    folder: str | Path = HOME,
    *,
    watch: Watch = ignore,
    steps: Steps | None = None,
    **settings: Any,
) -> Tuning:
    """Search placement, rank, initialisation, learning rate and LoRA+ ratio under a budget.

    Started again in the same folder it goes on where it was stopped: finished trials are kept,
    those that were cut off run again.

    Args:
        scores: of the model that is finetuned, or the file of them.
        recipe: the data, the choices, the budgets, or the YAML file that has them.
        folder: of the run; `placement.json` and `recipe.yaml` of the choice go there too.
        watch: is told of every trial.
        steps: what runs trials, splits rows, compares and counts; those of `verify` by default.
        settings: keys of the recipe, such as `task="sft", train="train.jsonl",
            eval="eval.jsonl", budget="10M"`; they take the place of its values.

    Returns:
        The choice, how it compares with the default on rows that the search has not seen, and
        everything that was tried.

    Raises:
        MissingExtraError: optuna, or the trainer of the task, is not installed.
        UsageError: a choice that is not possible, a budget too small, a folder in use.
        MeasurementError: nothing but failed trials.
    """
    scores, recipe = Scores.of(scores), TuneRecipe.of(recipe, settings)
    require("optuna")
    check_trainer(recipe)
    folder = Path(folder)
    check_folder(folder, TUNE)
    job = _job(recipe, scores, folder, watch, steps)
    job.steps.check(recipe, scores, job.rows, list(job.space.table.values()))
    with alone_in(folder):
        mark(folder, TUNE, job.model)
        job.steps.write(job.rows, folder)
        study = memory.open_study(job)
        ladder = climb(job, study)
        job = replace(job, space=narrowed(job, ladder))
        notes = search(job, study, job.space, ladder)
        trials = memory.history(study)
        outcome = _confirmation(job, study, ladder, trials)
        placement = job.space.placement(outcome.chosen)
        arm = placement.save(job.folder / PLACEMENT)
        verify = verify_recipe(job, outcome.chosen, placement, arm)
        _write_recipe(verify, job.folder / RECIPE)
        notes = (*job.space.notes, *_lost(ladder, trials), *notes, *_running(trials),
                 *outcome.notes)  # fmt: skip
        return _record(job, study, ladder, trials, outcome, placement, verify, notes)


def plan(
    scores: Scores | str | Path,
    recipe: TuneRecipe | str | Path | None = None,
    folder: str | Path = HOME,
    *,
    steps: Steps | None = None,
    **settings: Any,
) -> TuningPlan:
    """Return what `tune` would run; nothing is run, and nothing is written.

    The rows are split in memory to be counted; no function of the user's is imported.

    Raises:
        UsageError: as for `tune`.
    """
    scores, recipe = Scores.of(scores), TuneRecipe.of(recipe, settings)
    check_folder(Path(folder), TUNE)
    job = _job(recipe, scores, Path(folder), ignore, steps)
    rates, rows = ladder_rates(job.space, recipe.trials), job.rows
    searched = max(1, recipe.trials - len(rates))
    stages = (
        Stage(what="learning-rate ladder", trials=len(rates), train_rows=ladder_rows(job),
              evaluation_rows=rows.select.rows),
        Stage(what="search", trials=searched, train_rows=rows.train.rows,
              evaluation_rows=rows.select.rows),
        Stage(what="confirmation, at most", trials=FINALISTS * recipe.seeds,
              train_rows=rows.train.rows, evaluation_rows=rows.report.rows),
    )  # fmt: skip
    epochs = recipe.training.epochs if recipe.training.steps is None else None
    passes = sum(stage.trials * stage.train_rows for stage in stages)
    seconds = _expected_seconds(job, stages)
    hourly = recipe.price.hourly
    feasible = sum(job.space.excess(*pair) <= 0 for pair in job.space.table)
    return TuningPlan(
        model=scores.model,
        task=recipe.task,
        metric=job.metric,
        budget=job.space.budget,
        default=job.space.default,
        configurations=len(job.space.table),
        feasible=feasible,
        learning_rates=rates,
        inits=job.space.inits,
        loraplus_ratios=job.space.ratios,
        stages=stages,
        row_passes=None if epochs is None else passes * epochs,
        device_seconds=seconds,
        hours=recipe.hours,
        money=None if seconds is None or hourly is None else seconds / 3600 * hourly,
        currency=recipe.price.currency,
        notes=job.space.notes,
    )


def _job(
    recipe: TuneRecipe, scores: Scores, folder: Path, watch: Watch, steps: Steps | None
) -> Job:
    space = build_space(recipe, scores)
    steps = steps or usual_steps()
    rows = steps.prepare(recipe, scores, folder)
    job = Job(recipe, scores, folder, rows, space, steps, watch, model_of(recipe, scores))
    climbs = bool(ladder_rates(space, recipe.trials))
    check_groups_of(recipe, ladder_rows(job) if climbs else rows.train.rows)
    return job


def _expected_seconds(job: Job, stages: tuple[Stage, ...]) -> float | None:
    """Return device-seconds at the mean of the full-length trials that this folder has."""
    seconds = []
    for path in sorted((job.folder / TRIALS).glob(f"*/{RESULT}")):
        with contextlib.suppress(RecordError):  # a damaged one is told when the search reads it
            if TrialSpec.load(path.parent / SPEC).data.rows is None:
                seconds.append(TrialResult.load(path).cost.device_seconds)
    if not seconds:
        return None
    full = sum(stage.trials for stage in stages[1:]) + LADDER_SHARE * stages[0].trials
    return statistics.fmean(seconds) * full


def _confirmation(
    job: Job, study: Any, ladder: Ladder, trials: tuple[SearchTrial, ...]
) -> Confirmation:
    if not memory.leads(job, study):
        why = "the worker that opened the search confirms what all have found"
        return unconfirmed(job, trials, why)
    spent = sum(cost.device_seconds for cost in (*ladder.costs, *memory.costs(study)))
    return confirm(job, trials, spent)


def _running(trials: tuple[SearchTrial, ...]) -> list[str]:
    number = sum(trial.state == RUNNING for trial in trials) - len(lost(trials))
    text = f"trials of other workers still running and left out: {number}; start again for them"
    return [text] if number else []


def _lost(ladder: Ladder, trials: tuple[SearchTrial, ...]) -> list[str]:
    """Say which trials the machine has ended: their placements are not to blame."""
    causes = {
        "ladder, on which the search is centred": ladder.lost,
        "search": tuple(trial.cause or "" for trial in lost(trials)),
    }
    return [
        f"trials of the {what} that the machine ended: {len(found)}, the first with: "
        f"{found[0].rstrip('.')}; start again to run them"
        for what, found in causes.items()
        if found
    ]


def _record(
    job: Job,
    study: Any,
    ladder: Ladder,
    trials: tuple[SearchTrial, ...],
    outcome: Confirmation,
    placement: Placement,
    verify: VerifyRecipe,
    notes: tuple[str, ...],
) -> Tuning:
    recipe = job.recipe
    parts = {
        "learning-rate ladder": ladder.costs,
        "search": memory.costs(study),
        "confirmation": outcome.costs,
    }
    return Tuning(
        model=job.scores.model,
        task=recipe.task,
        metric=job.metric,
        higher_is_better=job.higher,
        margin=default_margin(job.metric),
        budget=job.space.budget,
        verdict=outcome.verdict,
        chosen=outcome.chosen,
        default=job.space.default,
        candidates=outcome.candidates,
        ladder=ladder.steps,
        history=trials,
        search_seed=recipe.seed,
        seeds=outcome.seeds,
        train_rows=job.rows.train.rows,
        selection_rows=job.rows.select.rows,
        report_rows=job.rows.report.rows,
        cost=job.steps.count(
            {what: costs for what, costs in parts.items() if costs},
            price=recipe.price.hourly,
            currency=recipe.price.currency,
        ),
        placement=placement,
        recipe=_plain(verify),
        scores_digest=job.scores.digest(),
        plop_version=__version__,
        notes=notes,
    )


def verify_recipe(job: Job, chosen: Configuration, placement: Placement, arm: Path) -> VerifyRecipe:
    """Return the recipe with which `plop verify` compares the choice with the shortlist.

    The rate of the choice is the only rung of its ladder, the parameters of its adapters are the
    budget of every arm.
    """
    shared = {name: getattr(job.recipe, name) for name in FinetuneRecipe.model_fields}
    own = {
        "budget": placement.trainable_parameters,
        "full_rate": chosen.learning_rate / LORA_OVER_FULL,
        "arms": (str(arm),),
        "ladder": (1.0,),
        "seeds": job.recipe.seeds,
    }
    return VerifyRecipe.model_validate(shared | own)


def _plain(recipe: VerifyRecipe) -> dict[str, Any]:
    return recipe.model_dump(mode="json", exclude_none=True)


def _write_recipe(recipe: VerifyRecipe, path: Path) -> None:
    text = yaml.safe_dump(_plain(recipe), sort_keys=False, allow_unicode=True)
    command = f"plop verify SCORES --recipe {shlex.quote(str(path))}"
    with atomic_file(path) as file:
        file.write(f"# {escaped(command)}\n{text}")
