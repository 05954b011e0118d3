"""The step `verify`: every check first, then the ladder, then the confirmation, then the verdict.

What is finished stays in the folder, so that a run that was stopped at any moment goes on where it
was when it is called again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plop_lora.errors import ModelError, UsageError, check_installed
from plop_lora.indicators.signal import Signal
from plop_lora.models.folders import model_name
from plop_lora.recipe import Proof, VerifyRecipe
from plop_lora.records import (
    Placement,
    Scores,
    TrainingSettings,
    TrialResult,
    TrialSpec,
    Verification,
    VerificationPlan,
)
from plop_lora.records.trial import CLASSIFY, GRPO
from plop_lora.training.events import RunTrials, Watch, ignore
from plop_lora.training.task import metric_of
from plop_lora.verify.folder import (
    RECORD,
    TRIALS,
    check_disk,
    check_owner,
    claim,
    default_folder,
)
from plop_lora.verify.ladder import choose_rates
from plop_lora.verify.model import check_config, check_weights_fit, is_scored, model_of
from plop_lora.verify.outcome import Trials, conclude
from plop_lora.verify.plan import (
    Study,
    arm_names,
    confirm_specs,
    ladder_specs,
    make_plan,
    make_study,
    untrained_specs,
)
from plop_lora.verify.signals import measure_signals, measured_arms
from plop_lora.verify.splits import Splits, check_splits, prepare_splits, write_splits

REWARD_ROWS = 4


def verify(
    scores: Scores | str | Path,
    recipe: VerifyRecipe | str | Path | None = None,
    *,
    folder: str | Path | None = None,
    run: RunTrials | None = None,
    watch: Watch = ignore,
    **settings: Any,
) -> Verification:
    """Prove a shortlist with finetunes of rival placements at an equal budget.

    Every arm gets the same parameters, rows, order of rows, seeds and number of learning rates;
    rates are chosen on a split that is neither trained on nor reported. Called again with the
    same folder it repeats no finished trial, also with more seeds or further arms.

    Args:
        scores: result of `score`, or the file of one.
        recipe: task, data, arms, seeds, margin and the rest, or the YAML file that has them.
        folder: of the run; by default one beside the working directory, named by recipe and
            scores. It gets the splits, every trial with its adapter, and the record.
        run: goes through the trials; by default processes here, or Ray as the recipe says.
        watch: told of every trial that starts or ends.
        settings: keys of the recipe, such as `task="sft", train="train.jsonl",
            eval="eval.jsonl", seeds=3`; they take the place of its values.

    Returns:
        Arms ranked, with differences, intervals and the verdict; its `exit_code` is 0 confirmed,
        3 beaten, 4 cannot separate.

    Raises:
        DataError: rows that are missing, unreadable, too few, or evaluated and trained on.
        UsageError: a recipe that cannot work, or a folder that belongs to another.
        ModelError: the task does not fit the model.
        MissingExtraError: the trainer of the task is not installed.
        OutputError: the folder cannot be written, or the disk is too small.
        MeasurementError: the shortlist, or every rival, failed in all of its trials.
    """
    scores, recipe = Scores.of(scores), VerifyRecipe.of(recipe, settings)
    root = default_folder(recipe, scores) if folder is None else Path(folder)
    check_trainer(recipe)
    splits, known = _checked(scores, recipe, root)
    check_what_runs(recipe, scores, splits, [arm.placements[0] for arm in known.arms])
    arms = len(arm_names(recipe))
    check_disk(root, arms * (len(known.rates) + len(known.seeds)), known.budget)
    claim(root, recipe, scores, known.model)
    write_splits(splits, root)
    signals = measure_signals(known, root)
    study = make_study(scores, recipe, splits, signals=signals) if signals else known
    trials = _run_all(study, signals, root, run or _runner(), watch)
    record = conclude(study, trials)
    record.save(root / RECORD)
    return record


def _run_all(
    study: Study, signals: Mapping[str, Signal], root: Path, run: RunTrials, watch: Watch
) -> Trials:
    """Run the ladder, then the confirmation, and beside it the model as it was."""
    recipe = study.recipe

    def go(specs: Sequence[TrialSpec]) -> tuple[TrialResult, ...]:
        if not specs:
            return ()
        return run(specs, root / TRIALS, recipe.runner, report_to=recipe.report_to, watch=watch)

    ladder = go(ladder_specs(study))
    rates = choose_rates(study, ladder)
    untrained = untrained_specs(study)
    results = go((*confirm_specs(study, rates.best), *untrained))
    confirm, as_it_was = results[: -len(untrained)], results[-len(untrained) :]
    return Trials(tuple(signals.values()), ladder, rates, confirm, as_it_was)


def plan(
    scores: Scores | str | Path,
    recipe: VerifyRecipe | str | Path | None = None,
    *,
    folder: str | Path | None = None,
    **settings: Any,
) -> VerificationPlan:
    """Return what `verify` would run, how long, for how much; run and write nothing.

    Args:
        scores: as for `verify`.
        recipe: as for `verify`.
        folder: finished trials in it say what a trial takes; without any, arithmetic does.
        settings: as for `verify`.

    Raises:
        DataError, UsageError, ModelError: as `verify` would.
    """
    scores, recipe = Scores.of(scores), VerifyRecipe.of(recipe, settings)
    root = default_folder(recipe, scores) if folder is None else Path(folder)
    _, study = _checked(scores, recipe, root)
    ladder = _finished(root, ladder_specs(study))
    rates = choose_rates(study, ladder).best
    confirm = _finished(root, confirm_specs(study, rates))
    return make_plan(study, [*ladder, *confirm], rates=rates, unmeasured=measured_arms(recipe))


def _finished(root: Path, specs: Sequence[TrialSpec]) -> list[TrialResult]:
    """Return what there is of trials in a folder."""
    from plop_lora.training.folder import trial_folder
    from plop_lora.training.trial import find_result

    found = (find_result(trial_folder(root / TRIALS, spec), spec) for spec in specs)
    return [result for result in found if result is not None]


def _runner() -> RunTrials:
    from plop_lora.training.runners import run_trials

    return run_trials


# --------------------------------------------------------------------------- checks


def _checked(scores: Scores, recipe: VerifyRecipe, folder: Path) -> tuple[Splits, Study]:
    """Find every fault that can be found without running anything or loading a model."""
    model = model_of(recipe, scores)
    check_owner(folder, recipe, scores, model)
    check_task_fits(scores, recipe)
    check_config(model, scores, download=False)
    splits = prepare_splits(recipe)
    check_splits(splits, folder)
    measured = measured_arms(recipe)
    plain = [name for name in arm_names(recipe) if name not in measured] if measured else None
    study = make_study(scores, recipe, splits, names=plain)
    check_groups_of(recipe, study.ladder_rows)
    return splits, study


def check_what_runs(
    recipe: Proof, scores: Scores, splits: Splits, placements: Sequence[Placement]
) -> None:
    """Find what shows only when functions of the user run or a model is looked at.

    Raises:
        ModelError: the model to be trained is not there, or is another than was scored.
        DataError, UsageError: as `check_functions`, or rows that no trial could read.
    """
    from plop_lora.verify.fit import check_rows_fit

    check_dtype(recipe.training)
    check_functions(recipe, splits)
    model = model_of(recipe, scores)
    check_config(model, scores, download=True)
    check_rows_fit(recipe, model, splits)
    if not is_scored(recipe, scores):
        check_weights_fit(model, placements)


def check_dtype(training: TrainingSettings) -> None:
    """Refuse float16 on a processor, where sums of a long row overflow and most products are slow.

    Raises:
        UsageError: the text names what to take instead.
    """
    if training.dtype != "float16":
        return
    from plop_lora.scoring.loading import device_named

    if device_named(training.device).type == "cpu":
        raise UsageError(
            "training.dtype float16 is for a GPU, and trials run on a processor here. Take "
            "float32, bfloat16, or auto."
        )


def check_task_fits(scores: Scores, recipe: Proof) -> None:
    """Refuse a metric that the task cannot be judged by, and a model that it cannot train.

    Raises:
        ModelError: the model writes no text, or reads none.
        UsageError: no such metric, or one of another task; no reward where the task needs one, or
            a name that no reward has.
        MissingExtraError: the metric needs a library that is not installed.
    """
    from plop_lora.training.evaluate import check_metric
    from plop_lora.training.rewards import check_named as check_rewards_named

    check_metric(recipe.task, metric_of(recipe.task, recipe.evaluation))
    if recipe.task == GRPO and not recipe.training.rewards:
        raise UsageError(
            "The task grpo needs rewards. Give --rewards number, format or module:function."
        )
    check_rewards_named(recipe.training.rewards)
    check_model(scores, recipe)


def check_trainer(recipe: Proof) -> None:
    """Refuse a task whose trainer is not installed; a plan can be made without.

    Raises:
        MissingExtraError: the text names the extra.
    """
    if recipe.task != CLASSIFY:
        check_installed("trl")


def check_model(scores: Scores, recipe: Proof) -> None:
    """Refuse a task that the scored model cannot be trained for.

    Raises:
        ModelError: it writes no text, or it reads none.
    """
    model = scores.model
    if recipe.model is not None:
        model_name(recipe.model)
    if recipe.task == CLASSIFY:
        config = model.config or {}
        if model.config is not None and "vocab_size" not in {**config, **_text_part(config)}:
            raise ModelError(
                f"{model.name} ({model.architecture}) reads no text, so it cannot classify any."
            )
        return
    writes = model.task_type == "CAUSAL_LM" or model.architecture.endswith(
        "ForConditionalGeneration"
    )
    if not writes or model.task_type == "SEQ_2_SEQ_LM":
        raise ModelError(
            f"{model.name} ({model.architecture}) is not a causal language model, which "
            f"{recipe.task} trains. For a classifier take --task classify."
        )


def _text_part(config: dict[str, Any]) -> dict[str, Any]:
    part = config.get("text_config")
    return part if isinstance(part, dict) else {}


def check_functions(recipe: Proof, splits: Splits) -> None:
    """Import the user's functions, and refuse rewards that fail on the first rows of a split.

    A plan does without: it runs nothing of the user's.

    Raises:
        DataError: a function that raises, or returns what it must not.
        UsageError: no such function.
    """
    from plop_lora.training.evaluate import find_metric

    find_metric(recipe.task, metric_of(recipe.task, recipe.evaluation))
    if recipe.task == GRPO:
        from plop_lora.training.rewards import try_rewards

        for rows in (splits.train, splits.report):
            try_rewards(recipe.training.rewards, rows[:REWARD_ROWS])


def check_groups_of(recipe: Proof, rows: int) -> None:
    """Refuse batches of completions without whole groups; `rows` has the shortest trial.

    Raises:
        DataError: fewer rows than a step takes.
        UsageError: a number of generations that does not divide the completions of a step.
    """
    if recipe.task == GRPO:
        from plop_lora.training.grpo import check_groups

        check_groups(recipe.training, rows)
