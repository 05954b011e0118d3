"""How every verb shows its record: as a table, as one JSON document, or not at all."""

from __future__ import annotations

import contextlib
import enum
import functools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ParamSpec

import typer

from plop_lora.cli.words import OUTPUT
from plop_lora.errors import OutputError
from plop_lora.escapes import escaped, escaped_json
from plop_lora.files import check_not_foreign, check_not_input, check_writable
from plop_lora.status import status

if TYPE_CHECKING:
    from plop_lora.records import Record

P = ParamSpec("P")


class Format(enum.StrEnum):
    """What goes to stdout."""

    table = "table"
    json = "json"
    quiet = "quiet"


FormatOption = Annotated[
    Format,
    typer.Option(
        "--format",
        help="Print a table, one JSON document, or nothing (quiet) on stdout.",
        rich_help_panel=OUTPUT,
    ),
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Write the JSON record to this file; - is stdout.",
        rich_help_panel=OUTPUT,
    ),
]


ForceOption = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Replace a file that plop-lora has not written.",
        rich_help_panel=OUTPUT,
    ),
]
STDOUT = Path("-")
"""What `-o -` stands for."""


def check(path: Path | None, *inputs: str | Path | None, force: bool = False) -> None:
    """Refuse an output path before the work is done.

    Args:
        path: what `-o` was given; `-` is standard output.
        inputs: what is read: writing over it is never right.
        force: replace a file that is not ours, and write into the folder of a model.

    Raises:
        UsageError: it is an input, or something of the user's would be replaced.
        OutputError: it cannot be written.
    """
    if path is None or path == STDOUT:
        return
    check_not_input(path, *inputs)
    check_writable(path)
    if not force:
        check_not_foreign(path, _is_record)


def _is_record(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_HEAD)) == _HEAD
    except OSError:
        return False


_HEAD = b'{"kind": "'
"""How every record begins."""


def waiting(what: str, form: Format) -> contextlib.AbstractContextManager[object]:
    """Say on stderr, in a terminal only, what the user is waiting for."""
    return status(what, wanted=form is not Format.quiet)


def finish(record: Record, path: Path | None, form: Format) -> None:
    """Save the record, then print it; to standard output the record goes instead of its table."""
    if path == STDOUT:
        path, form = None, Format.json
    if path is not None:
        _save(record, path)
    if form is Format.json:
        print_json(record.to_json())
    elif form is Format.table:
        from plop_lora.reports.terminal import show

        show(record)
    if path is not None and form is not Format.quiet:
        say(f"Wrote {path}", err=True)


def say(text: str, *, err: bool = False) -> None:
    """Print a text of several lines; what would act on the terminal is shown as an escape."""
    typer.echo(escaped(text, keep="\n\t"), err=err)


def _save(record: Record, path: Path) -> None:
    """Save the record; where that fails after the work is done, keep it elsewhere and say so."""
    try:
        record.save(path)
    except OutputError as error:
        name = f"plop-{record.kind}-{record.digest()[:8]}.json"
        try:
            rescued = record.save(Path(tempfile.gettempdir()) / name)
        except OutputError:
            print_json(record.to_json())
            raise OutputError(f"{error} The record went to stdout instead.") from error
        raise OutputError(f"{error} The record is kept in {rescued}.") from error


def print_json(document: str) -> None:
    """Print one JSON document; JSON is UTF-8 whatever the terminal speaks."""
    document = escaped_json(document)
    sys.stdout.flush()
    binary = getattr(sys.stdout, "buffer", None)
    if binary is None:
        typer.echo(document)
    else:
        binary.write(document.encode() + b"\n")


def interruptible(verb: Callable[P, None]) -> Callable[P, None]:
    """Let Ctrl-C end a verb with one line and exit code 130."""

    @functools.wraps(verb)
    def run(*arguments: P.args, **options: P.kwargs) -> None:
        try:
            verb(*arguments, **options)
        except KeyboardInterrupt:
            typer.echo("Stopped. No half-written file is left.", err=True)
            raise typer.Exit(130) from None

    return run
