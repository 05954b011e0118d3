"""The stage `place`: the shortlist that the scores suggest."""

from __future__ import annotations

from pathlib import Path

from plop_lora.pipeline.stage import Stage, Work
from plop_lora.pipeline.stages import score
from plop_lora.recipe import PlaceRecipe
from plop_lora.records import Placement, Scores
from plop_lora.records.run import StageOutcome
from plop_lora.reports.brief import brief

RESULT = "placement.json"


def _work(work: Work) -> None:
    from plop_lora.placement import place

    scores = Scores.load(work.made["score"] / score.RESULT)
    place(scores, work.recipe.section(PlaceRecipe).place).save(work.folder / RESULT)


def _outcome(folder: Path) -> StageOutcome:
    return StageOutcome(words=brief(Placement.load(folder / RESULT)))


PLACE = Stage(
    name="place",
    version=1,
    needs=("score",),
    deciding=lambda recipe: {"place": recipe.section(PlaceRecipe).place.model_dump(mode="json")},
    inputs=lambda recipe: {},
    work=_work,
    outcome=_outcome,
    result=RESULT,
)
