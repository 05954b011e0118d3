"""Arguments and options that say what is read: the model, its tokenizer, and the texts."""

from __future__ import annotations

from typing import Annotated

import typer

from plop_lora.cli.words import DATA, MODEL

ModelArgument = Annotated[
    str, typer.Argument(help="The hub id of a model, its local folder, or a GGUF file.")
]
TextOption = Annotated[
    str | None,
    typer.Option(help="The field of a row that holds the text.", rich_help_panel=DATA),
]
TemplateOption = Annotated[
    str | None,
    typer.Option(
        help="A template that makes the text from several fields, with their names in braces: "
        '"{question}\\n{answer}".',
        rich_help_panel=DATA,
    ),
]
TokenizerOption = Annotated[
    str | None,
    typer.Option(
        help="The hub id or folder of the tokenizer, if it is not the model's own.",
        rich_help_panel=MODEL,
    ),
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Allow Python code in the model's repository to run.",
        rich_help_panel=MODEL,
    ),
]
