"""`plop export`: a placement in, a trainer's configuration out; an adapter in, a server's out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plop_lora.cli.output import STDOUT, Format, FormatOption, say


def export(
    source: Annotated[
        Path, typer.Argument(help="File written by plop place; for vllm an adapter's folder.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder to write into; - is stdout.")
    ],
    to: Annotated[
        str,
        typer.Option(
            help="peft, axolotl, litgpt, llama-factory, mlx-lm, ms-swift, nemo-automodel, "
            "torchtune, trl, unsloth; or vllm, to fold a trained adapter."
        ),
    ] = "peft",
    serve: Annotated[
        str | None,
        typer.Option(help="Say what this server will reject or ignore: vllm or sglang."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option(help="First apply it with the real library and read it back.")
    ] = True,
    allow_loss: Annotated[
        bool, typer.Option("--allow-loss", help="Write even if something is lost or rejected.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Write into the folder of a model or an adapter.")
    ] = False,
    form: FormatOption = Format.table,
) -> None:
    """Write SOURCE as a trainer's configuration, or fold a trained adapter for serving."""
    from plop_lora.export import export_path

    folder = None if output == STDOUT else output
    done = export_path(
        source,
        folder,
        to=to,
        serve=serve,
        dry_run=dry_run,
        allow_loss=allow_loss,
        force=force,
    )
    for message in done.messages:
        say(message, err=True)
    if form is Format.json or folder is None:
        typer.echo(done.text, nl=False)
    elif form is Format.table:
        say(done.summary)
        say(done.description)
