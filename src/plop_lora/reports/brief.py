"""One line about a record, which is its `repr` at a prompt or in a debugger."""

from __future__ import annotations

from plop_lora.records import (
    Acquisition,
    Analysis,
    Comparison,
    Experiment,
    Finetune,
    GateVerdict,
    Placement,
    Record,
    Replay,
    Robustness,
    Scores,
    Tuning,
    Verification,
)
from plop_lora.reports.acquisition import acquisition_title
from plop_lora.reports.rows import plural, short_name


def brief(record: Record) -> str:
    """Return one line about a record, which is its kind where nothing else is known."""
    if isinstance(record, Acquisition):
        return acquisition_title(record)
    if isinstance(record, Scores):
        lowest = ", ".join(f"{row.type} {row.nfn:.3f}" for row in record.types[:3])
        return (
            f"{short_name(record.model.name)}, {plural(len(record.types), 'type')} on "
            f"{plural(record.sequences, 'sequence')}, lowest {lowest}"
        )
    if isinstance(record, Placement):
        types = ", ".join(choice.type for choice in record.choices)
        return (
            f"{short_name(record.model.name)}, {record.strategy}: {types}; "
            f"{plural(len(record.sites), 'adapter')}, {record.trainable_parameters:,} parameters"
        )
    if isinstance(record, Comparison):
        return (
            f"{short_name(record.first)} and {short_name(record.second)}, "
            f"{plural(len(record.types), 'type')}"
        )
    if isinstance(record, Verification):
        return (
            f"{record.shortlist} on {short_name(record.model.name)}, {record.task}: "
            f"{record.verdict}"
        )
    if isinstance(record, Finetune):
        return f"{short_name(record.model.name)}, {record.task}: {record.verdict}"
    if isinstance(record, Tuning):
        return f"{short_name(record.model.name)}, {record.task}: {record.verdict}"
    if isinstance(record, GateVerdict):
        checks = ", ".join(f"{check.check} {check.verdict}" for check in record.checks)
        return f"{short_name(record.adapter)} on {short_name(record.base)}: {checks}"
    if isinstance(record, Experiment):
        return f"{record.name}, {', '.join(record.split)}; {record.primary} decides"
    if isinstance(record, Analysis):
        actions = ", ".join(f"{one.arm} {one.action}" for one in record.decisions)
        return f"{record.experiment}, {plural(record.units, 'unit')}: {actions}"
    if isinstance(record, Replay):
        found = ", ".join(f"{one.arm} {one.metric}" for one in record.measures if one.differs)
        return f"{plural(record.prompts, 'prompt')}, different in {found or 'nothing'}"
    if isinstance(record, Robustness):
        return (
            f"{short_name(record.model)}, {', '.join(record.chosen)} under "
            f"{plural(len(record.results), 'variant')}: {record.verdict}"
        )
    return record.kind
