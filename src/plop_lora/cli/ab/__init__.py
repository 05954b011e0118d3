"""`plop ab`: A/B tests of adapters in production, one file per verb. Imports no torch."""

from __future__ import annotations

import typer

from plop_lora.cli.ab.plan import plan
from plop_lora.cli.ab.replay import replay
from plop_lora.cli.registering import HELP, register, show_help

VERBS = (plan, replay)

app = typer.Typer(
    help="Test adapters against each other in production: plan, start, measure and decide.",
    rich_markup_mode="markdown",
    context_settings=HELP,
    invoke_without_command=True,
    callback=show_help,
)
for verb in VERBS:
    register(app, verb)
