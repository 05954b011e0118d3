"""What a router knows of its experiment's run: the last state, and arms that it holds off itself.

The store may be away at any time. The last known state stays then, and an arm that has to be
switched off is off here at once, and in the store as soon as it is back.

Imports the standard library, records and the contract of a run.
"""

from __future__ import annotations

import contextlib
import threading
import time
from datetime import UTC, datetime

from plop_lora.ab.running import ExperimentRun, RunState
from plop_lora.errors import StoreError, UsageError


class Known:
    """The last known state of a run. Reading it waits for nothing."""

    def __init__(self, run: ExperimentRun) -> None:
        """Read the state.

        Raises:
            StoreError: It cannot be read.
            RecordError: The experiment is not the one that was started.
        """
        state = run.state()
        state.ramp.check(run.experiment)
        self.run = run
        self._held: dict[str, str] = {}
        self._lock = threading.Lock()
        self._take(state)

    @property
    def state(self) -> RunState:
        """The state, with the arms that only this router holds off."""
        state = self._state
        return RunState(ramp=state.ramp, off={**state.off, **self._held})

    @property
    def coverage(self) -> float:
        """The share of all units that take part."""
        return self._coverage

    @property
    def age(self) -> float:
        """Seconds since the state was read."""
        return time.monotonic() - self._read_at

    def is_off(self, arm: str) -> bool:
        """Whether the units of an arm get the control."""
        return arm in self._state.off or arm in self._held

    def refresh(self) -> None:
        """Tell the store which arms are held off here, and read the state.

        Raises:
            StoreError: The store is away. What was known stays.
        """
        with self._lock:
            for arm, reason in list(self._held.items()):
                with contextlib.suppress(UsageError):  # the experiment has ended: no arm matters
                    self.run.switch(arm, on=False, reason=reason, at=datetime.now(UTC))
                self._take_switched(arm, on=False, reason=reason)
                self._held.pop(arm, None)
            self._take(self.run.state())

    def switch(self, arm: str, *, on: bool, reason: str) -> bool:
        """Switch an arm for all routers, or off for this one where the store is away.

        Returns:
            Whether the store took it. What it did not take is tried again at each refresh.

        Raises:
            UnknownNameError: The experiment has no such arm.
            UsageError: The arm is the control, or the experiment has ended.
            StoreError: The arm should be on, and the store is away.
        """
        if not on and arm in self.run.experiment.candidates:
            self._held[arm] = reason  # at once: a store that hangs takes its time to fail
        with self._lock:
            try:
                self.run.switch(arm, on=on, reason=reason, at=datetime.now(UTC))
            except StoreError:
                if on:
                    raise
                return False
            except UsageError:
                self._held.pop(arm, None)
                raise
            self._take_switched(arm, on=on, reason=reason)
            self._held.pop(arm, None)
        return True

    def _take(self, state: RunState) -> None:
        self._state = state
        self._coverage = state.ramp.coverage
        self._read_at = time.monotonic()

    def _take_switched(self, arm: str, *, on: bool, reason: str) -> None:
        """Apply a switch that the store took, without another question to it."""
        off = {name: why for name, why in self._state.off.items() if name != arm}
        if not on:
            off[arm] = reason
        self._state = RunState(ramp=self._state.ramp, off=off)
