"""The folder of a run: whose it is, and whether the disk holds what will be written there."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from plop_lora.errors import OutputError, RecordError, UsageError
from plop_lora.files import atomic_file, check_writable, size, try_lock
from plop_lora.recipe import FinetuneRecipe, GeneralRecipe
from plop_lora.records import Scores
from plop_lora.study.model import model_of
from plop_lora.training.weights import TrainedModel, is_commit

HOME = "plop-verify"
TRIALS = "trials"
MARK = "run.json"
"""Written first: a folder without it, and with anything else, is not a run's."""
RECIPE, SCORES, RECORD = "recipe.yaml", "scores.json", "verification.json"
VERIFY, TUNE, FINETUNE = "verify", "tune", "finetune"
_OLD_MARKS = {VERIFY: (SCORES, RECIPE, "data", TRIALS), TUNE: ("worker", "data", TRIALS)}
"""What a run of a release without the mark has: all of these. Final finetunes have the mark."""
LOCK = "lock"
_LOCKS = (LOCK, ".lock")
DATA = ("train", "eval", "general")
"""Names that may be written otherwise; the content of the splits is compared instead."""
ADAPTER_BYTES = 4
OPTIMIZER_BYTES = 12
SPARE = 1.2


def default_folder(recipe: FinetuneRecipe, scores: Scores) -> Path:
    """Return the folder of a recipe and scores beside the working directory.

    A recipe that differs in nothing that decides a trial has the same folder.
    """
    document = json.dumps([_deciding(recipe, with_data=True), scores.digest()], sort_keys=True)
    return Path(HOME) / hashlib.sha256(document.encode()).hexdigest()[:8]


def check_folder(folder: Path, verb: str) -> None:
    """Refuse a folder that is a file, that belongs to the user, or to a run of the other verb.

    Args:
        folder: of a run, which need not exist yet.
        verb: `verify`, `tune` or `finetune`.

    Raises:
        UsageError: nothing was written there.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"The folder {folder} is a file. {_ANOTHER}")
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if MARK in there:
        found = _read_mark(folder).get("verb")
        if found != verb:
            raise UsageError(f"The folder {folder} belongs to a run of plop {found}. {_HINT}")
        return
    # A run that was killed in its first write leaves a lock and a hidden temporary file at most.
    visible = any(name[0] != "." and name not in _LOCKS for name in there)
    marks = _OLD_MARKS.get(verb, (MARK,))
    if visible and not all(name in there for name in marks):
        raise UsageError(f"The folder {folder} holds something else than a run. {_ANOTHER}")


_ANOTHER = "Name another folder with --folder."
_HINT = "Name another folder with --folder, or remove this one."


def check_owner(folder: Path, recipe: FinetuneRecipe, scores: Scores) -> None:
    """Refuse a folder that holds the trials of another recipe, of other scores or weights.

    Raises:
        UsageError: the text names what differs.
    """
    check_folder(folder, VERIFY)
    if (folder / MARK).exists():
        _check_same_weights(folder, model_of(scores, recipe.model, recipe.revision))
    if (folder / SCORES).exists() and Scores.load(folder / SCORES).digest() != scores.digest():
        raise UsageError(f"The folder {folder} belongs to other scores. {_HINT}")
    if not (folder / RECIPE).exists():
        return
    before = _deciding(type(recipe).read(folder / RECIPE))
    now = _deciding(recipe)
    for key in sorted(now.keys() | before.keys()):
        if before.get(key) != now.get(key):
            raise UsageError(
                f"The folder {folder} belongs to another recipe: its {key} is "
                f"{before.get(key)!r}, now {now.get(key)!r} is asked. {_HINT}"
            )


def _check_same_weights(folder: Path, model: TrainedModel) -> None:
    """Compare what is known of both.

    A hub id that was never loaded has no commit yet, or only the name of a branch: its trials have
    another digest than those of the commit, so they are not mixed.
    """
    before = _read_mark(folder).get("model") or {}
    for key, now in (("revision", model.revision), ("weights", model.weights)):
        known = before.get(key)
        comparable = key == "weights" or (is_commit(known) and is_commit(now))
        if known and now and known != now and comparable:
            raise UsageError(
                f"The folder {folder} belongs to other weights of {before.get('name')}: their "
                f"{key} is {known}, that of {model.name} is {now}. Trials of both must not be "
                f"compared. {_HINT}"
            )


def _read_mark(folder: Path) -> dict[str, Any]:
    path = folder / MARK
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(
            f"{path} is damaged ({error}). Remove it if the folder is a run of plop."
        ) from error
    return document if isinstance(document, dict) else {}


def mark(folder: Path, verb: str, model: TrainedModel) -> None:
    """Say whose a folder is, and of which weights; what is known already stays.

    Raises:
        OutputError: the folder cannot be written.
    """
    path = folder / MARK
    before = _read_mark(folder).get("model", {}) if path.exists() else {}
    known = {key: value for key, value in before.items() if value}
    document = {"verb": verb, "model": dataclasses.asdict(model) | known}
    if not path.exists() or document["model"] != before:
        with atomic_file(path) as file:
            json.dump(document, file)


def keep(folder: Path, recipe: FinetuneRecipe, scores: Scores) -> None:
    """Write the scores and the resolved recipe into a folder that `check_owner` let pass.

    Raises:
        OutputError: the folder cannot be written.
    """
    if not (folder / SCORES).exists():
        scores.save(folder / SCORES)
    with atomic_file(folder / RECIPE) as file:
        yaml.safe_dump(recipe.model_dump(mode="json"), file, sort_keys=False, allow_unicode=True)


def _deciding(recipe: FinetuneRecipe, *, with_data: bool = False) -> dict[str, object]:
    """Return what decides a trial, with a section's keys behind its name: `training.epochs`."""
    free = recipe.CHANGEABLE
    left_out = free if with_data else (*free, *DATA)
    if recipe.general == GeneralRecipe():
        # The folder of a recipe keeps the name that it had before there was this section.
        left_out = (*left_out, "general")
    document = recipe.model_dump(mode="json", exclude=set(left_out))
    flat: dict[str, object] = {}
    for key, value in document.items():
        inside = value if isinstance(value, dict) else {"": value}
        flat |= {f"{key}.{name}".rstrip("."): entry for name, entry in inside.items()}
    return flat


@contextlib.contextmanager
def alone_in(folder: Path, verb: str) -> Iterator[None]:
    """Hold a run folder against a second process; a killed one lets it go by itself.

    Raises:
        UsageError: another process works in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as file:
        if not try_lock(file):
            raise UsageError(
                f"Another plop {verb} works in {folder}. Wait for it, or give each worker of a "
                "shared search a --folder of its own."
            )
        yield


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
