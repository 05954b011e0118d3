"""The table of a cost ledger: what was measured, beside what was not run."""

from __future__ import annotations

from plop_lora.files import size
from plop_lora.records import CostLedger
from plop_lora.reports.page.blocks import DataTable
from plop_lora.reports.text import Text

ABSENT = "—"


def cost_table(ledger: CostLedger, words: Text) -> DataTable:
    """Return the measured parts, their sum, and the estimate of a full search as rows."""
    rows = [
        (
            words("cost.total") if spent is ledger.total else words.recorded("cost", spent.what),
            words.count(spent.trials),
            words.duration(spent.device_seconds),
            hours(spent.gpu_hours),
            money(spent.money, ledger, words),
            words.count(spent.tokens),
            size(spent.peak_memory) if spent.peak_memory else ABSENT,
        )
        for spent in (*ledger.lines, ledger.total)
    ]
    search = ledger.search
    if search is not None:
        rows.append(
            (
                words("cost.search", plan=words.recorded("plan", search.plan)),
                words.count(search.trials),
                words.duration(search.device_seconds),
                hours(search.gpu_hours),
                money(search.money, ledger, words),
                ABSENT,
                ABSENT,
            )
        )
    columns = ("part", "trials", "device_time", "gpu_hours", "money", "tokens", "memory")
    return DataTable(
        caption=words("cost.title", device=ledger.device),
        columns=tuple(words(f"column.{name}") for name in columns),
        rows=tuple(rows),
        numeric=(False, *(True,) * 6),
    )


def hours(value: float | None) -> str:
    """Return a number of GPU-hours, a dash where there is none."""
    return ABSENT if value is None else f"{value:,.2f}"


def money(value: float | None, ledger: CostLedger, words: Text) -> str:
    """Return an amount of money, a dash where no price was given."""
    return ABSENT if value is None else words.money(value, ledger.currency)
