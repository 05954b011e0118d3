"""`plop export`: a placement in, a trainer's configuration out; an adapter in, a server's out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plop_lora.cli.output import Format, FormatOption, waiting
from plop_lora.cli.words import OUTPUT, TARGET, among, targets, with_examples


@with_examples(
    ("Write PEFT's configuration", "plop export placement.json -o adapter"),
    ("Write a part of Axolotl's", "plop export placement.json --to axolotl -o axolotl"),
    ("Fold a trained adapter for vLLM", "plop export adapter --to vllm -o served"),
)
def export(
    source: Annotated[
        Path,
        typer.Argument(
            help="The file that plop place has written, or for vllm the folder of an adapter."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Write into this folder.", rich_help_panel=OUTPUT),
    ],
    to: Annotated[
        str,
        typer.Option(
            help="Export to peft, axolotl, litgpt, llama-factory, mlx-lm, ms-swift, "
            "nemo-automodel, torchtune, trl or unsloth; or to vllm, to fold a trained adapter.",
            autocompletion=targets,
            rich_help_panel=TARGET,
        ),
    ] = "peft",
    serve: Annotated[
        str | None,
        typer.Option(
            help="Say what this server will reject or ignore: vllm or sglang.",
            autocompletion=among("export:SERVERS"),
            rich_help_panel=TARGET,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            help="First apply the file with the real library and read it back.",
            rich_help_panel=TARGET,
        ),
    ] = True,
    allow_loss: Annotated[
        bool,
        typer.Option(
            "--allow-loss",
            help="Write even if something is lost or rejected.",
            rich_help_panel=TARGET,
        ),
    ] = False,
    form: FormatOption = Format.table,
) -> None:
    """Write SOURCE as a trainer's configuration, or fold a trained adapter for serving."""
    from plop_lora.export import export_path

    with waiting(f"exporting to {to}", form):
        done = export_path(
            source, output, to=to, serve=serve, dry_run=dry_run, allow_loss=allow_loss
        )
    for message in done.messages:
        typer.echo(message, err=True)
    if form is Format.json:
        typer.echo(done.text, nl=False)
    elif form is Format.table:
        typer.echo(done.summary)
        typer.echo(done.description)
