"""The steps `finetune` and `plan`: the base is judged, the adapter trained, both are compared.

Both trials run by the runner of a study, in processes of their own, so that everything that holds
for a trial holds for the adapter that ships: its rows, its tokens, its optimizer and its end.

    folder/
        data/, recipe.yaml    the rows by split, and the recipe as it was resolved
        trials/               the trial that judges the model without training
        spec.json             the specification of the training, which claims the folder
        checkpoints/          what a killed training resumes from
        curve.jsonl, log.txt  what the trainer logs and prints
        adapter/              the adapter in PEFT's format, written once it was evaluated
        finetune.json         the record, written last
"""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from plop_lora.errors import RecordError
from plop_lora.files import atomic_file
from plop_lora.finetuning.opening import (
    Opened,
    base_spec,
    check_evaluations,
    check_same,
    final_spec,
    open_finetune,
)
from plop_lora.finetuning.outcome import conclude
from plop_lora.finetuning.source import choose, read_source
from plop_lora.recipe import FinalRecipe
from plop_lora.records import (
    Finetune,
    FinetunePlan,
    Placement,
    TrialResult,
    TrialSpec,
    Tuning,
    Verification,
)
from plop_lora.study.estimate import CHARACTERS_A_TOKEN, Work, estimate
from plop_lora.study.folder import FINETUNE, RECIPE, alone_in
from plop_lora.training import resources
from plop_lora.training.runners.events import RunTrials, Watch, ignore, runner_of

HOME = "plop-finetune"
RECORD, VERSIONS = "finetune.json", "versions.json"
Source = Placement | Verification | Tuning | str | Path


def finetune(
    source: Source,
    recipe: FinalRecipe | str | Path | None = None,
    *,
    folder: str | Path = HOME,
    arm: str | None = None,
    run: RunTrials | None = None,
    watch: Watch = ignore,
    **settings: object,
) -> Finetune:
    """Train the adapter that ships, and compare it with the base on the held-out rows.

    Called again with the same folder it resumes from the last complete checkpoint, and returns
    the same record where it had finished.

    Args:
        source: A placement, a verification or a tuning, or the file of one.
        recipe: Task, data and training, or the YAML file that has them.
        folder: Folder of the finetune; the module describes what it gets.
        arm: Name of an arm of a verification, in place of the one that its verdict chooses.
        run: Function that runs the trials; by default processes here, or Ray as the recipe says.
        watch: Function that is told of every trial that starts or ends.
        settings: Keys of the recipe, such as `task="sft", train="train.jsonl",
            eval="eval.jsonl", finetune={"epochs": 3}`; they take precedence.

    Returns:
        What the adapter reached; its `exit_code` is 0 better than the base, 3 worse, 4 not told
        apart.

    Raises:
        DataError: Rows that are missing, unreadable, too few, or evaluated and trained on.
        UsageError: A recipe that cannot work, or a folder that belongs to another finetune.
        ModelError: The task does not fit the model, or the model is another than was scored.
        MissingExtraError: The trainer of the task is not installed.
        OutputError: The folder cannot be written, or the disk is too small.
        MeasurementError: The training failed, such as by a loss that became NaN.
    """
    wanted = FinalRecipe.of(recipe, settings)
    root = Path(folder)
    opened = open_finetune(choose(read_source(source), arm), wanted, root)
    spec = final_spec(opened)
    check_same(root, spec)
    check_evaluations(opened)
    opened.study.check([opened.chosen.placement])
    with alone_in(root, FINETUNE), runner_of(run) as run_trials:
        opened.study.claim(FINETUNE)
        with atomic_file(root / RECIPE) as file:
            yaml.safe_dump(wanted.model_dump(mode="json"), file, sort_keys=False)
        notes = _versions(opened, root)
        record = _run(opened, spec, notes, run_trials, watch)
        record.save(root / RECORD)
    return record


def _run(
    opened: Opened, spec: TrialSpec, notes: tuple[str, ...], run: RunTrials, watch: Watch
) -> Finetune:
    study = opened.study
    (base,) = study.run([base_spec(opened)], run, watch)
    if not base.done:
        return conclude(opened, base, base, notes)  # raises, and trains nothing
    final: TrialResult
    (final,) = run([spec], study.folder, study.runner, report_to=study.report_to, watch=watch)
    return conclude(opened, base, final, notes)


def _versions(opened: Opened, folder: Path) -> tuple[str, ...]:
    """Write the versions of the libraries, or return a note on those that differ from before."""
    now = resources.versions(*opened.study.task.packages)
    path = folder / VERSIONS
    if not path.exists():
        with atomic_file(path) as file:
            json.dump(now, file)
        return ()
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [name for name in now if before.get(name) != now[name]]
    except (OSError, ValueError, AttributeError) as error:
        raise RecordError(
            f"{path} is damaged ({error}). Remove it: it says with which versions the training "
            "began."
        ) from error
    return tuple(
        f"the training began with {name} {before.get(name)} and went on with {now[name]}: the "
        "adapter may differ from one that was trained at once"
        for name in changed
    )


def plan(
    source: Source,
    recipe: FinalRecipe | str | Path | None = None,
    *,
    folder: str | Path = HOME,
    arm: str | None = None,
    **settings: object,
) -> FinetunePlan:
    """Return what `finetune` would run; no model is loaded, and nothing is run or written.

    Args:
        source: As for `finetune`.
        recipe: As for `finetune`.
        folder: As for `finetune`.
        arm: As for `finetune`.
        settings: As for `finetune`.

    Raises:
        DataError, ModelError, UsageError: As `finetune` would.
    """
    wanted = FinalRecipe.of(recipe, settings)
    opened = open_finetune(choose(read_source(source), arm), wanted, Path(folder))
    spec = final_spec(opened)
    check_same(Path(folder), spec)
    check_evaluations(opened)
    study, splits = opened.study, opened.study.splits
    time = estimate([(spec, _work(opened, spec)), (base_spec(opened), _work(opened, spec))])
    hourly = study.price.hourly
    return FinetunePlan(
        model=study.scored.model,
        task=study.task.name,
        metric=study.metric,
        choice=opened.choice,
        parameters=opened.chosen.placement.trainable_parameters,
        train_rows=len(splits.train),
        selection_rows=len(splits.selection),
        report_rows=len(splits.report),
        steps=opened.passes.steps,
        every=opened.every,
        patience=opened.checkpoints.patience,
        seconds=time.seconds,
        seconds_from=time.source,
        money=None if hourly is None else time.seconds / 3600 * hourly,
        currency=study.price.currency,
        peak_memory=opened.chosen.peak_memory,
        notes=splits.notes,
    )


def _work(opened: Opened, spec: TrialSpec) -> Work:
    splits, study = opened.study.splits, opened.study
    return Work(
        train_rows=len(splits.train),
        evaluation_rows=len(splits.report),
        tokens=splits.characters(study.task) / CHARACTERS_A_TOKEN,
        parameters=study.scored.model.parameters,
        task=study.task,
        general_tokens=splits.general_characters / CHARACTERS_A_TOKEN if spec.data.general else 0.0,
    )
