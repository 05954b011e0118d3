"""`plop ab stop`: end an experiment for good, with a decision that is kept."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Annotated

import typer

from plop_lora.cli.ab.options import DatabaseOption, ExperimentOption, ReasonOption, now, running
from plop_lora.cli.output import say
from plop_lora.cli.words import RUN, with_examples
from plop_lora.errors import UsageError
from plop_lora.records.analysis import Design

if TYPE_CHECKING:
    from plop_lora.ab.store import StoredRun
    from plop_lora.records import Experiment


class Ending(enum.StrEnum):
    """How an experiment ends."""

    ship = "ship"
    keep = "keep"


@with_examples(
    (
        "Ship the arm that has won",
        "plop ab stop --decision ship --arm next -e experiment.json --reason 'resolves more'",
    ),
    (
        "Keep what is in production",
        "plop ab stop --decision keep -e experiment.json --reason 'no gain in four weeks'",
    ),
)
def stop(
    decision: Annotated[
        Ending,
        typer.Option(
            help="Whether a candidate ships (ship) or the control is kept (keep).",
            rich_help_panel=RUN,
        ),
    ],
    experiment: ExperimentOption,
    reason: ReasonOption,
    arm: Annotated[
        str | None,
        typer.Option(
            help="The arm that ships; needed where there are several candidates.",
            rich_help_panel=RUN,
        ),
    ] = None,
    force: Annotated[
        str,
        typer.Option(
            "--force",
            metavar="REASON",
            help="Decide against the analysis. The reason is kept with the decision.",
            rich_help_panel=RUN,
        ),
    ] = "",
    database: DatabaseOption = None,
) -> None:
    """End an experiment for good: no unit takes part any more, and the decision is kept."""
    with running(experiment, database) as run:
        chosen = _chosen(run.experiment, decision, arm)
        ended = run.decision() is not None  # the store says how, and refuses another end
        against = "" if ended else _objection(run, chosen if decision is Ending.ship else None)
        if against and not force.strip():
            raise UsageError(
                f'{against} Let it go on, or decide all the same with --force "reason".'
            )
        kept = f"{reason} (decided although: {against} Because: {force})" if against else reason
        run.stop(str(decision), chosen, kept, now())
    say(
        f"The experiment {run.experiment.name} has ended: {decision} {chosen}. All units get "
        f"{chosen} once your gateway serves it alone.",
        err=True,
    )


def _chosen(experiment: Experiment, decision: Ending, arm: str | None) -> str:
    """Return the arm that serves all units from now on."""
    from plop_lora.ab.store.checks import check_decision

    if decision is Ending.ship and arm is None and len(experiment.candidates) > 1:
        raise UsageError(f"Say which arm ships with --arm: {', '.join(experiment.candidates)}.")
    chosen = arm or (experiment.control if decision is Ending.keep else experiment.candidates[0])
    check_decision(experiment, str(decision), chosen)
    return chosen


def _objection(run: StoredRun, ships: str | None) -> str:
    """Return what the observations say against this end, or an empty text."""
    from plop_lora.ab.current import analyze_run
    from plop_lora.ab.ending import objection

    met = any(run.counts().units.values())
    return objection(ships, analyze_run(run, Design.SEQUENTIAL) if met else None)
