"""The verb `plop export`: a placement file goes to a trainer, an adapter folder to a server."""

from __future__ import annotations

import shlex
from pathlib import Path

from plop_lora.errors import UsageError
from plop_lora.exports.registry import TARGETS, Exported, export, prepare
from plop_lora.exports.serving import vllm
from plop_lora.files import check_not_input
from plop_lora.records import Placement


def export_path(
    source: Path,
    folder: Path | None,
    *,
    to: str = "peft",
    serve: str | None = None,
    dry_run: bool = True,
    allow_loss: bool = False,
    force: bool = False,
) -> Exported | vllm.Folded:
    """Export what lies at a path.

    Args:
        source: a file of `plop place`, or with `to="vllm"` the folder of a trained adapter.
        folder: where the result goes; None writes nothing, the result has the text.
        to: a name in `TARGETS`, or `vllm`.
        serve: the server whose rules are checked, or NAME==RELEASE; for `vllm` itself by default.
        dry_run: as for `export`.
        allow_loss: as for `export` and `fold`.
        force: as for `export`.

    Raises:
        UsageError: the one kind of source was given where the other is needed.
        PlopError: as for `export` and `fold`.
    """
    if to == vllm.NAME:
        if folder is None:
            raise UsageError("An adapter's folder cannot go to standard output. Give a folder.")
        return vllm.fold(source, folder, server=serve or vllm.NAME, allow_loss=allow_loss)
    if source.is_dir():
        raise UsageError(
            f"{source} is a folder, but --to {to} exports a file of plop place. The folder of a "
            "trained adapter is made ready for serving with: "
            f"plop export {shlex.quote(str(source))} --to vllm -o DIR"
        )
    placement = Placement.load(source)
    if folder is None:
        return prepare(placement, to=to, serve=serve, dry_run=dry_run, allow_loss=allow_loss)
    check_not_input(folder / TARGETS[to].file_name if to in TARGETS else folder, source)
    return export(
        placement, folder, to=to, serve=serve, dry_run=dry_run, allow_loss=allow_loss, force=force
    )
