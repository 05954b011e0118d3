"""`plop trial`: run one trial as its spec says and write the result into the spec's folder."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from plop_lora.cli.numbers import bounded
from plop_lora.cli.output import Format, FormatOption, finish, say
from plop_lora.cli.words import RUN, among, with_examples
from plop_lora.errors import UsageError
from plop_lora.options import TRACKERS, check_trackers, words_of


@with_examples(
    ("Run one trial of a verification again", "plop trial trials/a1b2c3/spec.json --folder again"),
)
def trial(
    spec: Annotated[
        Path,
        typer.Argument(help="The spec.json of a trial, written by plop verify or plop tune."),
    ],
    folder: Annotated[
        Path | None,
        typer.Option(
            help="The folder for the files of the trial; by default the folder of SPEC.",
            rich_help_panel=RUN,
        ),
    ] = None,
    report_to: Annotated[
        str,
        typer.Option(
            help="Experiment trackers to report to, separated by commas: trackio, mlflow, wandb, "
            "tensorboard or another that transformers supports.",
            autocompletion=among(lambda: TRACKERS),
            rich_help_panel=RUN,
        ),
    ] = "",
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="A smaller batch size for a device with too little memory. It must divide the "
            "batch size in SPEC; more batches are accumulated, so that a step sees the same rows.",
            callback=bounded(1),
            rich_help_panel=RUN,
        ),
    ] = None,
    form: FormatOption = Format.table,
) -> None:
    """Train and evaluate one placement as SPEC says; of a finished trial, print the result."""
    if folder is not None and folder.is_file():
        raise UsageError(f"--folder {folder} is a file. Give a new or an empty folder.")
    trackers = words_of(report_to) or ()
    check_trackers(trackers)
    from plop_lora.launcher import is_first_process
    from plop_lora.records import TrialSpec
    from plop_lora.training.trial import run_trial

    # Trainers print to stdout, which is reserved for the result.
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
