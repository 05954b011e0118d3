"""`plop ci`: what a repository needs to gate its adapters on every pull request."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plop_lora.cli.output import write_new
from plop_lora.cli.registering import group
from plop_lora.cli.words import OUTPUT, with_examples


@with_examples(
    (
        "Gate adapters/next on every pull request that changes it",
        "plop ci init recipe.yaml adapters/next",
    ),
)
def init(
    recipe: Annotated[str, typer.Argument(help="The recipe, as a path in the repository.")],
    adapter: Annotated[
        str, typer.Argument(help="The folder of the adapter, as a path in the repository.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Write the workflow to this file, which is never overwritten; - is stdout.",
            rich_help_panel=OUTPUT,
        ),
    ] = Path(".github/workflows/plop.yml"),
) -> None:
    """Write a workflow for GitHub Actions that plans, gates and reports on pull requests."""
    from plop_lora.pipeline.workflow import workflow

    text = workflow(recipe, adapter)
    write_new(text, output, ". It posts the report of each run to its pull request.")


VERBS = (init,)
app = group("Gate adapters in continuous integration.", VERBS)
