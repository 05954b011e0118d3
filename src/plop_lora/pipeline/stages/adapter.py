"""The stage `finetune`: the adapter that ships, trained here or by a trainer of the user's.

Whoever has a trainer gets its configuration, and the run waits until `--adapter` names the folder
of what it has trained.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from plop_lora.errors import RecordError
from plop_lora.exports.registry import find_target
from plop_lora.files import atomic_file
from plop_lora.pipeline.asked import RunRecipe
from plop_lora.pipeline.reading import EVAL, TRAIN, code_of, general_content
from plop_lora.pipeline.stage import Stage, Work
from plop_lora.pipeline.stages import proof
from plop_lora.recipe import FinalRecipe
from plop_lora.recipe.run import OWN_TRAINER
from plop_lora.records import Finetune, Placement, Tuning, Verification
from plop_lora.records.run import StageEstimate, StageOutcome
from plop_lora.reports.brief import brief

RESULT, TRAINED, GIVEN, HANDED = "finetune.json", "finetune", "adapter.json", "trainer"
_FREE = {"runner", "report_to", "train", "eval"}


def chosen_placement(folder: Path) -> Placement:
    """Return the placement that the stage before has decided for.

    Args:
        folder: Folder of the stage `verify` or `tune`.
    """
    path = folder / proof.RESULTS["verify"]
    if path.exists():
        record = Verification.load(path)
        return record.better_placement or record.placement
    return Tuning.load(folder / proof.RESULTS["tune"]).placement


def adapter_in(work: Work) -> Path:
    """Return the folder of the adapter that the stage `finetune` has made or was given."""
    folder = work.made["finetune"]
    given = folder / GIVEN
    if given.exists():
        return Path(json.loads(given.read_text(encoding="utf-8"))["adapter"])
    return folder / TRAINED / "adapter"


def _recipe(recipe: RunRecipe, rows: Path | None) -> FinalRecipe:
    folder = rows or Path()
    return recipe.section(FinalRecipe, train=str(folder / TRAIN), eval=str(folder / EVAL))


def _deciding(recipe: RunRecipe) -> Mapping[str, object]:
    run = recipe.run
    if run.adapter is not None:
        return {"trainer": "given"}
    if run.trainer != OWN_TRAINER:
        return {"trainer": find_target(run.trainer).name}
    return _recipe(recipe, None).model_dump(mode="json", exclude=_FREE)


def _inputs(recipe: RunRecipe) -> Mapping[str, str | None]:
    from plop_lora.gating.adapter import adapter_digest

    run = recipe.run
    if run.adapter is not None:
        return {"adapter": adapter_digest(Path(run.adapter))}
    if run.trainer != OWN_TRAINER:
        return {}
    asked = _recipe(recipe, None)
    own = (asked.task, asked.evaluation.metric, *asked.training.rewards)
    return {"general text": general_content(asked.general), **code_of(own)}


def _work(work: Work) -> None:
    run = work.recipe.run
    proven = work.made[run.proof]
    if run.adapter is not None:
        with atomic_file(work.folder / GIVEN) as file:
            json.dump({"adapter": str(Path(run.adapter).resolve())}, file)
    elif run.trainer != OWN_TRAINER:
        from plop_lora.exports import export

        placement = chosen_placement(proven)
        placement.save(work.folder / "placement.json")
        export(placement, work.folder / HANDED, to=run.trainer)
    else:
        from plop_lora.finetuning import finetune

        recipe = _recipe(work.recipe, work.made["acquire"])
        source = proven / proof.RESULTS[run.proof]
        folder = work.folder / TRAINED
        finetune(source, recipe, folder=folder, watch=work.watch).save(work.folder / RESULT)


def _outcome(folder: Path) -> StageOutcome:
    given = folder / GIVEN
    if given.exists():
        name = json.loads(given.read_text(encoding="utf-8")).get("adapter")
        if not isinstance(name, str):
            raise RecordError(f"{given} is damaged: it names no adapter.")
        return StageOutcome(words=f"the adapter in {name} is yours")
    if (folder / RESULT).exists():
        return _said(Finetune.load(folder / RESULT))
    placement = Placement.load(folder / "placement.json")
    return StageOutcome(
        words=f"written for your trainer: {brief(placement)}",
        waiting=f"train with the configuration in {folder / HANDED}, then go on with --adapter DIR",
    )


def _said(record: Finetune) -> StageOutcome:
    total = record.cost.total
    return StageOutcome(
        words=brief(record),
        device_seconds=total.device_seconds,
        money=total.money,
        currency=record.cost.currency if total.money is not None else "",
    )


def _estimate(work: Work) -> StageEstimate | None:
    """Return what the training takes; a trainer of the user's takes what it takes."""
    run = work.recipe.run
    if run.adapter is not None or run.trainer != OWN_TRAINER:
        return None
    from plop_lora.finetuning import plan

    source = work.made[run.proof] / proof.RESULTS[run.proof]
    recipe = _recipe(work.recipe, work.made["acquire"])
    return proof.trials_take(plan(source, recipe, folder=work.folder / TRAINED).seconds, recipe)


def finetune_stage(proven: str) -> Stage:
    """Return the stage after the one that puts the shortlist to the proof.

    Args:
        proven: Name of that stage, `verify` or `tune`.
    """
    return Stage(
        name="finetune",
        version=1,
        needs=("acquire", proven),
        deciding=_deciding,
        inputs=_inputs,
        work=_work,
        outcome=_outcome,
        result=RESULT,
        estimate=_estimate,
    )
