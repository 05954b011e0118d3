"""`plop init`: a recipe for the whole pipeline, from a look at the model and the data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plop_lora.cli.output import Format, check_new, say, waiting, write_new
from plop_lora.cli.words import DATA, OUTPUT, RUN, TRAINING, among, tasks, with_examples

if TYPE_CHECKING:
    from plop_lora.pipeline.drafting import Wanted


@with_examples(
    ("Look at model and rows, ask what is open, and write a recipe", "plop init MODEL rows.jsonl"),
    (
        "Without a question",
        "plop init MODEL rows.jsonl --prompt 'Q: {question}\\nA:' --completion ' {answer}' --yes",
    ),
)
def init(
    model: Annotated[str, typer.Argument(help="The model: a hub id or a local folder.")],
    train: Annotated[
        str,
        typer.Argument(
            help="The training rows: a file, or a data set of the Hugging Face Hub, written as "
            "name:config:split."
        ),
    ],
    evaluation: Annotated[
        str | None,
        typer.Option(
            "--eval",
            help="The rows for the final evaluation. By default a fifth of the rows is held out.",
            rich_help_panel=DATA,
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="The task that is trained: sft (supervised finetuning), classify (classification) "
            "or grpo (reinforcement learning). By default it follows from the fields of the rows.",
            autocompletion=among(tasks),
            rich_help_panel=TRAINING,
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            help="A template for the prompt of a row, with the names of fields in braces: "
            "'Q: {question}'.",
            rich_help_panel=DATA,
        ),
    ] = None,
    completion: Annotated[
        str | None,
        typer.Option(
            help="A template for the answer of a row, with the names of fields in braces: "
            "' {answer}'.",
            rich_help_panel=DATA,
        ),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(
            help="The field that holds the text or the chat messages of a row.",
            rich_help_panel=DATA,
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            help="The field that holds the class of a row, for the task classify.",
            rich_help_panel=DATA,
        ),
    ] = None,
    trainer: Annotated[
        str,
        typer.Option(
            help="What trains the adapter that ships: plop, or a trainer of plop export --to.",
            rich_help_panel=TRAINING,
        ),
    ] = "plop",
    yes: Annotated[
        bool,
        typer.Option(
            "--yes", "-y", help="Ask nothing, and take the defaults.", rich_help_panel=RUN
        ),
    ] = False,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Write the recipe to this file, which is never overwritten; - is stdout.",
            rich_help_panel=OUTPUT,
        ),
    ] = Path("recipe.yaml"),
) -> None:
    """Write a recipe for plop run that fits MODEL and the rows of TRAIN, and runs as it stands."""
    check_new(output)
    from plop_lora.pipeline.drafting import Wanted, draft

    wanted = Wanted(
        model=model, train=train, eval=evaluation, task=task, prompt=_lines(prompt),
        completion=_lines(completion), text=text, label=label, trainer=trainer,
    )  # fmt: skip
    if not yes and sys.stdin.isatty():
        wanted = _asked(wanted)
    with waiting("looking at the model and the data", Format.table):
        made = draft(wanted)
    for line in made.found:
        say(line, err=True)
    write_new(made.text, output, f". What it would do: plop run {output} --dry-run")


def _lines(template: str | None) -> str | None:
    return None if template is None else template.replace("\\n", "\n")


def _asked(wanted: Wanted) -> Wanted:
    """Ask for what the user has not said, with what the data suggest as the answer."""
    from dataclasses import replace

    from plop_lora.data.reading import open_rows
    from plop_lora.data.recognising import fields_of
    from plop_lora.pipeline.drafting import guessed_task

    fields = fields_of(open_rows(wanted.train))
    say(f"{fields.rows:,} rows with the fields {', '.join(fields.names)}.", err=True)
    task = wanted.task or typer.prompt(
        "Task (sft, classify, grpo)", default=guessed_task(wanted, fields), err=True
    )
    evaluation = wanted.eval or typer.prompt(
        "Evaluation rows (empty holds out a fifth)", default="", show_default=False, err=True
    )
    trainer = wanted.trainer
    if trainer == "plop":
        trainer = typer.prompt("What trains the adapter that ships", default=trainer, err=True)
    return replace(wanted, task=task, eval=evaluation or None, trainer=trainer)
