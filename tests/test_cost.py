"""The ledger adds up, names what it compares with, and claims no GPU that was not there."""

from __future__ import annotations

import subprocess
import sys

import pytest
from builders import trial_cost, trial_result, trial_spec

from plop_lora.cost import (
    SearchPlan,
    full_search,
    ledger,
    spent,
    trial_flops,
)
from plop_lora.reports.costs import ledger_lines, ledger_table

GPU = {"accelerator": True, "device": "NVIDIA H100"}


def test_sums_of_a_part() -> None:
    """Two devices for an hour are two device-hours, and cost as much."""
    part = spent(
        "confirm", [trial_cost(3600, devices=2, **GPU), trial_cost(1800, peak_memory=7, **GPU)], 2.0
    )
    assert (part.trials, part.wall_seconds, part.device_seconds) == (2, 5400.0, 9000.0)
    assert (part.gpu_hours, part.money, part.tokens) == (2.5, 5.0, 200)
    assert part.peak_memory == 2**20


def test_a_failed_trial_was_paid_for() -> None:
    failed = trial_result(trial_spec(), None, cost=trial_cost(3600, **GPU))
    assert spent("ladder", [failed], 3.0).money == 3.0


def test_nothing_is_claimed_for_a_processor_or_without_a_price() -> None:
    part = spent("ladder", [trial_cost(3600)], None)
    assert (part.gpu_hours, part.money) == (None, None)
    empty = spent("ladder", [], 2.0)
    assert (empty.trials, empty.gpu_hours, empty.money, empty.peak_memory) == (0, None, 0.0, 0)


def test_accelerators_alone_make_gpu_hours() -> None:
    """Scoring on a processor beside trials on a GPU must not count as GPU time."""
    part = spent("total", [trial_cost(3600), trial_cost(7200, **GPU)], 1.0)
    assert (part.gpu_hours, part.money) == (2.0, 3.0)


def test_the_search_is_charged_at_the_mean_of_full_trials() -> None:
    """Ladder trials are shorter and failed ones end early; their mean would be another."""
    parts = {
        "ladder": [trial_cost(60, **GPU)],
        "confirm": [
            trial_result(trial_spec(), cost=trial_cost(1000, **GPU)),
            trial_result(trial_spec(), cost=trial_cost(2000, devices=2, **GPU)),
            trial_result(trial_spec(), None, cost=trial_cost(1, **GPU)),
        ],
    }
    book = ledger(parts, 3.6, "EUR", full_search(rates=3, seeds=5))
    assert [line.what for line in book.lines] == ["ladder", "confirm"]
    assert (book.total.trials, book.total.device_seconds) == (4, 5061.0)
    assert book.search is not None
    assert (book.search.trials, book.search.device_seconds) == (90, 90 * 2500.0)
    assert book.search.gpu_hours == pytest.approx(62.5)
    assert book.search.money == pytest.approx(225.0)
    assert book.device == "NVIDIA H100"


def test_without_a_full_trial_there_is_no_comparison() -> None:
    book = ledger({"ladder": [trial_cost()], "confirm": []}, None, "USD", full_search())
    assert book.search is None
    assert any("No full search" in line for line in ledger_lines(book))


def _cells(book, name: str) -> dict[str, str]:
    table = ledger_table(book)
    row = next(row for row in table.rows if row[0].startswith(name))
    return dict(zip((column.name for column in table.columns), row, strict=True))


def test_measured_and_not_run_stand_apart() -> None:
    parts = {"confirm": [trial_cost(7200, **GPU)] * 2}
    book = ledger(parts, 2.0, "EUR", SearchPlan("six placements", 90))
    assert _cells(book, "GPU-hours") == {
        "measured": "GPU-hours", "confirm": "4", "total": "4", "full search, not run": "180",
    }  # fmt: skip
    assert _cells(book, "money (EUR)")["full search, not run"] == "360.00"
    assert _cells(book, "trials")["total"] == "2"
    assert _cells(book, "tokens")["full search, not run"] == "—"
    assert "Avoided against the full search: 176 GPU-hours, 352.00 EUR." in ledger_lines(book)
    assert any("six placements = 90 trials" in line for line in ledger_lines(book))


def test_a_processor_has_a_dash_and_a_reason() -> None:
    book = ledger({"confirm": [trial_cost(7200)] * 2}, 2.0, "USD", full_search())
    assert set(_cells(book, "GPU-hours").values()) == {"GPU-hours", "—"}
    lines = ledger_lines(book)
    assert any("no GPU was used; no saving of GPU time is claimed" in line for line in lines)
    assert not any("Avoided" in line for line in lines)


def test_a_run_that_took_more_says_so() -> None:
    book = ledger({"confirm": [trial_cost(3600, **GPU)] * 3}, None, "USD", SearchPlan("one", 1))
    assert "The full search would have taken 2 GPU-hours less." in ledger_lines(book)


def test_flops_lie_between_four_and_six_a_parameter_and_token() -> None:
    assert trial_flops(10, 10, 0.0) == 400
    assert trial_flops(10, 10, 1.0) == 600
    assert 400 < trial_flops(10, 10, 0.01) < 405
    assert trial_flops(10, 10, 0.0, checkpointing=True) == 600


@pytest.mark.slow
def test_counting_costs_is_light() -> None:
    code = "import sys, plop_lora.cost; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
