"""A final finetune that is opened: its source chosen, its recipe read, its training specified.

Everything that is wrong shows here or in the checks, before a model is loaded. No torch.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, replace
from pathlib import Path

from plop_lora.errors import DataError, UsageError
from plop_lora.finetuning.source import Chosen
from plop_lora.placement.inits import is_trial_init
from plop_lora.recipe import FinalRecipe
from plop_lora.records import FinetuneChoice, TrialData, TrialSpec
from plop_lora.records.trial import FINAL, UNTRAINED, CheckpointSettings
from plop_lora.study.folder import FINETUNE, check_folder
from plop_lora.study.splits import FOLDER, GENERAL, REPORT, SELECT, TRAIN
from plop_lora.study.study import Finetunes
from plop_lora.training.folder import SPEC
from plop_lora.training.task import Passes

BASE = "untrained model"
_HINT = "Name another folder with --folder, or remove this one."


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """A final finetune before it runs.

    Attributes:
        study: What its trials have in common.
        chosen: The placement, and the record that chose it.
        choice: The same with the learning rate, as the result records it.
        seed: Seed of the training.
        checkpoints: When it saves checkpoints and stops early.
        passes: Its numbers of steps and of rows.
    """

    study: Finetunes
    chosen: Chosen
    choice: FinetuneChoice
    seed: int
    checkpoints: CheckpointSettings
    passes: Passes

    @property
    def every(self) -> int:
        """Number of optimizer steps between two checkpoints."""
        study = self.study
        once = replace(study.training, epochs=1.0, steps=None)
        a_pass = study.task.passes(once, len(study.splits.train)).steps
        return min(self.passes.steps, max(1, round(a_pass / self.checkpoints.per_epoch)))


def open_finetune(chosen: Chosen, recipe: FinalRecipe, folder: Path) -> Opened:
    """Read the recipe and find every fault that shows without running anything.

    Args:
        chosen: What is trained.
        recipe: Data, training and evaluation.
        folder: Folder of the finetune, which need not exist.

    Raises:
        DataError: As `Finetunes.read`, or too few rows.
        ModelError: The model is not there, or of another type than the scored one.
        UsageError: The recipe cannot work, its task is not that of the source, or the folder
            belongs to something else.
    """
    check_folder(folder, FINETUNE)
    if chosen.task is not None and chosen.task != recipe.task:
        raise UsageError(
            f"The {chosen.record.kind} is of the task {chosen.task}, and the recipe asks for "
            f"{recipe.task}: its placement and learning rate were chosen for another task. Give "
            f"--task {chosen.task}, or a placement."
        )
    init = chosen.placement.settings.init
    if not is_trial_init(init):
        raise UsageError(
            f"The placement initialises its adapters by {init!r}, which needs a separate step "
            "before training. Place again with another --init."
        )
    settings = recipe.finetune
    recipe = recipe.model_copy(update={"training": _training(recipe)})
    study = Finetunes.read(chosen.placement, recipe, folder, whole=not settings.patience)
    _check_resumes(study, recipe)
    study.task.check_length(study.training, len(study.splits.train))
    return Opened(
        study=study,
        chosen=chosen,
        choice=_choice(chosen, study, recipe),
        seed=recipe.seed if settings.seed is None else settings.seed,
        checkpoints=CheckpointSettings(
            per_epoch=settings.per_epoch, patience=settings.patience, keep=settings.keep
        ),
        passes=study.task.passes(study.training, len(study.splits.train)),
    )


def _training(recipe: FinalRecipe) -> object:
    settings, training = recipe.finetune, recipe.training
    if settings.steps is not None:
        return dataclasses.replace(training, steps=settings.steps)
    if settings.epochs is not None:
        return dataclasses.replace(training, epochs=settings.epochs, steps=None)
    return training


def _check_resumes(study: Finetunes, recipe: FinalRecipe) -> None:
    """Refuse early stopping of a task whose own trainer reads no checkpoints."""
    if recipe.finetune.patience and not study.task.resumes:
        raise UsageError(
            f"The task {study.task.name} does not save checkpoints (Task.resumes), so that it "
            "cannot stop early. Give --patience 0, or save and read those of its session."
        )


def _choice(chosen: Chosen, study: Finetunes, recipe: FinalRecipe) -> FinetuneChoice:
    given = recipe.finetune.learning_rate
    if given is not None:
        rate, origin = given, "the recipe"
    elif chosen.learning_rate is not None:
        rate, origin = chosen.learning_rate, f"the {chosen.record.kind}"
    else:
        rate, origin = study.usual_rate, "the usual rate of the task, the model and the steps"
    return FinetuneChoice(
        source=chosen.record.kind,
        source_digest=chosen.record.digest(),
        arm=chosen.arm,
        why=chosen.why,
        learning_rate=rate,
        rate_from=origin,
    )


# --------------------------------------------------------------------------- the trials


def final_spec(opened: Opened) -> TrialSpec:
    """Return the training of the adapter that ships, in the folder of the run."""
    study = opened.study
    spec = study.trial_spec(
        opened.chosen.arm,
        opened.chosen.placement,
        learning_rate=opened.choice.learning_rate,
        seed=opened.seed,
        phase=FINAL,
        judged_on=REPORT,
    )
    return replace(spec, data=_data(opened), checkpoints=opened.checkpoints)


def base_spec(opened: Opened) -> TrialSpec:
    """Return the trial that judges the model without training, in the same way as the adapter.

    It takes one step at a learning rate of 0, after which its adapters are still without effect.
    """
    study = opened.study
    a_step = study.training.batch_size * study.training.accumulation
    return study.trial_spec(
        BASE,
        opened.chosen.placement,
        learning_rate=0.0,
        seed=opened.seed,
        phase=UNTRAINED,
        judged_on=REPORT,
        rows=min(len(study.splits.train), a_step),
        steps=1,
    )


def _data(opened: Opened) -> TrialData:
    """Return the files, relative to the folder of the run."""
    splits = opened.study.splits
    data = opened.study.data(REPORT)
    selects = bool(opened.checkpoints.patience)
    return replace(
        data,
        train=f"{FOLDER}/{TRAIN}",
        evaluation=f"{FOLDER}/{REPORT}",
        general=f"{FOLDER}/{GENERAL}" if data.general else None,
        selection=f"{FOLDER}/{SELECT}" if selects else None,
        selection_sha256=splits.digests[SELECT] if selects else None,
    )


def check_same(folder: Path, spec: TrialSpec) -> None:
    """Refuse a folder that holds a finetune of other settings.

    Raises:
        UsageError: The text names what differs.
        RecordError: The spec in the folder is damaged.
    """
    path = folder / SPEC
    if not path.exists():
        return
    before, now = TrialSpec.load(path).to_dict(), spec.to_dict()
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            what = _difference(key, before, now)
            raise UsageError(f"The folder {folder} belongs to another finetune: {what}. {_HINT}")


def _difference(key: str, before: dict[str, object], now: dict[str, object]) -> str:
    first, second = before.get(key), now.get(key)
    if isinstance(first, dict) and isinstance(second, dict):
        inner = next(name for name in (*first, *second) if first.get(name) != second.get(name))
        return _difference(inner, first, second) if inner != "sites" else f"its {key} differs"
    plain = (int, float, str, bool, type(None))
    if isinstance(first, plain) and isinstance(second, plain):
        return f"its {key.replace('_', ' ')} is {first!r}, now {second!r} is asked"
    return f"its {key} differs"


def check_evaluations(opened: Opened) -> None:
    """Refuse a patience that cannot stop anything.

    Raises:
        DataError: The training has no more evaluations than the patience.
    """
    patience = opened.checkpoints.patience
    evaluations = math.ceil(opened.passes.steps / opened.every)
    if patience and evaluations < 2:
        steps = "1 step" if opened.passes.steps == 1 else f"{opened.passes.steps} steps"
        raise DataError(
            f"The training has {steps} and so 1 evaluation, which leaves nothing to choose from. "
            "Give more epochs, a larger finetune.per_epoch, or --patience 0, which trains on the "
            "selection rows as well."
        )
