"""`plop ab`: A/B tests of adapters in production, one file per verb. Imports no torch."""

from __future__ import annotations

from plop_lora.cli.ab.analyze import analyze
from plop_lora.cli.ab.assign import assign
from plop_lora.cli.ab.import_ import import_
from plop_lora.cli.ab.init import init
from plop_lora.cli.ab.log import NegativeNumbers, log
from plop_lora.cli.ab.plan import plan
from plop_lora.cli.ab.ramp import ramp
from plop_lora.cli.ab.replay import replay
from plop_lora.cli.ab.serve import serve
from plop_lora.cli.ab.status import status
from plop_lora.cli.ab.stop import stop
from plop_lora.cli.ab.switch import switch
from plop_lora.cli.registering import group, register

VERBS = (
    plan, replay, init, assign, serve, log, import_, status, analyze, ramp, switch, stop,
)  # fmt: skip

app = group(
    "Test adapters against each other in production: plan, start, measure and decide."
    "\n\nThe arms are the adapters that are compared; the control is the arm that is in production "
    "today. A unit, such as an account, always gets the same arm. The coverage is the share of all "
    "units that take part."
)
for verb in VERBS:
    register(app, verb, cls=NegativeNumbers if verb is log else None)
