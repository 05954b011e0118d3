"""`plop ab status`: how a running experiment stands."""

from __future__ import annotations

from plop_lora.cli.ab.delivery import store_waiting
from plop_lora.cli.ab.options import DatabaseOption, ExperimentOption, now, options_of, running
from plop_lora.cli.output import ForceOption, Format, FormatOption, OutputOption, check, finish
from plop_lora.cli.words import with_examples


@with_examples(
    ("Units, values and what to do next", "plop ab status -e experiment.json"),
    ("As JSON, for a dashboard", "plop ab status -e experiment.json --format json"),
)
def status(
    experiment: ExperimentOption,
    database: DatabaseOption = None,
    output: OutputOption = None,
    force: ForceOption = False,
    form: FormatOption = Format.table,
) -> None:
    """Show how a running experiment stands: coverage, arms, units, values, and what to do next."""
    check(output, experiment, force=force)
    from plop_lora.ab.status import status_of

    with running(experiment, database) as run:
        waiting = store_waiting(run.experiment, experiment, database)
        found = status_of(run, now(), waiting=waiting, command=options_of(experiment, database))
    finish(found, output, form)
