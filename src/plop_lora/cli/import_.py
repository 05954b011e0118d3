"""`plop import`: read a PEFT adapter configuration into a placement."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plop_lora.cli.output import (
    ForceOption,
    Format,
    FormatOption,
    OutputOption,
    check,
    finish,
    waiting,
)
from plop_lora.cli.words import MODEL, with_examples
from plop_lora.models.folders import model_name


@with_examples(
    ("Read which modules an adapter adapts", "plop import adapter -o placement.json"),
    ("Show the scores of its modules", "plop import adapter --scores scores.json"),
)
def import_(
    adapter: Annotated[
        Path, typer.Argument(help="The file adapter_config.json, or the folder that holds it.")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="The hub id or local folder of the base model; by default the one that the "
            "configuration names.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            help="A file of scores of the same model, from which the placement takes NFN and gaps.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    output: OutputOption = None,
    force: ForceOption = False,
    form: FormatOption = Format.table,
) -> None:
    """Read an existing PEFT ADAPTER configuration into a placement; no weights are needed."""
    check(output, adapter, adapter / "adapter_config.json", scores, force=force)
    from plop_lora.records import Scores

    loaded = None if scores is None else Scores.load(scores)
    if model is not None:
        model_name(model, weights=False)
    with waiting(f"reading {adapter} with torch, transformers and peft", form):
        from plop_lora.exports.imported import import_adapter

        placement = import_adapter(adapter, model, loaded)
    finish(placement, output, form)
