"""Rows of the installation: one line for each finding, and the command for what is missing."""

from __future__ import annotations

from plop_lora.records import Finding, Installation
from plop_lora.reports.rows import Column, Table

_WIDEST = 50
"""Characters of a cell with which a row fits 80 columns."""


def installation_table(record: Installation) -> Table:
    """Return the findings by area, each named once."""
    rows, area = [], ""
    for finding in record.findings:
        shown = "" if finding.area == area else finding.area
        area = finding.area
        rows.append((shown, finding.name, _found(finding)))
    lines = () if record.sound else ("Something that is needed is missing or too old.",)
    columns = (Column(""), Column("name"), Column("found"))
    return Table(f"plop-lora {record.plop_version} on this machine", columns, tuple(rows), lines)


def _found(finding: Finding) -> str:
    """Return what was found and what to do, or what to do alone where both exceed a line."""
    if not finding.advice:
        return finding.value
    both = f"{finding.value}: {finding.advice}"
    return both if len(both) <= _WIDEST else f"not complete: {finding.advice}"
