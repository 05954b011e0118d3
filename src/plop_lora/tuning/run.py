"""The steps `tune` and `plan`: the stages in their order, the record, the recipe that is left."""

from __future__ import annotations

import contextlib
import shlex
import statistics
from dataclasses import replace
from pathlib import Path

import yaml

from plop_lora._version import __version__
from plop_lora.cost import ledger
from plop_lora.errors import RecordError, require
from plop_lora.escapes import escaped
from plop_lora.files import atomic_file
from plop_lora.recipe import FinetuneRecipe, TuneRecipe, VerifyRecipe
from plop_lora.recipe.margin import usual_margin
from plop_lora.records import Placement, Scores, TrialResult, TrialSpec
from plop_lora.records.tuning import (
    RUNNING,
    Configuration,
    SearchTrial,
    Stage,
    Tuning,
    TuningPlan,
)
from plop_lora.study.folder import TRIALS, TUNE, alone_in, check_folder
from plop_lora.study.study import Study
from plop_lora.training.folder import RESULT, SPEC
from plop_lora.training.runners.events import RunTrials, Watch, ignore, runner_of
from plop_lora.tuning.confirm import Confirmation, confirm, unconfirmed
from plop_lora.tuning.ladder import Ladder, climb, narrowed
from plop_lora.tuning.search import LADDER_SHARE, Search
from plop_lora.tuning.space import build_space, ladder_rates
from plop_lora.tuning.storage import SearchStorage
from plop_lora.tuning.suggest import FINALISTS, lost, run_suggestions

HOME = "plop-tune"
PLACEMENT, RECIPE = "placement.json", "recipe.yaml"


