"""`plop import`: a PEFT adapter configuration in, a placement out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plop_lora.cli.output import ForceOption, Format, FormatOption, OutputOption, check, finish


def import_(
    adapter: Annotated[Path, typer.Argument(help="adapter_config.json, or the folder with it.")],
    output: OutputOption = None,
    model: Annotated[
        str | None,
        typer.Option(help="Hub id or local folder; by default the one that the file names."),
    ] = None,
    scores: Annotated[
        Path | None, typer.Option(help="Scores of the same model, for NFN and gaps.")
    ] = None,
    force: ForceOption = False,
    form: FormatOption = Format.table,
) -> None:
    """Read an existing PEFT ADAPTER configuration into a placement, without any weights."""
    check(output, adapter, adapter / "adapter_config.json", scores, force=force)
    from plop_lora.records import Scores

    loaded = None if scores is None else Scores.load(scores)
    from plop_lora.export.imported import import_adapter
    from plop_lora.scoring.loading import quiet_loading

    quiet_loading()
    finish(import_adapter(adapter, model, loaded), output, form)
