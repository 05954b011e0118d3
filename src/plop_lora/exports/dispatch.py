"""The step `export`: write a placement for a trainer, or a trained adapter for a server."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

from plop_lora.errors import OutputError, UsageError
from plop_lora.exports.registry import TARGETS, Exported, find_target, prepare
from plop_lora.exports.serving import vllm
from plop_lora.files import atomic_file, check_not_foreign, check_not_input, check_writable
from plop_lora.records import Placement

USUAL_TARGET = "peft"


def export(
    source: Placement | str | Path,
    folder: str | Path | None,
    *,
    to: str | None = None,
    serve: str | None = None,
    dry_run: bool = True,
    allow_loss: bool = False,
    force: bool = False,
) -> Exported | vllm.Folded:
    """Write a placement as a trainer's configuration, or fold a trained adapter for serving.

    Args:
        source: A placement or the file of one, or with `to="vllm"` the folder of a trained adapter.
        folder: The folder that the result is written into; it is made if it does not exist. With
            None nothing is written, and the result holds the text.
        to: The name of a trainer in `TARGETS`, or `vllm`. By default it is the trainer that the
            folder is named after, and else `peft`.
        serve: The inference server that will serve the trained adapter, a name in `SERVERS` or
            `NAME==RELEASE`. Settings that it rejects or ignores are reported before the training.
        dry_run: Whether the file is first applied with the real library and the modules and ranks
            are compared. Without it, neither torch nor any trainer is imported.
        allow_loss: Whether the file is written even if it cannot express all of the placement or
            the server rejects a part of it.
        force: Whether the folder may be that of a model or of a trained adapter.

    Returns:
        The written file, with its losses and findings.

    Raises:
        ExportError: The library would adapt other modules or ranks, a part of the placement would
            be lost, or the server would reject the adapter.
        OutputError: The folder cannot be written.
        RecordError: The file is not a placement.
        UsageError: The target is unknown, one kind of source was given where the other is needed,
            or the folder is that of a model and `force` is not given.
    """
    to = to or _named_after(folder)
    if to == vllm.NAME and not isinstance(source, Placement):
        return _fold(source, folder, serve, allow_loss=allow_loss)
    _refuse_folder(source, to)
    placement = Placement.of(source)
    path = None if folder is None else Path(folder) / find_target(to).file_name
    if path is not None:
        _check(path, source, force=force)
    made = prepare(placement, to=to, dry_run=dry_run, allow_loss=allow_loss, serve=serve)
    if path is None:
        return made
    with atomic_file(path) as file:
        file.write(made.text)
    return replace(made, path=path)


def _named_after(folder: str | Path | None) -> str:
    """Return the trainer after which the folder is named, or the default trainer."""
    name = "" if folder is None else Path(folder).name
    return name if name in TARGETS else USUAL_TARGET


def _fold(
    source: str | Path, folder: str | Path | None, serve: str | None, *, allow_loss: bool
) -> vllm.Folded:
    if folder is None:
        raise UsageError("An adapter's folder cannot go to standard output. Give a folder.")
    return vllm.fold(source, folder, server=serve or vllm.NAME, allow_loss=allow_loss)


def _refuse_folder(source: Placement | str | Path, to: str) -> None:
    if isinstance(source, str | Path) and Path(source).is_dir():
        raise UsageError(
            f"{source} is a folder, but --to {to} exports a file of plop place. The folder of a "
            "trained adapter is made ready for serving with: "
            f"plop export {shlex.quote(str(source))} --to vllm -o DIR"
        )


def _check(path: Path, source: Placement | str | Path, *, force: bool) -> None:
    """Check that the file would not replace the source or be written into a foreign folder."""
    if not isinstance(source, Placement):
        check_not_input(path, source)
    if path.parent.is_file():
        raise OutputError(f"Cannot write into {path.parent}: it is a file. Give a folder with -o.")
    check_writable(path)
    if not force:
        check_not_foreign(path, lambda _: True)
