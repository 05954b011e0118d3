"""The cost ledger: the measured cost of a run, and the estimated cost of a full search."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """The measured cost of one part of a run.

    `device_seconds` is wall time × devices, summed over trials. `gpu_hours` is None on a CPU, and
    `money` is None without a price. `peak_memory` is the largest of any trial, in bytes.
    """

    what: str
    trials: int
    wall_seconds: float
    device_seconds: float
    gpu_hours: float | None
    money: float | None
    tokens: int
    peak_memory: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counterfactual:
    """The estimated cost of a plan that was not run, at the measured mean cost of a trial."""

    plan: str
    trials: int
    device_seconds: float
    gpu_hours: float | None
    money: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CostLedger:
    """The measured cost by part and in total, and the estimated cost of a full search.

    `price` is the price of a device-hour that the user gave. A run on a CPU has no `gpu_hours`, and
    therefore no savings in them.
    """

    lines: tuple[Spent, ...]
    total: Spent
    search: Counterfactual | None
    price: float | None
    currency: str
    device: str
