"""The checkpoints in the folder of a training: which are complete, and which are kept. No torch.

A trainer writes a checkpoint file by file. Once it is complete, `complete.json` with the SHA-256 of
each of its files is written beside them. A checkpoint without it, with a file that differs, or with
a link in it is not read: it is what a killed process or a damaged disk has left. The digests
recognise damage; they do not make the files of somebody else safe to read.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from plop_lora.errors import OutputError
from plop_lora.evaluation.judged import Prepared, Row
from plop_lora.files import atomic_file, file_digest
from plop_lora.records import TrialSpec
from plop_lora.training.folder import CHECKPOINTS
from plop_lora.training.task import Checkpoints, Task

MARK, STATE = "complete.json", "trainer_state.json"
_NAME = re.compile(r"checkpoint-(\d+)")


class Found(NamedTuple):
    """The checkpoint to resume from, or None, and notes on those that cannot be used."""

    last: Path | None
    notes: tuple[str, ...]


def checkpoints_for(
    task: Task, spec: TrialSpec, folder: Path, rows: int, judge: Callable[[], float] | None
) -> Checkpoints | None:
    """Return the checkpoints of a training, or None if its spec asks for none.

    Args:
        task: Task of the training.
        spec: Specification, with the sizes of the batches as they are now.
        folder: Folder of the training.
        rows: Number of training rows.
        judge: Function that evaluates the model under training on the selection split.
    """
    settings = spec.checkpoints
    if settings is None or not task.resumes:
        return None
    a_pass = task.passes(replace(spec.training, epochs=1.0, steps=None), rows).steps
    every = max(1, round(a_pass / settings.per_epoch))
    return Checkpoints(
        folder=folder / CHECKPOINTS,
        every=min(every, task.passes(spec.training, rows).steps),
        settings=settings,
        criterion=task.criterion_of(spec.evaluation),
        judge=judge if settings.patience and spec.data.selection else None,
        last=find_last(folder / CHECKPOINTS).last,
    )


def judged_selection(task: Task, spec: TrialSpec, prepared: Prepared, rows: Sequence[Row]) -> float:
    """Return the criterion of the model as it is on the rows of the selection split.

    Raises:
        MeasurementError: An outcome of a row is not finite.
    """
    criterion = task.criterion_of(spec.evaluation)
    spec = replace(spec, evaluation=replace(spec.evaluation, metric=criterion))
    return float(task.judge(spec, prepared, rows, general=()).metrics[criterion])


# --------------------------------------------------------------------------- which are complete


def mark_complete(checkpoint: Path) -> None:
    """Write the digests of all files of a checkpoint, after which it counts as complete.

    Raises:
        OutputError: The checkpoint cannot be read or written.
    """
    try:
        digests = {path.name: file_digest(path) for path in sorted(checkpoint.iterdir())
                   if path.is_file() and path.name != MARK}  # fmt: skip
    except OSError as error:
        raise OutputError(
            f"Cannot read the checkpoint {checkpoint}: {error.strerror or error}. Check the disk."
        ) from error
    with atomic_file(checkpoint / MARK) as file:
        json.dump(digests, file)


def is_complete(checkpoint: Path) -> bool:
    """Whether every file of a checkpoint is there and as it was written."""
    if checkpoint.is_symlink() or any(path.is_symlink() for path in checkpoint.glob("*")):
        return False
    try:
        digests = json.loads((checkpoint / MARK).read_bytes())
        return bool(digests) and all(
            file_digest(checkpoint / name) == digest for name, digest in digests.items()
        )
    except (OSError, ValueError, AttributeError, TypeError):
        return False


def find_last(folder: Path) -> Found:
    """Return the last checkpoint from which a training can resume.

    That is a complete one whose best checkpoint so far is complete as well. Each later one is
    named in a note, with the reason.
    """
    notes: list[str] = []
    for step, path in reversed(_numbered(folder)):
        if not is_complete(path):
            why = "is damaged" if (path / MARK).exists() else "is not complete"
            notes.append(f"checkpoint {step} {why} and was not used")
        elif not _has_best(path):
            notes.append(
                f"checkpoint {step} was not used, since checkpoint {best_step(path)}, the best "
                "one until then, is damaged or missing"
            )
        else:
            return Found(path, tuple(notes))
    return Found(None, tuple(notes))


def remove_later(folder: Path, last: Path | None) -> None:
    """Remove the checkpoints after the one that a training resumes from; they are written again."""
    kept = -1 if last is None else _step(last)
    for step, path in _numbered(folder):
        if step > kept and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)


def _has_best(checkpoint: Path) -> bool:
    best = best_step(checkpoint)
    return best is None or is_complete(named(checkpoint.parent, best))


# --------------------------------------------------------------------------- which are kept


def rotate(folder: Path, keep: int) -> None:
    """Remove all but the last checkpoints and those that were the best one at each of them."""
    numbered = _numbered(folder)
    last = numbered[-keep:]
    kept = {step for step, _ in last} | {best_step(path) for _, path in last}
    for step, path in numbered:
        if step not in kept and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)


# --------------------------------------------------------------------------- what they say


def state_of(checkpoint: Path) -> dict[str, Any]:
    """Return the state of the trainer at a checkpoint; empty where it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        state = json.loads((checkpoint / STATE).read_bytes())
        if isinstance(state, dict):
            return state
    return {}


def best_step(checkpoint: Path) -> int | None:
    """Return the step of the best checkpoint until this one; None without evaluations."""
    step = state_of(checkpoint).get("best_global_step")
    return step if isinstance(step, int) and step else None


def named(folder: Path, step: int) -> Path:
    """Return the path of the checkpoint of a step."""
    return folder / f"checkpoint-{step}"


def _numbered(folder: Path) -> list[tuple[int, Path]]:
    """Return steps and checkpoints in the order of the steps."""
    paths: Iterable[Path] = folder.iterdir() if folder.is_dir() else ()
    return sorted((_step(path), path) for path in paths if _NAME.fullmatch(path.name))


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
