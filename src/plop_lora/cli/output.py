"""How every verb outputs its record: as a table, as one JSON document, or not at all."""

from __future__ import annotations

import contextlib
import enum
import functools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer

from plop_lora.cli.words import OUTPUT
from plop_lora.errors import OutputError, UsageError
from plop_lora.escapes import escaped, escaped_json
from plop_lora.files import (
    atomic_file,
    check_not_foreign,
    check_not_input,
    check_writable,
    weights_in,
)
from plop_lora.status import status

if TYPE_CHECKING:
    from plop_lora.records import Record

P = ParamSpec("P")


class Format(enum.StrEnum):
    """The form in which the result is printed on stdout."""

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
        help="Write the result as a JSON record to this file; - is stdout.",
        rich_help_panel=OUTPUT,
    ),
]


ForceOption = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Overwrite a file even if plop-lora did not write it.",
        rich_help_panel=OUTPUT,
    ),
]
MarkdownOutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Write the result to this file: a JSON record, or Markdown if it ends in .md; - is "
        "stdout.",
        rich_help_panel=OUTPUT,
    ),
]
"""`-o` of the verbs that write Markdown as well."""
STDOUT = Path("-")
"""The path that means standard output, as in `-o -`."""


def check(path: Path | None, *inputs: str | Path | None, force: bool = False) -> None:
    """Check the output path before the work begins.

    Args:
        path: Value of `-o`; `-` is standard output.
        inputs: Files that are read, which must not be overwritten.
        force: Whether a file that plop-lora has not written may be replaced.

    Raises:
        UsageError: The path is an input, or a file of the user's would be replaced.
        OutputError: The path cannot be written.
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
            return file.read(max(map(len, _HEADS))).startswith(_HEADS)
    except OSError:
        return False


_REPORT = b"<!-- plop-lora report -->"
_HEADS = (
    b'{"kind": "', b"# plop gate", b"# plop ab ", b"# plop acquire", b"# plop run",
    b"# plop robustness", _REPORT, b"<!doctype html>\n" + _REPORT,
)  # fmt: skip
"""The first bytes of what plop-lora writes: a record, one in Markdown, a report."""


def waiting(what: str, form: Format) -> contextlib.AbstractContextManager[object]:
    """Show on stderr, in a terminal only, what is going on."""
    return status(what, wanted=form is not Format.quiet)


def finish(
    record: Record,
    path: Path | None,
    form: Format,
    *,
    markdown: Callable[[Any], str] | None = None,
) -> None:
    """Save the record and print it; with `-o -` it is printed as JSON in place of a table.

    Args:
        record: The record.
        path: Value of `-o`.
        form: Form in which it is printed.
        markdown: Function that writes the record as Markdown, for a path that ends in .md.
    """
    if path is not None and path.suffix == ".md" and markdown is not None:
        with atomic_file(path) as file:
            file.write(markdown(record))
        finish(record, None, form)
        say(f"Wrote {path}", err=True)
        return
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
    """Print a text of several lines, with control characters escaped."""
    typer.echo(escaped(text, keep="\n\t"), err=err)


def check_new(path: Path) -> None:
    """Refuse a path of a text that is written once; - for stdout passes.

    Raises:
        UsageError: A file is there, or the path is in the folder of a model.
        OutputError: It cannot be written.
    """
    if path == STDOUT:
        return
    if path.is_file():
        raise UsageError(f"{path} is there already. Give another path with -o.")
    check_writable(path)
    if weights_in(path.parent) is not None:
        raise UsageError(
            f"{path.parent} is the folder of a model or of a trained adapter. Give another path "
            "with -o."
        )


def write_new(text: str, path: Path, then: str = "") -> None:
    """Write a text that a user goes on to edit, to a new file or to stdout for -.

    Args:
        text: The text.
        path: The file, which is never overwritten.
        then: What is said after its name.

    Raises:
        UsageError: A file is there.
        OutputError: It cannot be written.
    """
    check_new(path)
    write_text(text, path, then)


def write_text(text: str, path: Path, then: str = "") -> None:
    """Write a text to a file, in place of what is there, or to stdout for -.

    Raises:
        OutputError: It cannot be written.
    """
    if path == STDOUT:
        typer.echo(text, nl=False)
        return
    with atomic_file(path) as file:
        file.write(text)
    say(f"Wrote {path}{then}", err=True)


def _save(record: Record, path: Path) -> None:
    """Save the record. If that fails, save it in the temporary folder or print it instead."""
    try:
        record.save(path)
    except OutputError as error:
        name = f"plop-{record.kind}-{record.digest()[:8]}.json"
        try:
            rescued = record.save(Path(tempfile.gettempdir()) / name)
        except OutputError:
            print_json(record.to_json())
            raise OutputError(f"{error} The record was printed on stdout instead.") from error
        raise OutputError(f"{error} The record was saved as {rescued} instead.") from error


def print_json(document: str) -> None:
    """Print one JSON document in UTF-8, whatever the encoding of the terminal."""
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
