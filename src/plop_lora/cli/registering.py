"""How a function becomes a verb of the command line, or a group of verbs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, get_args

import typer
from typer.models import ArgumentInfo

from plop_lora.cli.output import interruptible
from plop_lora.cli.words import epilog

HELP = {"help_option_names": ["-h", "--help"]}


def verb_name(verb: Callable[..., None]) -> str:
    """Return the name that the user types; `import` is a keyword, so its function ends in `_`."""
    return verb.__name__.rstrip("_")


def register(group: typer.Typer, verb: Callable[..., None], **settings: Any) -> None:
    """Add a verb to a group, with its examples and with Ctrl-C as an orderly end.

    Args:
        group: The command line, or a group of it.
        verb: Function of the verb.
        settings: What typer's `command` takes beside.
    """
    settings = {"epilog": epilog(verb), "context_settings": HELP} | settings
    group.command(verb_name(verb), **settings)(_with_capitals(verb))


def _with_capitals(verb: Callable[..., None]) -> Callable[..., None]:
    """Return a verb whose arguments are shown in capitals, as the texts of the help name them."""
    made = interruptible(verb)
    signature = inspect.signature(verb, eval_str=True)
    for parameter in signature.parameters.values():
        for info in get_args(parameter.annotation)[1:]:
            if isinstance(info, ArgumentInfo) and info.metavar is None:
                info.metavar = parameter.name.upper()
    # An annotation that is a text is evaluated anew each time, so what was changed is kept here.
    made.__signature__ = signature  # type: ignore[attr-defined]
    made.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    return made


def group(help: str, verbs: Iterable[Callable[..., None]] = ()) -> typer.Typer:
    """Return a group of verbs, which shows its help where it is typed without one."""
    made = typer.Typer(
        help=help,
        rich_markup_mode="markdown",
        context_settings=HELP,
        invoke_without_command=True,
        callback=show_help,
    )
    for verb in verbs:
        register(made, verb)
    return made


def show_help(context: typer.Context) -> None:
    """Show the help of a group that was typed without a verb."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit
