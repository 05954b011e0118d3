"""The stages `verify` and `tune`, one of which puts the shortlist to the proof.

Trials lie beside the stage, in a folder of what decides a trial: more seeds or another rival make
another result, but go on from the trials that are there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from plop_lora.cost import HOUR
from plop_lora.pipeline.asked import RunRecipe
from plop_lora.pipeline.reading import EVAL, TRAIN, code_of, general_content
from plop_lora.pipeline.stage import Stage, Work
from plop_lora.pipeline.stages import score
from plop_lora.recipe import FinetuneRecipe, TuneRecipe, VerifyRecipe
from plop_lora.recipe.run import TUNE, VERIFY
from plop_lora.records import Scores, Tuning, Verification
from plop_lora.records.run import (
    BEATEN,
    CONFIRMED,
    UNDECIDED,
    RunVerdict,
    StageEstimate,
    StageOutcome,
)
from plop_lora.records.tuning import TuningVerdict
from plop_lora.records.verification import Verdict
from plop_lora.reports.brief import brief

R = TypeVar("R", bound=FinetuneRecipe)
RESULTS = {VERIFY: "verification.json", TUNE: "tuning.json"}
_FREE = {"runner", "report_to", "storage", "train", "eval"}
"""Keys on which no result depends, and those of the rows, whose content counts instead."""
_VERIFIED = {
    Verdict.CONFIRMED: CONFIRMED, Verdict.BEATEN: BEATEN, Verdict.INCONCLUSIVE: UNDECIDED,
}  # fmt: skip
_TUNED: Mapping[TuningVerdict, RunVerdict] = {
    TuningVerdict.IMPROVED: CONFIRMED, TuningVerdict.STANDS: CONFIRMED,
    TuningVerdict.INCONCLUSIVE: UNDECIDED, TuningVerdict.UNCONFIRMED: UNDECIDED,
}  # fmt: skip


def _recipe(recipe: RunRecipe, kind: type[R], rows: Path | None) -> R:
    """Return the recipe of the study, on the rows of the stage `acquire`."""
    folder = rows or Path()
    return recipe.section(kind, train=str(folder / TRAIN), eval=str(folder / EVAL))


def _deciding(kind: type[FinetuneRecipe]) -> Callable[[RunRecipe], Mapping[str, object]]:
    return lambda recipe: _recipe(recipe, kind, None).model_dump(mode="json", exclude=_FREE)


def _inputs(kind: type[FinetuneRecipe]) -> Callable[[RunRecipe], Mapping[str, str | None]]:
    def inputs(recipe: RunRecipe) -> Mapping[str, str | None]:
        asked = _recipe(recipe, kind, None)
        own = (asked.task, asked.evaluation.metric, *asked.training.rewards)
        return {"general text": general_content(asked.general), **code_of(own)}

    return inputs


def _study(work: Work, kind: type[R]) -> tuple[Scores, R, Path]:
    """Return the scores, the recipe of the study and the folder of its trials.

    The folder is named by what decides the trials, and not by where the run lies.
    """
    from plop_lora.study.folder import default_folder

    made = work.made["acquire"]
    scores = Scores.load(work.made["score"] / score.RESULT)
    trials = default_folder(_recipe(work.recipe, kind, Path(made.name)), scores).name
    return scores, _recipe(work.recipe, kind, made), work.scratch / trials


def _verify(work: Work) -> None:
    from plop_lora.verification import verify

    scores, recipe, trials = _study(work, VerifyRecipe)
    verify(scores, recipe, folder=trials, watch=work.watch).save(work.folder / RESULTS[VERIFY])


def _tune(work: Work) -> None:
    from plop_lora.tuning import tune

    scores, recipe, trials = _study(work, TuneRecipe)
    tune(scores, recipe, folder=trials, watch=work.watch).save(work.folder / RESULTS[TUNE])


def _verify_time(work: Work) -> StageEstimate | None:
    from plop_lora.verification import plan

    scores, recipe, trials = _study(work, VerifyRecipe)
    return trials_take(plan(scores, recipe, folder=trials).seconds, recipe)


def _tune_time(work: Work) -> StageEstimate | None:
    from plop_lora.tuning import plan

    scores, recipe, trials = _study(work, TuneRecipe)
    return trials_take(plan(scores, recipe, folder=trials).device_seconds, recipe)


def trials_take(seconds: float | None, recipe: FinetuneRecipe) -> StageEstimate | None:
    """Return what trials take that a plan has put at these seconds of device time."""
    if seconds is None:
        return None
    hourly = recipe.price.hourly
    return StageEstimate(
        seconds=seconds,
        source="the plan of its trials",
        money=None if hourly is None else seconds / HOUR * hourly,
        currency="" if hourly is None else recipe.price.currency,
    )


def _verified(folder: Path) -> StageOutcome:
    record = Verification.load(folder / RESULTS[VERIFY])
    return _said(record, _VERIFIED[record.verdict])


def _tuned(folder: Path) -> StageOutcome:
    record = Tuning.load(folder / RESULTS[TUNE])
    return _said(record, _TUNED[record.verdict])


def _said(record: Verification | Tuning, verdict: RunVerdict) -> StageOutcome:
    total = record.cost.total
    return StageOutcome(
        words=brief(record),
        verdict=verdict,
        device_seconds=total.device_seconds,
        money=total.money,
        currency=record.cost.currency if total.money is not None else "",
    )


VERIFY_STAGE = Stage(
    name=VERIFY,
    version=1,
    needs=("acquire", "score"),
    deciding=_deciding(VerifyRecipe),
    inputs=_inputs(VerifyRecipe),
    work=_verify,
    outcome=_verified,
    result=RESULTS[VERIFY],
    estimate=_verify_time,
)
TUNE_STAGE = Stage(
    name=TUNE,
    version=1,
    needs=("acquire", "score"),
    deciding=_deciding(TuneRecipe),
    inputs=_inputs(TuneRecipe),
    work=_tune,
    outcome=_tuned,
    result=RESULTS[TUNE],
    estimate=_tune_time,
)
