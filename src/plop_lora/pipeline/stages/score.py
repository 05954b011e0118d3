"""The stage `score`: the scores of the model on the training rows."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from plop_lora.pipeline.asked import RunRecipe
from plop_lora.pipeline.reading import TRAIN, model_identity
from plop_lora.pipeline.stage import Stage, Work
from plop_lora.recipe import DataKeys, ScoreRecipe, ScoringSettings
from plop_lora.records import Scores
from plop_lora.records.run import StageOutcome

RESULT = "scores.json"
_FREE = {"device", "engine", "ray_address", "cache", "batch_size"}
"""Settings on which no score depends."""


def _settings(recipe: RunRecipe) -> ScoringSettings:
    return recipe.section(ScoreRecipe).score


def _deciding(recipe: RunRecipe) -> Mapping[str, object]:
    return {
        "score": _settings(recipe).model_dump(mode="json", exclude=_FREE),
        "samples": recipe.run.samples,
        **recipe.section(DataKeys).model_dump(mode="json"),
    }


def _work(work: Work) -> None:
    from plop_lora.data.documents import load_documents
    from plop_lora.scoring import score
    from plop_lora.scoring.inputs import chat_of_model

    settings = _settings(work.recipe)
    rows = work.recipe.section(DataKeys)
    template = f"{rows.prompt or ''}{rows.completion or ''}" or None
    documents = load_documents(
        work.made["acquire"] / TRAIN,
        text=None if template else rows.text,
        template=template,
        chat=functools.partial(chat_of_model, work.recipe.model, settings.revision),
        samples=work.recipe.run.samples,
        seed=settings.seed,
        token=settings.token,
    )
    score(work.recipe.model, texts=documents, settings=settings).save(work.folder / RESULT)


def _outcome(folder: Path) -> StageOutcome:
    scores = Scores.load(folder / RESULT)
    ranked = sorted(scores.types, key=lambda one: one.nfn)[: scores.provenance.top or 3]
    names = ", ".join(f"{one.name} {one.nfn:.2f}" for one in ranked)
    return StageOutcome(words=f"lowest NFN: {names}")


SCORE = Stage(
    name="score",
    version=1,
    needs=("acquire",),
    deciding=_deciding,
    inputs=lambda recipe: {"model": model_identity(recipe)},
    work=_work,
    outcome=_outcome,
    result=RESULT,
)
