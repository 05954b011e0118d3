"""The folder of a run: whose it is, and whether the disk holds what will be written there."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from plop_lora.errors import OutputError, UsageError
from plop_lora.files import atomic_file, check_writable, size
from plop_lora.recipe import Proof
from plop_lora.records import Scores

HOME = "plop-verify"
TRIALS = "trials"
RECIPE, SCORES, RECORD = "recipe.yaml", "scores.json", "verification.json"
FREE = ("arms", "seeds", "margin", "quick", "runner", "price", "report_to")
"""What may change between two runs in one folder: no finished trial turns wrong by it, so more
seeds or another rival go on from those that are there."""
DATA = ("train", "eval")
"""Names that may be written otherwise; the content of the splits is compared instead."""
ADAPTER_BYTES = 4
OPTIMIZER_BYTES = 12
SPARE = 1.2


def default_folder(recipe: Proof, scores: Scores) -> Path:
    """Return the folder of a recipe and scores beside the working directory.

    A recipe that differs in nothing that decides a trial has the same folder.
    """
    document = json.dumps([_deciding(recipe, with_data=True), scores.digest()], sort_keys=True)
    return Path(HOME) / hashlib.sha256(document.encode()).hexdigest()[:8]


def check_owner(folder: Path, recipe: Proof, scores: Scores) -> None:
    """Refuse a folder that holds the trials of another recipe or of other scores.

    Raises:
        UsageError: the text names what differs.
    """
    hint = "Name another folder with --folder, or remove this one."
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"The folder {folder} is a file. {hint}")
    if (folder / SCORES).exists() and Scores.load(folder / SCORES).digest() != scores.digest():
        raise UsageError(f"The folder {folder} belongs to other scores. {hint}")
    if not (folder / RECIPE).exists():
        # A run that was killed in its first write leaves a hidden temporary file at most.
        visible = folder.is_dir() and any(p.name[0] != "." for p in folder.iterdir())
        if visible and not (folder / SCORES).exists():
            raise UsageError(f"The folder {folder} holds something else than a run. {hint}")
        return
    before = _deciding(type(recipe).read(folder / RECIPE))
    now = _deciding(recipe)
    for key in now:
        if before[key] != now[key]:
            raise UsageError(
                f"The folder {folder} belongs to another recipe: its {key} is {before[key]!r}, "
                f"now {now[key]!r} is asked. {hint}"
            )


def claim(folder: Path, recipe: Proof, scores: Scores) -> None:
    """Write the scores and the resolved recipe into a folder that `check_owner` let pass.

    Raises:
        OutputError: the folder cannot be written.
    """
    if not (folder / SCORES).exists():
        scores.save(folder / SCORES)
    with atomic_file(folder / RECIPE) as file:
        yaml.safe_dump(recipe.model_dump(mode="json"), file, sort_keys=False, allow_unicode=True)


def _deciding(recipe: Proof, *, with_data: bool = False) -> dict[str, Any]:
    """Return what decides a trial, with a section's keys behind its name: `training.epochs`."""
    left_out = FREE if with_data else (*FREE, *DATA)
    document = recipe.model_dump(mode="json", exclude=set(left_out))
    flat: dict[str, Any] = {}
    for key, value in document.items():
        inside = value if isinstance(value, dict) else {"": value}
        flat |= {f"{key}.{name}".rstrip("."): entry for name, entry in inside.items()}
    return flat


def check_disk(folder: Path, trials: int, parameters: int) -> None:
    """Refuse to start where the adapters of all trials do not fit on the disk.

    Args:
        folder: of the run; it need not exist yet.
        trials: each keeps its adapter in float32.
        parameters: of one adapter.

    Raises:
        OutputError: the folder cannot be written, or less is free than is needed.
    """
    check_writable(folder / RECIPE)
    needed = int(SPARE * parameters * (trials * ADAPTER_BYTES + OPTIMIZER_BYTES))
    there = folder.resolve()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if free < needed:
        raise OutputError(
            f"{trials} adapters of {parameters:,} parameters need {size(needed)} in {folder}, but "
            f"{size(free)} are free. Name a folder on another disk with --folder, or take fewer "
            "arms or seeds."
        )
