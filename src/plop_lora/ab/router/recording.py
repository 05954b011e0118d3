"""What is kept of a request: the first exposure of its unit, its values, and its counters.

Imports the standard library and the events.
"""

from __future__ import annotations

from datetime import UTC, datetime

from plop_lora.ab import events
from plop_lora.ab.events import Event, EventSink
from plop_lora.ab.router.answers import Answered
from plop_lora.ab.router.choices import FAILED, Choice
from plop_lora.ab.router.logs import Failures
from plop_lora.ab.router.metrics import Metrics
from plop_lora.errors import OutputError, StoreError

_REMEMBERED = 200_000
"""Units whose exposure is known to be logged. One that is forgotten is logged again, under the same
id, which counts once."""


class Recorder:
    """Writes events, and counts what could not be written. Never raises."""

    def __init__(
        self,
        sink: EventSink,
        metrics: Metrics,
        failures: Failures,
        *,
        remembered: int = _REMEMBERED,
    ) -> None:
        self._sink = sink
        self._metrics = metrics
        self._failures = failures
        self._exposed: dict[str, None] = {}
        self._remembered = remembered

    def expose(self, choice: Choice, control: str) -> Choice:
        """Log that a unit meets its arm, if it is the first time.

        Returns:
            The choice; the control, logged nowhere, where the exposure cannot be kept, because
            the values of such a unit would count for no arm.
        """
        if not choice.unit or choice.unit in self._exposed:
            return choice
        if not self._write([events.exposure(choice.unit, choice.arm, datetime.now(UTC))]):
            return Choice(control, reason=FAILED)
        self._exposed[choice.unit] = None
        if len(self._exposed) > self._remembered:
            del self._exposed[next(iter(self._exposed))]
        return choice

    def end(self, choice: Choice, answered: Answered) -> None:
        """Log the values of a request that has ended, and count it."""
        if not choice.unit:
            self._metrics.outside(choice.reason, answered.outcome)
            return
        self._metrics.answered(choice.arm, answered.outcome)
        if answered.outcome.is_failure is False:
            self._metrics.latency(choice.arm, answered.first, answered.last)
        values = values_of(answered)
        if values:
            at = datetime.now(UTC)
            self._write([events.measured(choice.unit, *value, at) for value in values.items()])

    def failed(self, kind: str, error: Exception) -> None:
        """Count a failure on the router's own side, and log it once a minute."""
        self._metrics.failed(kind)
        # The text of another error may name the unit.
        safe = isinstance(error, (OutputError, StoreError))
        text = str(error) if safe else type(error).__name__
        self._failures.report(kind, f"The router could not do its part ({kind}): {text}")

    def _write(self, wanted: list[Event]) -> bool:
        try:
            self._sink.write(wanted)
        except Exception as error:  # a sink that fails must not cost a request
            self._metrics.events(len(wanted), kept=False)
            self.failed("events", error)
            return False
        self._metrics.events(len(wanted), kept=True)
        return True


def values_of(answered: Answered) -> dict[str, float]:
    """Return the values of a request by name; what is not known is left out.

    A failed request has no latency, since one that fails at once would look fast. Of a request
    whose client has left, only the time to its first byte is known.
    """
    outcome = answered.outcome
    found: dict[str, float] = {}
    if outcome.is_failure is not None:
        found[events.FAILED] = float(outcome.is_failure)
    if outcome.is_failure:
        return found
    if answered.first is not None:
        found[events.LATENCY_FIRST] = answered.first
    if outcome.is_failure is None:
        return found
    found[events.LATENCY_LAST] = answered.last
    if answered.tokens_in is not None:
        found[events.TOKENS_IN] = float(answered.tokens_in)
    if answered.tokens_out is not None:
        found[events.TOKENS_OUT] = float(answered.tokens_out)
    return found