def tune(
    scores: Scores | str | Path,
    recipe: TuneRecipe | str | Path | None = None,
    *,
    folder: str | Path = HOME,
    run: RunTrials | None = None,
    watch: Watch = ignore,
    **settings: object,
) -> Tuning:
    """Search placement, rank, initialisation, learning rate and LoRA+ ratio under a budget.

    Started again in the same folder it goes on where it was stopped: finished trials are kept,
    those that were cut off run again.

    Args:
        scores: of the model that is finetuned, or the file of them.
        recipe: the data, the choices, the budgets, or the YAML file that has them.
        folder: of the run; `placement.json` and `recipe.yaml` of the choice go there too.
        run: goes through the trials; by default processes here, or Ray as the recipe says.
        watch: told of every trial that starts or ends.
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
    with runner_of(run) as run_trials:
        return _searched(_opened(scores, recipe, Path(folder), run_trials, watch))


def _searched(search: Search) -> Tuning:
    """Go through all stages of a search, and return and write its outcome."""
    recipe = search.recipe
    search.study.check(list(search.space.table.values()))
    with alone_in(search.folder, TUNE):
        search.study.claim(TUNE)
        storage = SearchStorage.open(search)
        ladder = climb(search, storage)
        search = replace(search, space=narrowed(search, ladder))
        notes = run_suggestions(search, storage, ladder)
        trials = storage.history()
        outcome = _confirmation(search, storage, ladder, trials)
        placement = search.space.placement(outcome.chosen)
        arm = placement.save(search.folder / PLACEMENT)
        verify = verify_recipe(recipe, outcome.chosen, placement, arm)
        _write_recipe(verify, search.folder / RECIPE)
        notes = (*search.space.notes, *_lost(ladder, trials), *notes, *_running(trials),
                 *outcome.notes)  # fmt: skip
        return _record(search, storage, ladder, trials, outcome, verify, notes)


def plan(
    scores: Scores | str | Path,
    recipe: TuneRecipe | str | Path | None = None,
    *,
    folder: str | Path = HOME,
    **settings: object,
) -> TuningPlan:
    """Return what `tune` would run; nothing is run, and nothing is written.

    The rows are split in memory to be counted; no function of the user's is imported.

    Raises:
        UsageError: as for `tune`.
    """
    scores, recipe = Scores.of(scores), TuneRecipe.of(recipe, settings)
    search = _opened(scores, recipe, Path(folder), _run_nothing, ignore)
    study, space, splits = search.study, search.space, search.study.splits
    rates = ladder_rates(space, recipe.trials)
    searched = max(1, recipe.trials - len(rates))
    train, select, report = map(len, (splits.train, splits.selection, splits.report))
    stages = (
        Stage(what="learning-rate ladder", trials=len(rates), train_rows=search.ladder.rows,
              evaluation_rows=select),
        Stage(what="search", trials=searched, train_rows=train, evaluation_rows=select),
        Stage(what="confirmation, at most", trials=FINALISTS * recipe.seeds, train_rows=train,
              evaluation_rows=report),
    )  # fmt: skip
    epochs = study.training.epochs if study.training.steps is None else None
    passes = sum(stage.trials * stage.train_rows for stage in stages)
    seconds = _expected_seconds(search.folder, stages)
    hourly = study.price.hourly
    return TuningPlan(
        model=scores.model,
        task=study.task.name,
        metric=study.metric,
        budget=space.budget,
        default=space.default,
        configurations=len(space.table),
        feasible=sum(space.excess(*pair) <= 0 for pair in space.table),
        learning_rates=rates,
        inits=space.inits,
        loraplus_ratios=space.ratios,
        stages=stages,
        row_passes=None if epochs is None else passes * epochs,
        device_seconds=seconds,
        hours=recipe.hours,
        money=None if seconds is None or hourly is None else seconds / 3600 * hourly,
        currency=study.price.currency,
        notes=space.notes,
    )


def _opened(
    scores: Scores, recipe: TuneRecipe, folder: Path, run: RunTrials, watch: Watch
) -> Search:
    """Find every fault that can be found without running anything or loading a model."""
    check_folder(folder, TUNE)
    study = Study.open(scores, recipe, folder)
    search = Search(study, build_space(study, recipe), recipe, run, watch)
    climbs = bool(ladder_rates(search.space, recipe.trials))
    shortest = search.ladder.rows if climbs else len(study.splits.train)
    study.task.check_length(study.training, shortest)
    return search


def _run_nothing(*given: object, **named: object) -> tuple[TrialResult, ...]:
    raise AssertionError("a plan runs no trial")


def _expected_seconds(folder: Path, stages: tuple[Stage, ...]) -> float | None:
    """Return device-seconds at the mean of the full-length trials that a folder has."""
    seconds = []
    for path in sorted((folder / TRIALS).glob(f"*/{RESULT}")):
        with contextlib.suppress(RecordError):  # a damaged one is told when the search reads it
            if TrialSpec.load(path.parent / SPEC).data.rows is None:
                seconds.append(TrialResult.load(path).cost.device_seconds)
    if not seconds:
        return None
    full = sum(stage.trials for stage in stages[1:]) + LADDER_SHARE * stages[0].trials
    return statistics.fmean(seconds) * full


def _confirmation(
    search: Search, storage: SearchStorage, ladder: Ladder, trials: tuple[SearchTrial, ...]
) -> Confirmation:
    if not storage.leads:
        why = "the worker that opened the search confirms what all have found"
        return unconfirmed(search, trials, why)
    spent = sum(cost.device_seconds for cost in (*ladder.costs, *storage.costs()))
    return confirm(search, trials, spent)


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
    search: Search,
    storage: SearchStorage,
    ladder: Ladder,
    trials: tuple[SearchTrial, ...],
    outcome: Confirmation,
    verify: VerifyRecipe,
    notes: tuple[str, ...],
) -> Tuning:
    study, space, splits = search.study, search.space, search.study.splits
    parts = {
        "learning-rate ladder": ladder.costs,
        "search": storage.costs(),
        "confirmation": outcome.costs,
    }
    return Tuning(
        model=study.scores.model,
        task=study.task.name,
        metric=study.metric,
        higher_is_better=study.higher,
        margin=usual_margin(study.metric),
        budget=space.budget,
        verdict=outcome.verdict,
        chosen=outcome.chosen,
        default=space.default,
        candidates=outcome.candidates,
        ladder=ladder.steps,
        history=trials,
        search_seed=study.seed,
        seeds=outcome.seeds,
        train_rows=len(splits.train),
        selection_rows=len(splits.selection),
        report_rows=len(splits.report),
        cost=ledger(
            {what: costs for what, costs in parts.items() if costs},
            study.price.hourly,
            study.price.currency,
        ),
        placement=space.placement(outcome.chosen),
        recipe=_plain(verify),
        scores_digest=study.scores.digest(),
        plop_version=__version__,
        notes=notes,
    )


def verify_recipe(
    recipe: TuneRecipe, chosen: Configuration, placement: Placement, arm: Path
) -> VerifyRecipe:
    """Return the recipe with which `plop verify` compares the choice with the shortlist.

    Every arm trains at the rate of the choice, with as many parameters as its adapters have.
    """
    shared = {name: getattr(recipe, name) for name in FinetuneRecipe.model_fields}
    own = {
        "budget": placement.trainable_parameters,
        "arms": (str(arm),),
        "learning_rates": (chosen.learning_rate,),
        "seeds": recipe.seeds,
    }
    return VerifyRecipe.model_validate(shared | own)


def _plain(recipe: VerifyRecipe) -> dict[str, object]:
    return recipe.model_dump(mode="json", exclude_none=True)


def _write_recipe(recipe: VerifyRecipe, path: Path) -> None:
    text = yaml.safe_dump(_plain(recipe), sort_keys=False, allow_unicode=True)
    command = f"plop verify SCORES --recipe {shlex.quote(str(path))}"
    with atomic_file(path) as file:
        file.write(f"# {escaped(command)}\n{text}")
