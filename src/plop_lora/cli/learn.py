"""`plop learn`: refit the learned placement rule with finished verifications. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plop_lora.cli.output import ForceOption, Format, FormatOption, OutputOption, check, finish
from plop_lora.cli.words import RUN, with_examples


@with_examples(
    ("Add two verifications of yours to the study", "plop learn run-a run-b -o learned.json"),
    ("Learn from yours alone", "plop learn run-a run-b run-c --only -o learned.json"),
)
def learn(
    histories: Annotated[
        list[Path],
        typer.Argument(
            metavar="VERIFICATION",
            help="Folders of finished verifications, or the verification.json in them.",
        ),
    ],
    base: Annotated[
        Path | None,
        typer.Option(
            help="An earlier file of plop learn, to whose verifications these are added. By "
            "default the study that comes with plop-lora.",
            rich_help_panel=RUN,
        ),
    ] = None,
    only: Annotated[
        bool,
        typer.Option("--only", help="Learn from these verifications alone.", rich_help_panel=RUN),
    ] = False,
    indicator: Annotated[
        list[str] | None,
        typer.Option(
            help="Learn from this indicator as well, which all scores must hold. Repeatable.",
            rich_help_panel=RUN,
        ),
    ] = None,
    output: OutputOption = None,
    force: ForceOption = False,
    form: FormatOption = Format.table,
) -> None:
    """Fit the rule of `plop place --strategy learned` to finished verifications, and judge it."""
    from plop_lora.errors import UsageError
    from plop_lora.study.folder import RECORD, SCORES

    read = [path / name for path in histories for name in (RECORD, SCORES)]
    check(output, *histories, *read, base, force=force)
    from plop_lora.verification.learning import learn as step

    if only and base is not None:
        raise UsageError("--only leaves out the history of --base; give one of the two.")
    finish(step(histories, base=base, only=only, indicators=indicator or ()), output, form)
