"""The cost ledger: what was spent, and what a named plan would have spent."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Cost of one part of the work.

    `device_seconds` is wall time × devices, summed over trials; `gpu_hours` is None on a CPU,
    `money` None without a price. `peak_memory` is the largest of any trial, in bytes.
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
    """What a plan that was not run would have cost, at the measured mean cost of a trial."""

    plan: str
    trials: int
    device_seconds: float
    gpu_hours: float | None
    money: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CostLedger:
    """Measured lines with their sum, and beside them the named plan of a full search.

    `price` is money a device-hour as the user gave it. A run on a CPU has no `gpu_hours`, and so
    no saving of any.
    """

    lines: tuple[Spent, ...]
    total: Spent
    search: Counterfactual | None
    price: float | None
    currency: str
    device: str
