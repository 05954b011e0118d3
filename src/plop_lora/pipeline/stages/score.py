"""The stage `score`: the scores of the model on the training rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from plop_lora.pipeline.asked import RunRecipe
from plop_lora.pipeline.reading import TRAIN, model_identity
from plop_lora.pipeline.stage import Stage, Work
from plop_lora.recipe import AcquireRecipe, ScoreRecipe, ScoringSettings
from plop_lora.records import Scores
from plop_lora.records.run import StageOutcome
from plop_lora.reports.brief import brief

RESULT = "scores.json"
_FREE = {"device", "engine", "ray_address", "cache", "batch_size"}
"""Settings on which no score depends."""


def _settings(recipe: RunRecipe) -> ScoringSettings:
    return recipe.section(ScoreRecipe).score


def _deciding(recipe: RunRecipe) -> Mapping[str, object]:
    return {
        "score": _settings(recipe).model_dump(mode="json", exclude=_FREE),
        "samples": recipe.run.samples,
        "rows": _fields(recipe),
    }


def _fields(recipe: RunRecipe) -> dict[str, str | None]:
    """Return how the text of a row is read."""
    asked = recipe.section(AcquireRecipe)
    return {"text": asked.text, "prompt": asked.prompt, "completion": asked.completion}


def _work(work: Work) -> None:
    from plop_lora.data.documents import load_documents
    from plop_lora.models.loading import quietly
    from plop_lora.scoring import score
    from plop_lora.scoring.inputs import rendered_by
    from plop_lora.training.weights import trained_model

    settings = _settings(work.recipe)
    commit = trained_model(work.recipe.model, settings.revision).revision
    settings = settings.model_copy(update={"revision": commit})  # that of the key of this stage
    fields = _fields(work.recipe)
    template = f"{fields['prompt'] or ''}{fields['completion'] or ''}" or None
    documents = load_documents(
        work.made["acquire"] / TRAIN,
        text=None if template else fields["text"],
        template=template,
        chat=rendered_by(work.recipe.model, settings.revision),
        samples=work.recipe.run.samples,
        seed=settings.seed,
        token=settings.token,
    )
    with quietly():
        scores = score(work.recipe.model, texts=documents, settings=settings)
    scores.save(work.folder / RESULT)


def _refresh(recipe: RunRecipe) -> None:
    """Ask the hub for the commit that the branch of the model has now."""
    from plop_lora.models.origin import Origin
    from plop_lora.models.pinning import pinned

    settings = _settings(recipe)
    pinned(recipe.model, Origin(settings.revision, token=settings.token))


def _outcome(folder: Path) -> StageOutcome:
    return StageOutcome(words=brief(Scores.load(folder / RESULT)))


SCORE = Stage(
    name="score",
    version=1,
    needs=("acquire",),
    deciding=_deciding,
    inputs=lambda recipe: {"model": model_identity(recipe)},
    work=_work,
    outcome=_outcome,
    result=RESULT,
    refresh=_refresh,
)
