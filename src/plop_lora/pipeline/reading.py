"""What the stages read from outside a run, by the content that identifies it. Imports no torch."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from plop_lora.files import file_digest
from plop_lora.pipeline.asked import RunRecipe
from plop_lora.recipe import GeneralRecipe, ScoreRecipe
from plop_lora.training.weights import read_config, trained_model

ROWS = "rows"
TRAIN, EVAL = f"{ROWS}/train.jsonl", f"{ROWS}/eval.jsonl"
"""The files that the stage `acquire` leaves for the others, in its folder."""


def model_identity(recipe: RunRecipe) -> str:
    """Return the commit of a hub id, or a hash of the files of a folder.

    Raises:
        ModelError: There is no such model.
    """
    revision = recipe.section(ScoreRecipe).score.revision
    # The configuration of a hub id is loaded first, which tells the commit of a branch.
    read_config(trained_model(recipe.model, revision), download=True)
    model = trained_model(recipe.model, revision)
    return model.weights or f"{model.name}@{model.revision}"


def content(path: str | None) -> str | None:
    """Return the SHA-256 of a local file or folder, or the name of what is neither."""
    if path is None:
        return None
    place = Path(path).expanduser()
    if place.is_file():
        return file_digest(place)
    if not place.is_dir():
        return path
    names = sorted(one for one in place.rglob("*") if one.is_file())
    lines = [f"{one.relative_to(place).as_posix()} {file_digest(one)}" for one in names]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def general_content(general: GeneralRecipe) -> str | None:
    """Return what identifies the general text of a recipe; None for the bundled texts."""
    return content(general.data)


def code_of(names: tuple[str | None, ...]) -> dict[str, str | None]:
    """Return the content of the files of functions that a recipe names as `module:function`."""
    found: dict[str, str | None] = {}
    for name in names:
        module, colon, _ = (name or "").partition(":")
        if colon:
            found[f"module {module}"] = content(_file_of(module))
    return found


def _file_of(module: str) -> str | None:
    """Return the file of a module, in the working directory first; nothing is imported."""
    place = Path(*module.split("."))
    for candidate in (place.with_suffix(".py"), place / "__init__.py"):
        if candidate.is_file():
            return str(candidate)
    try:
        spec = importlib.util.find_spec(module.partition(".")[0])
    except (ImportError, ValueError):
        return None
    return None if spec is None else spec.origin
