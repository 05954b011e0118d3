"""The command line: one file per verb. Data on stdout, all else on stderr.

Exit codes: 0 ok, 1 error, 2 usage. Importing this package imports no torch; every verb imports
its step when it runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from plop_lora._version import __version__
from plop_lora.cli.compare import compare
from plop_lora.cli.demo import demo
from plop_lora.cli.export import export
from plop_lora.cli.import_ import import_
from plop_lora.cli.place import place
from plop_lora.cli.score import score
from plop_lora.errors import PlopError

app = typer.Typer(
    help="Where should LoRA adapters go? Score a model, place adapters, export for your trainer.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
VERBS = (score, place, import_, export, compare, demo)


def verb_name(verb: Callable[..., None]) -> str:
    """Return what the user types; the function of `import` has a `_`, as Python took the word."""
    return verb.__name__.rstrip("_")


for verb in VERBS:
    app.command(verb_name(verb))(verb)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"plop-lora {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of errors.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Read the options that stand before the verb."""


def main() -> None:
    """Run the command line; turn our errors into one line and an exit code."""
    debug = "--debug" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--debug"]
    try:
        app(prog_name="plop")
    except PlopError as error:
        if debug:
            raise
        typer.echo(f"Error: {error}", err=True)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        if debug:
            raise
        typer.echo("Stopped. No file was changed.", err=True)
        raise SystemExit(130) from None
