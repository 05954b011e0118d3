"""The stage `acquire`: the rows that every later stage reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from plop_lora.data.reading import open_rows
from plop_lora.pipeline.asked import RunRecipe
from plop_lora.pipeline.reading import ROWS, content
from plop_lora.pipeline.stage import Stage, Work
from plop_lora.recipe import AcquireRecipe
from plop_lora.records import Acquisition
from plop_lora.records.run import GATE_FAILED, OPEN, StageOutcome
from plop_lora.reports.brief import brief

RESULT = f"{ROWS}/acquisition.json"


def _deciding(recipe: RunRecipe) -> Mapping[str, object]:
    return recipe.section(AcquireRecipe).model_dump(mode="json", exclude={"train", "eval"})


def _inputs(recipe: RunRecipe) -> Mapping[str, str | None]:
    asked = recipe.section(AcquireRecipe)
    for name in (asked.train, asked.eval):
        if name is not None:
            open_rows(name)  # a file that is not there is told at once
    return {"train": content(asked.train), "eval": content(asked.eval)}


def _work(work: Work) -> None:
    from plop_lora.acquisition import acquire

    acquire(work.recipe.section(AcquireRecipe), work.folder / ROWS)


def _outcome(folder: Path) -> StageOutcome:
    record = Acquisition.load(folder / RESULT)
    refused = record.exit_code != 0
    return StageOutcome(
        words=brief(record),
        verdict=GATE_FAILED if refused else OPEN,
        waiting="the recipe refuses these rows: clean them, or allow what was found" if refused
        else "",
    )  # fmt: skip


ACQUIRE = Stage(
    name="acquire",
    version=1,
    needs=(),
    deciding=_deciding,
    inputs=_inputs,
    work=_work,
    outcome=_outcome,
    result=RESULT,
)
