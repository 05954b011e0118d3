"""`plop export`: write a placement for a trainer, or a trained adapter for a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plop_lora.cli.output import STDOUT, Format, FormatOption, say, waiting
from plop_lora.cli.words import OUTPUT, TARGET, among, servers, targets, with_examples


@with_examples(
    ("Write a configuration for PEFT", "plop export placement.json -o adapter"),
    ("Write keys for Axolotl's YAML", "plop export placement.json --to axolotl -o axolotl"),
    ("Fold a trained adapter for vLLM", "plop export adapter --to vllm -o served"),
)
def export(
    source: Annotated[
        Path,
        typer.Argument(
            help="The file that plop place has written, or with --to vllm the folder of a trained "
            "adapter."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Write into this folder; - is stdout.",
            rich_help_panel=OUTPUT,
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            help="The trainer to export to: peft, axolotl, litgpt, llama-factory, mlx-lm, "
            "ms-swift, nemo-automodel, torchtune, trl or unsloth. With vllm, fold the scaling of a "
            "trained adapter into its weights for serving.",
            autocompletion=targets,
            rich_help_panel=TARGET,
        ),
    ] = "peft",
    serve: Annotated[
        str | None,
        typer.Option(
            help="Report what this inference server will reject or ignore: vllm or sglang, or one "
            "of its releases, such as vllm==0.31.0.",
            autocompletion=among(servers),
            rich_help_panel=TARGET,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            help="Check the file before it is written: apply it to the model's architecture, "
            "without its weights, and compare modules and ranks.",
            rich_help_panel=TARGET,
        ),
    ] = True,
    allow_loss: Annotated[
        bool,
        typer.Option(
            "--allow-loss",
            help="Write the file even if the trainer cannot express a part of the placement, or "
            "the server rejects a part.",
            rich_help_panel=TARGET,
        ),
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Allow the output folder to be that of a model or a trained adapter.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    form: FormatOption = Format.table,
) -> None:
    """Write a placement as a trainer's configuration, or prepare a trained adapter for vLLM."""
    from plop_lora.exports import export as step

    folder = None if output == STDOUT else output
    with waiting(f"exporting to {to}", form):
        done = step(
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
