"""Rows of a robustness record: one row a variant, and what follows from them."""

from __future__ import annotations

import math

from plop_lora.records import Outcome, Robustness, VariantResult
from plop_lora.records.robustness import STEADY
from plop_lora.reports.markdown import table_markdown
from plop_lora.reports.rows import Column, Table, plural, short_name

HEAD = "# plop robustness"
"""Beginning of a record in Markdown."""
LONGEST_SETTING = 20
_MEANS = {
    Outcome.SAME: f"same: at least {STEADY:.0%} of the resamples make this choice",
    Outcome.TIE: "tie: another choice, whose types differ by no more than the tolerance",
    Outcome.OTHER: "other: the choice is another one, by more than the tolerance",
    Outcome.OPEN: f"open: the same choice, which fewer than {STEADY:.0%} of the resamples make",
}


def robustness_table(record: Robustness) -> Table:
    """One row a variant: the ranking against that on all texts, and what becomes of the choice."""
    rows = tuple(
        (
            shown_name(one),
            tau(one),
            unchanged(one),
            one.outcome.value,
        )
        for one in record.results
    )
    outcomes = {one.outcome for one in record.results}
    lines = (
        f"Choice on all {plural(record.sequences, 'text')}: {', '.join(record.chosen)} "
        f"(the {record.top} lowest of {plural(len(record.nfn), 'type')}).",
        *(_exchange(one, record) for one in record.results if one.rival and _told(one)),
        "; ".join(means for outcome, means in _MEANS.items() if outcome in outcomes) + ".",
        "tau: Kendall's tau-b of the ranking of the types against that on all texts, with a 95 % "
        "interval over resampled texts. unchanged: the share of the resamples that make the "
        "choice of all texts; its exact interval is that of counting them.",
        *(f"Left out: {one.variant}, {one.reason.rstrip('.')}." for one in record.left_out),
        *(f"Note on {shown_name(one)}: {note}." for one in record.results for note in one.notes),
        *(f"Note: {note}." for note in record.notes),
        f"{plural(record.forwards, 'forward pass', 'es')} over the texts, "
        f"{record.elapsed_seconds:.0f} s; {record.dtype} on {record.device}.",
        f"Verdict: {record.verdict}. {record.advice}",
    )
    columns = (
        Column("variant"), Column("tau"), Column("unchanged"), Column("choice"),
    )  # fmt: skip
    title = f"Does the choice hold? {short_name(record.model)} on {short_name(record.data)}"
    return Table(title, columns, rows, lines)


def robustness_markdown(record: Robustness) -> str:
    """Return a record in Markdown, as for a pull request."""
    return table_markdown(robustness_table(record), f"{HEAD}: ")


def shown_name(one: VariantResult) -> str:
    """Return the name of a variant, and what is shown of a long setting."""
    setting = short_name(one.setting)
    if len(setting) > LONGEST_SETTING:
        setting = f"…{setting[1 - LONGEST_SETTING :]}"
    return f"{one.variant}: {setting}" if setting else one.variant


def tau(one: VariantResult) -> str:
    """Return Kendall's tau with its interval."""
    if one.tau is None or one.tau_low is None or one.tau_high is None:
        return "undefined"
    return f"{one.tau:.2f} ({one.tau_low:.2f} to {one.tau_high:.2f})"


def unchanged(one: VariantResult) -> str:
    """Return the share of unchanged choices with its interval, rounded outwards."""
    low, high = whole_bounds(one)
    return f"{one.unchanged:.1%} ({low}–{high})"


def whole_bounds(one: VariantResult) -> tuple[int, int]:
    """Return the bounds of the share of unchanged choices in whole per cent, rounded outwards."""
    return math.floor(one.unchanged_low * 100), math.ceil(one.unchanged_high * 100)


def exchanged(one: VariantResult, record: Robustness) -> tuple[list[str], list[str]]:
    """Return the types of the rival choice alone, and those that they stand in place of."""
    there = [name for name in one.rival if name not in record.chosen]
    return there, [name for name in record.chosen if name not in one.rival]


def _told(one: VariantResult) -> bool:
    return one.outcome is not Outcome.SAME


def _exchange(one: VariantResult, record: Robustness) -> str:
    """Say which types the rival exchanges, and how far apart they are."""
    there, here = exchanged(one, record)
    apart = "" if one.margin is None else f", {one.margin:.3f} NFN apart"
    return f"{shown_name(one)}: {', '.join(there)} in place of {', '.join(here)}{apart}."
