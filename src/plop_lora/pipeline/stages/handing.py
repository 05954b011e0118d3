"""The stage `export`: configurations for trainers and servers, and the A/B test to come."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from plop_lora.errors import UsageError
from plop_lora.exports.registry import find_target
from plop_lora.pipeline.asked import RunRecipe
from plop_lora.pipeline.reading import content
from plop_lora.pipeline.stage import Stage, Work
from plop_lora.pipeline.stages import gate
from plop_lora.pipeline.stages.adapter import adapter_in, chosen_placement
from plop_lora.recipe import ExperimentRecipe, ExperimentSettings
from plop_lora.records import CheckVerdict, Experiment, GateVerdict
from plop_lora.records.run import StageOutcome
from plop_lora.reports.brief import brief

RESULT, EXPERIMENT, SERVED = "placement.json", "experiment.json", "vllm"


def _experiment(recipe: RunRecipe) -> ExperimentSettings | None:
    """Return the A/B test that is set up, or None.

    Raises:
        UsageError: The recipe has no section `ab`, or no such arm in it.
    """
    arm = recipe.run.arm
    if arm is None:
        return None
    settings = recipe.section(ExperimentRecipe).ab
    if arm not in settings.arms or arm == settings.control:
        raise UsageError(
            f"In {recipe.source}, run.arm is {arm!r}, which is no candidate of ab.arms: "
            f"{', '.join(name for name in settings.arms if name != settings.control)}."
        )
    return settings


def _deciding(recipe: RunRecipe) -> Mapping[str, object]:
    settings = _experiment(recipe)
    return {
        "export": [
            name if name == SERVED else find_target(name).name for name in recipe.run.export
        ],
        "arm": recipe.run.arm,
        "ab": None if settings is None else settings.model_dump(mode="json"),
    }


def _inputs(recipe: RunRecipe) -> Mapping[str, str | None]:
    """Return the content of the other arms and of their verdicts."""
    settings = _experiment(recipe)
    arms = {} if settings is None else settings.arms
    return {
        f"arm {name}": content(str(Path(arm.adapter) / "adapter_model.safetensors"))
        for name, arm in arms.items()
        if arm.adapter is not None and name != recipe.run.arm
    }


def _work(work: Work) -> None:
    from plop_lora.exports import export

    placement = chosen_placement(work.made[work.recipe.run.proof])
    placement.save(work.folder / RESULT)
    for target in work.recipe.run.export:
        if target == SERVED:
            export(adapter_in(work), work.folder / SERVED, to=SERVED)
        else:
            export(placement, work.folder / target, to=target, allow_loss=True)
    settings = _experiment(work.recipe)
    verdict = work.made["gate"] / gate.RESULT
    if settings is not None and GateVerdict.load(verdict).verdict is CheckVerdict.PASS:
        _set_up(work, settings, verdict)


def _set_up(work: Work, settings: ExperimentSettings, verdict: Path) -> None:
    """Write the experiment in which the adapter of this run is a candidate."""
    from plop_lora.ab.design import design

    arm = work.recipe.run.arm
    assert arm is not None
    mine = settings.arms[arm].model_copy(
        update={"adapter": str(adapter_in(work).resolve()), "gate": str(verdict)}
    )
    arms = {**settings.arms, arm: mine}
    path = design(settings.model_copy(update={"arms": arms})).save(work.folder / EXPERIMENT)
    path.chmod(0o600)  # it holds the salt


def _outcome(folder: Path) -> StageOutcome:
    written = sorted(path.name for path in folder.iterdir() if path.is_dir())
    words = f"written for {', '.join(written)}" if written else "nothing was asked for"
    path = folder / EXPERIMENT
    if path.exists():
        words += f"; experiment {brief(Experiment.load(path))}"
    return StageOutcome(words=words)


def export_stage(proven: str) -> Stage:
    """Return the last stage.

    Args:
        proven: Name of the stage that put the shortlist to the proof.
    """
    return Stage(
        name="export",
        version=1,
        needs=(proven, "finetune", "gate"),
        deciding=_deciding,
        inputs=_inputs,
        work=_work,
        outcome=_outcome,
        result=RESULT,
    )
