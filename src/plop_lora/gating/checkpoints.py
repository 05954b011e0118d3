"""The checkpoints of one training run, from the last backwards, until one may ship. No torch."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from plop_lora.errors import DataError
from plop_lora.exports.adapters import CONFIG_FILE
from plop_lora.gating.run import gate
from plop_lora.recipe import GateRecipe
from plop_lora.records import GatedCheckpoint, GateWalk
from plop_lora.records.gate import PASS

_STEP = re.compile(r"checkpoint-(\d+)")


def checkpoints_of(folder: Path) -> list[tuple[int, Path]]:
    """Return step and folder of the checkpoints that hold an adapter, the last step first.

    Raises:
        DataError: There are none.
    """
    try:
        inside = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(
            f"Cannot read {folder}: {error.strerror or error}. Give the folder of a training run, "
            "which holds its checkpoints."
        ) from error
    named = ((_STEP.fullmatch(path.name), path) for path in inside)
    found = [
        (int(match[1]), path) for match, path in named if match and (path / CONFIG_FILE).is_file()
    ]
    if not found:
        raise DataError(
            f"{folder} has no checkpoints of an adapter: folders named checkpoint-STEP with an "
            f"{CONFIG_FILE}, as transformers' Trainer saves them. Give the folder of the run."
        )
    return sorted(found, reverse=True)


def gate_checkpoints(
    folder: str | Path,
    recipe: GateRecipe | str | Path | None = None,
    *,
    evidence: Callable[[Path], Path | None] = lambda checkpoint: None,
    watch: Callable[[str, int, int], None] | None = None,
    **settings: object,
) -> GateWalk:
    """Gate the checkpoints of a run from the last backwards, until one passes every check.

    Args:
        folder: Folder of the run, with the folders checkpoint-STEP in it.
        recipe: Recipe of the gate, or its YAML file.
        evidence: Function that returns the file that receives the evidence of a checkpoint.
        watch: Function that is called after each batch, as by `gate`, with the name of the
            checkpoint before that of the suite.
        settings: Keys of the recipe; they take precedence.

    Returns:
        The verdict on every checkpoint that was gated; the last of them passes, if any does.

    Raises:
        DataError: The folder has no checkpoints of an adapter; otherwise as `gate`.
    """
    wanted = GateRecipe.of(recipe, settings)
    gated: list[GatedCheckpoint] = []
    found = checkpoints_of(Path(folder))
    for step, checkpoint in found:
        verdict = gate(
            checkpoint, wanted, evidence=evidence(checkpoint), watch=_named(checkpoint, watch)
        )  # fmt: skip
        gated.append(GatedCheckpoint(step=step, verdict=verdict))
        if verdict.verdict is PASS:
            break
    return GateWalk(folder=str(folder), checkpoints=len(found), gated=tuple(gated))


def _named(
    checkpoint: Path, watch: Callable[[str, int, int], None] | None
) -> Callable[[str, int, int], None] | None:
    """Return a function that tells of which checkpoint a suite is measured."""
    if watch is None:
        return None
    return lambda suite, done, count: watch(f"{checkpoint.name}, {suite}", done, count)
