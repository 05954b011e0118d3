"""What goes on beside the requests, in threads: the state is read again, and harm is looked for.

Neither disturbs a request. What fails is counted, logged once a minute, and tried again.

Imports the standard library; the analysis, which needs numpy and scipy, when it is due.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from plop_lora.ab.router.known import Known
from plop_lora.ab.router.logs import log
from plop_lora.records import Experiment
from plop_lora.records.analysis import Cause

_WAIT = 5.0
"""Seconds that the end of a running look is waited for when the router ends."""


class Repeated:
    """A thread that does something again and again until it is stopped."""

    def __init__(
        self, name: str, seconds: float, action: Callable[[], object],
        failed: Callable[[str, Exception], None],
    ) -> None:  # fmt: skip
        self._name = name
        self._seconds = seconds
        self._action = action
        self._failed = failed
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"plop-{name}", daemon=True)

    def start(self) -> None:
        """Begin; the first time is after one interval."""
        self._thread.start()

    def stop(self) -> None:
        """Do it no more."""
        self._stop.set()

    def join(self) -> None:
        """Wait for the end of what is being done, but not for long."""
        if self._thread.ident is not None:
            self._thread.join(_WAIT)

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                self._action()
            except Exception as error:  # the thread has to outlive every failure
                self._failed(self._name, error)


def switch_off_harmful(experiment: Experiment, known: Known) -> list[str]:
    """Analyse what was seen so far, and switch off every arm that is harmful.

    An experiment that has ended is not analysed.

    Returns:
        The arms that were switched off now.

    Raises:
        StoreError: The observations cannot be read now.
        DataError: An observation has an arm or a value that the experiment does not know.
    """
    from plop_lora.ab.analysis import analyze

    observations = known.run.observations() if known.coverage else ()
    if not observations:
        return []
    analysis = analyze(experiment, observations, ramp=known.state.ramp)
    harmful = [
        decision
        for decision in analysis.decisions
        if decision.cause is Cause.HARM and not known.is_off(decision.arm)
    ]
    for decision in harmful:
        stored = known.switch(decision.arm, on=False, reason=decision.reason)
        log("harmful arm switched off", arm=decision.arm, reason=decision.reason, stored=stored)
    return [decision.arm for decision in harmful]
