"""What the router counts, for Prometheus. Labels are arms, outcomes and kinds, never units.

The client library is imported when the metrics are made.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from plop_lora.errors import require

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """The counters of one router, in a registry of their own.

    Attributes:
        registry: Registry that the page of metrics is made from.
        in_flight: Gauge of the requests that are being answered.
    """

    def __init__(self, arms: Iterable[str]) -> None:
        prometheus = require("prometheus_client")
        self.registry: Any = prometheus.CollectorRegistry()
        counter, gauge = prometheus.Counter, prometheus.Gauge
        own = {"registry": self.registry}
        self._requests = counter(
            "plop_requests", "Requests of units that take part.", ("arm", "outcome"), **own
        )
        self._outside = counter(
            "plop_requests_outside", "Requests sent to the control and not logged.",
            ("reason", "outcome"), **own,
        )  # fmt: skip
        self._refused = counter(
            "plop_refused", "Requests that the router refused itself.", ("reason",), **own
        )
        self._failures = counter(
            "plop_router_failures", "Failures on the router's own side.", ("kind",), **own
        )
        self._events = counter("plop_events", "Events that were kept or lost.", ("result",), **own)
        self.in_flight: Any = gauge(
            "plop_requests_in_flight", "Requests that are being answered.", **own
        )
        self._coverage = gauge("plop_coverage", "Share of all units that take part.", **own)
        self._on = gauge("plop_arm_on", "1 where an arm is on, else 0.", ("arm",), **own)
        self._state_age = gauge(
            "plop_state_age_seconds", "Time since the coverage was last read.", **own
        )
        latency = prometheus.Histogram
        first = latency(
            "plop_latency_first_seconds", "Time to the first byte of a streamed answer.",
            ("arm",), buckets=_SECONDS, **own,
        )  # fmt: skip
        last = latency(
            "plop_latency_last_seconds", "Time to the end of an answer.",
            ("arm",), buckets=_SECONDS, **own,
        )  # fmt: skip
        self._first = {arm: first.labels(arm) for arm in arms}
        self._last = {arm: last.labels(arm) for arm in arms}

    def answered(self, arm: str, outcome: str) -> None:
        """Count a request of a unit that takes part."""
        self._requests.labels(arm, outcome).inc()

    def outside(self, reason: str, outcome: str) -> None:
        """Count a request that went to the control and is logged nowhere else."""
        self._outside.labels(reason, outcome).inc()

    def latency(self, arm: str, first: float | None, last: float) -> None:
        """Count the seconds of an answer that is complete."""
        if first is not None:
            self._first[arm].observe(first)
        self._last[arm].observe(last)

    def refused(self, reason: str) -> None:
        """Count a request that the router answered with an error of its own."""
        self._refused.labels(reason).inc()

    def failed(self, kind: str) -> None:
        """Count a failure on the router's own side."""
        self._failures.labels(kind).inc()

    def events(self, number: int, *, kept: bool) -> None:
        """Count events that the sink took, or did not."""
        self._events.labels("kept" if kept else "lost").inc(number)

    def page(self, coverage: float, arms_on: Iterable[tuple[str, bool]], age: float) -> bytes:
        """Return the page of metrics.

        Args:
            coverage: Share of all units that take part now.
            arms_on: Each arm, and whether it is on.
            age: Seconds since these were read.
        """
        self._coverage.set(coverage)
        for arm, on in arms_on:
            self._on.labels(arm).set(on)
        self._state_age.set(age)
        page: bytes = require("prometheus_client").generate_latest(self.registry)
        return page
