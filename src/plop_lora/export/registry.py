"""The step `export`: a placement becomes a trainer's file, checked by the trainer's library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from plop_lora.errors import ExportError, OutputError, UsageError, nearest
from plop_lora.export import (
    axolotl,
    llama_factory,
    ms_swift,
    peft,
    trl,
    unsloth,
)
from plop_lora.export.target import Loss, Rendered, Target
from plop_lora.files import atomic_file, check_writable
from plop_lora.records import Placement

TARGETS: dict[str, Target] = {
    row.name: row
    for row in (
        peft.TARGET,
        axolotl.TARGET,
        llama_factory.TARGET,
        ms_swift.TARGET,
        trl.TARGET,
        unsloth.TARGET,
    )
}
"""Name → target of `plop export --to NAME`."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written, what it lost, and whether the trainer's own library read it back."""

    path: Path
    target: Target
    rendered: Rendered
    checked: bool

    @property
    def losses(self) -> tuple[Loss, ...]:
        """What the file cannot say."""
        return self.rendered.losses


def export(
    placement: Placement,
    folder: str | Path,
    *,
    to: str = "peft",
    dry_run: bool = True,
    allow_loss: bool = False,
) -> Exported:
    """Write a placement as a trainer's configuration.

    Args:
        placement: result of `place`.
        folder: where the file goes; made if it does not exist.
        to: a name in `TARGETS`.
        dry_run: first apply the file with the real library and compare modules and ranks;
            without it neither torch nor any trainer is imported.
        allow_loss: write even where the file cannot say all of the placement.

    Raises:
        ExportError: the library would adapt other modules or ranks, or something would be lost.
        OutputError: the folder cannot be written.
        UsageError: an unknown target.
    """
    if to not in TARGETS:
        raise UsageError(
            f"There is no export to {to!r}.{nearest(to, TARGETS)} Allowed: {', '.join(TARGETS)}."
        )
    target = TARGETS[to]
    path = Path(folder) / target.file_name
    if Path(folder).is_file():
        raise OutputError(f"Cannot write into {folder}: it is a file. Give a folder with -o.")
    check_writable(path)
    rendered = target.render(placement)
    if rendered.losses and not allow_loss:
        raise ExportError(_refusal(target, placement, rendered))
    checked = dry_run and target.check is not None
    if dry_run and target.check is not None:
        target.check(placement, rendered)
    with atomic_file(path) as file:
        file.write(rendered.text)
    return Exported(path, target, rendered, checked)


def _refusal(target: Target, placement: Placement, rendered: Rendered) -> str:
    lost = "; ".join(f"{loss.what} ({loss.effect})" for loss in rendered.losses)
    change = ""
    if rendered.trainable_parameters != placement.trainable_parameters:
        change = (
            f" It would train {rendered.trainable_parameters:,} parameters instead of "
            f"{placement.trainable_parameters:,}."
        )
    return (
        f"{target.name} cannot say all of this placement. Lost: {lost}.{change} "
        "Nothing was written. Accept it with --allow-loss, or export to another trainer."
    )
