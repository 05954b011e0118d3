"""The general text of a study: which texts, and where there are none, why. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from plop_lora.data.documents import load_documents
from plop_lora.data.general_text import BUNDLED, bundled_texts
from plop_lora.errors import DataError, UsageError
from plop_lora.recipe import GeneralRecipe
from plop_lora.study.splits import FOLDER, GENERAL, REPORT
from plop_lora.training.task import Task


class GeneralText(NamedTuple):
    """The texts of a study, and notes on why there are none."""

    texts: Sequence[str] = ()
    notes: tuple[str, ...] = ()


def general_text(recipe: GeneralRecipe, task: Task, folder: Path) -> GeneralText:
    """Return the texts on which the loss outside the task is measured.

    The folder of a run that was begun without them, as by a release that did not know them, goes
    on without: otherwise its finished trials would have to run again.

    Args:
        recipe: Which texts, and how many.
        task: Task that is trained; only some have a loss on text.
        folder: Folder of the run, which need not exist.

    Raises:
        DataError: The data cannot be read, or none of its fields is text.
        UsageError: The folder was begun without general text and some is asked for, or the other
            way round.
    """
    known = (folder / FOLDER / GENERAL).exists()
    if not recipe.most:
        if known:
            raise UsageError(_BEGUN_WITH.format(folder=folder))
        return GeneralText()
    if not task.reads_text:
        return GeneralText(notes=(_NO_LOSS.format(task=task.name),))
    if (folder / FOLDER / REPORT).exists() and not known:
        if recipe != GeneralRecipe():
            raise UsageError(f"{_BEGUN_WITHOUT.format(folder=folder)}. {_HINT}")
        return GeneralText(notes=(_BEGUN_WITHOUT.format(folder=folder),))
    return GeneralText(read_texts(recipe))


_NO_LOSS = (
    "the loss on general text is not measured: a model of the task {task} has no loss on text"
)
_HINT = "Name another folder with --folder, or remove this one."
_BEGUN_WITHOUT = "the run in {folder} was begun without general text, so none is judged in it"
_BEGUN_WITH = "The run in {folder} was begun with general text, and general.most is 0 now. " + _HINT


def read_texts(recipe: GeneralRecipe) -> list[str]:
    """Return the general texts that a recipe asks for, from the user's data or the bundled ones.

    Raises:
        DataError: The data cannot be read, has no rows, or none of its fields is text.
    """
    if recipe.data is None:
        return bundled_texts(recipe.most)
    try:
        found = load_documents(recipe.data, text=recipe.text, samples=recipe.most)
    except DataError as error:
        raise DataError(
            f"The general text cannot be read: {error} The keys are general.data and general.text."
        ) from error
    return [f"{item.text}{item.target or ''}" for item in found.items]


def source_of(recipe: GeneralRecipe) -> str:
    """Return what the texts are called in a report."""
    return recipe.data or BUNDLED
