"""`plop ab ramp`: raise the share of units that take part."""

from __future__ import annotations

from typing import Annotated

import typer

from plop_lora.cli.ab.options import (
    DatabaseOption,
    ExperimentOption,
    ReasonOption,
    now,
    running,
    share_of,
)
from plop_lora.cli.output import Format, FormatOption, finish
from plop_lora.cli.words import with_examples


@with_examples(
    (
        "Let a tenth of all units take part",
        "plop ab ramp 10% -e experiment.json --reason 'no harm in the first week'",
    ),
)
def ramp(
    coverage: Annotated[
        str, typer.Argument(help="The new share of all units, such as 5% or 0.05.")
    ],
    experiment: ExperimentOption,
    reason: ReasonOption,
    database: DatabaseOption = None,
    form: FormatOption = Format.table,
) -> None:
    """Raise the COVERAGE of a running experiment; units that take part stay in their arms."""
    share = share_of(coverage, "COVERAGE")
    with running(experiment, database) as run:
        found = run.raise_coverage(share, now(), reason)
    finish(found, None, form)
