"""`plop trial`: one spec in, one result out, in the spec's folder."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from plop_lora.cli.numbers import bounded
from plop_lora.cli.output import Format, FormatOption, finish, say
from plop_lora.cli.words import RUN, among, with_examples
from plop_lora.options import TRACKERS, check_trackers, words_of


@with_examples(
    ("Run one trial of a verification again", "plop trial trials/a1b2c3/spec.json --folder again"),
)
def trial(
    spec: Annotated[
        Path, typer.Argument(help="The file of a trial, which plop verify has written.")
    ],
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Write its files into this folder; by default the one of SPEC.",
            rich_help_panel=RUN,
        ),
    ] = None,
    report_to: Annotated[
        str,
        typer.Option(
            help="Report to these trackers, separated by commas: trackio, mlflow, wandb, "
            "tensorboard …",
            autocompletion=among(lambda: TRACKERS),
            rich_help_panel=RUN,
        ),
    ] = "",
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Take smaller batches, where memory does not suffice: a divisor of the size in "
            "SPEC.",
            callback=bounded(1),
            rich_help_panel=RUN,
        ),
    ] = None,
    form: FormatOption = Format.table,
) -> None:
    """Finetune and judge one placement as SPEC says; a finished trial only shows its result."""
    trackers = words_of(report_to) or ()
    check_trackers(trackers)
    from plop_lora.launcher import is_first_process
    from plop_lora.records import TrialSpec
    from plop_lora.training.trial import run_trial

    # Trainers print; stdout is for the result.
    with contextlib.redirect_stdout(sys.stderr):
        result = run_trial(
            TrialSpec.load(spec),
            folder or spec.parent,
            root=spec.parent,
            report_to=trackers,
            batch_size=batch_size,
        )
    if is_first_process():
        finish(result, None, form)
    if not result.done:
        say(f"The trial failed: {result.cause}", err=True)
        raise typer.Exit(1)
