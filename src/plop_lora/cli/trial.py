"""`plop trial`: one spec in, one result out, in the spec's folder."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from plop_lora.cli.output import Format, FormatOption, finish, say


def trial(
    spec: Annotated[Path, typer.Argument(help="File of the trial, written by plop verify.")],
    folder: Annotated[
        Path | None, typer.Option(help="Where its files go; the spec's folder by default.")
    ] = None,
    report_to: Annotated[
        str, typer.Option(help="Trackers, with commas: trackio, mlflow, wandb, tensorboard.")
    ] = "",
    batch_size: Annotated[
        int | None, typer.Option(help="A divisor of the spec's, where memory does not suffice.")
    ] = None,
    form: FormatOption = Format.table,
) -> None:
    """Finetune and judge one placement as SPEC says; a finished trial only shows its result."""
    from plop_lora.records import TrialSpec
    from plop_lora.training.resources import is_first_process
    from plop_lora.training.trial import run_trial

    trackers = tuple(name.strip() for name in report_to.split(",") if name.strip())
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
