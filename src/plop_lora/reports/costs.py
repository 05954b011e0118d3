"""Rows of the cost ledger, and formatting of time, money and memory. Nothing is computed."""

from __future__ import annotations

from collections.abc import Callable

from plop_lora.records import CostLedger, Counterfactual, Spent
from plop_lora.reports.rows import Column, Table, count, plural

ABSENT = "—"
_INSTEAD = "full search, not run"


def ledger_table(ledger: CostLedger, *, compared: bool = True) -> Table:
    """Quantities as rows; each measured part, the measured total and the plan as columns.

    `compared` says whether a full search is something to compare with, of which a line is told.

    What was measured and what was not run never share a column.
    """
    measured = (*ledger.lines, ledger.total)
    rows: list[tuple[str, ...]] = []
    for what, of_measured, of_plan in _quantities(ledger):
        cells = tuple(of_measured(spent) for spent in measured)
        plan = () if ledger.search is None else (of_plan(ledger.search),)
        rows.append((what, *cells, *plan))
    columns = [
        Column("measured"),
        *(Column(spent.what, right=True, starts=True) for spent in measured),
    ]
    if ledger.search is not None:
        columns.append(Column(_INSTEAD, right=True, starts=True))
    return Table("Cost", tuple(columns), tuple(rows), ledger_lines(ledger, compared=compared))


_Quantity = tuple[str, Callable[[Spent], str], Callable[[Counterfactual], str]]


def _quantities(ledger: CostLedger) -> tuple[_Quantity, ...]:
    return (
        ("trials", lambda s: f"{s.trials:,}", lambda c: f"{c.trials:,}"),
        ("wall time", lambda s: duration(s.wall_seconds), lambda c: ABSENT),
        ("device time", lambda s: duration(s.device_seconds), lambda c: duration(c.device_seconds)),
        ("GPU-hours", lambda s: hours(s.gpu_hours), lambda c: hours(c.gpu_hours)),
        (f"money ({ledger.currency})", lambda s: money(s.money), lambda c: money(c.money)),
        ("tokens", lambda s: count(s.tokens), lambda c: ABSENT),
        ("peak memory", lambda s: memory(s.peak_memory), lambda c: ABSENT),
    )


def ledger_lines(ledger: CostLedger, *, compared: bool = True) -> tuple[str, ...]:
    """Return lines on the meaning of the columns, the savings, and the reasons of absent values."""
    lines = [f"Device time is wall time × devices, summed over trials; on {ledger.device}."]
    if ledger.price is None:
        lines.append(f"Money: {ABSENT}, as no price was given (price: hourly in the recipe).")
    else:
        lines.append(f"Money at {money(ledger.price)} {ledger.currency} a device-hour.")
    if ledger.total.gpu_hours is None:
        lines.append(f"GPU-hours: {ABSENT}, as no GPU was used; no saving of GPU time is claimed.")
    search = ledger.search
    if not compared:
        return tuple(lines)
    if search is None:
        return (*lines, "No full search to compare with: no trial of full length is finished.")
    lines.append(
        f"Full search, not run: {search.plan} = {plural(search.trials, 'trial')}, each at the "
        "measured mean of a full-length trial."
    )
    return (*lines, *_avoided(ledger.total, search, ledger.currency))


def _avoided(total: Spent, search: Counterfactual, currency: str) -> list[str]:
    """Return a line on the difference to the plan in GPU-hours, which may be negative."""
    if total.gpu_hours is None or search.gpu_hours is None:
        return []
    less = search.gpu_hours - total.gpu_hours
    price = ""
    if total.money is not None and search.money is not None:
        price = f", {money(abs(search.money - total.money))} {currency}"
    if less < 0:
        return [f"The full search would have taken {hours(-less)} GPU-hours less{price}."]
    return [f"Avoided against the full search: {hours(less)} GPU-hours{price}."]


# --------------------------------------------------------------------------- units


def duration(seconds: float) -> str:
    """Return a time in a suitable unit.

    >>> duration(0.42), duration(34.2), duration(600), duration(12_240)
    ('0.4 s', '34 s', '10 min', '3.4 h')
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 119.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7170 else f"{seconds / 3600:,.1f} h"


def hours(number: float | None) -> str:
    """Return hours with three digits.

    >>> hours(None), hours(0.00512), hours(1234.5)
    ('—', '0.00512', '1,234')
    """
    if number is None:
        return ABSENT
    return f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"


def money(amount: float | None) -> str:
    """Return an amount with two decimals, or "< 0.01" for smaller amounts.

    >>> money(None), money(1234.5), money(0.001), money(0)
    ('—', '1,234.50', '< 0.01', '0.00')
    """
    if amount is None:
        return ABSENT
    return "< 0.01" if 0 < amount < 0.005 else f"{amount:,.2f}"


def memory(size: int) -> str:
    """Return a number of bytes in a suitable unit; 0 means that it was not measured.

    >>> memory(3 * 2**29), memory(5 * 2**20), memory(0)
    ('1.5 GiB', '5 MiB', '—')
    """
    if not size:
        return ABSENT
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
