"""Rows of the installation: one line for each finding, and the command for what is missing."""

from __future__ import annotations

from plop_lora.records import Installation
from plop_lora.reports.rows import Column, Table


def installation_table(record: Installation) -> Table:
    """Return the findings by area, each named once."""
    rows, area = [], ""
    for finding in record.findings:
        shown = "" if finding.area == area else finding.area
        area = finding.area
        rows.append((shown, finding.name, finding.value, finding.advice))
    lines = () if record.sound else ("Something that is needed is missing or too old.",)
    columns = (Column(""), Column("name"), Column("found"), Column("to mend or to add it"))
    return Table(f"plop-lora {record.plop_version} on this machine", columns, tuple(rows), lines)
