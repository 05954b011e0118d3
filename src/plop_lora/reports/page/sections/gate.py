"""The section of a gate: its checks, the parts that fail, and the items that went worst."""

from __future__ import annotations

from plop_lora.records import CheckResult, GateVerdict, GateWalk
from plop_lora.records.gate import (
    FAIL,
    NOT_ENOUGH_DATA,
    PASS,
    CheckPart,
    CheckVerdict,
    Measured,
)
from plop_lora.reports.gate import MOST_ITEMS
from plop_lora.reports.page.answers import Answers
from plop_lora.reports.page.blocks import SIGNS, DataTable, Fold, Section, Tone
from plop_lora.reports.rows import short_name
from plop_lora.reports.text import Text, number

TONES = {PASS: Tone.GOOD, FAIL: Tone.BAD, NOT_ENOUGH_DATA: Tone.OPEN}
"""Verdict of a check → its tone."""
LONGEST_ANSWER = 240
"""The most characters of an answer that are shown."""


def gate_section(
    record: GateVerdict, words: Text, position: int = 1, answers: Answers | None = None
) -> Section:
    """Return the checks of a verdict.

    Args:
        record: The verdict.
        words: Words of the page.
        position: Number that tells several verdicts apart.
        answers: The answers to the worst items; None shows no answers.
    """
    tables = [_checks(record, words)]
    for check in record.checks:
        tables += [_parts(check, words)] if check.parts else []
        tables += [_worst(record, check, words, answers or {})] if check.worst_items else []
    lines = [
        gate_sentence(record, words),
        words("gate.against", base=short_name(record.reference or record.base)),
    ]
    if record.evidence is not None:
        lines.append(words("gate.evidence", path=record.evidence))
    if any(check.worst_items for check in record.checks):
        lines += _about_answers(record, words, asked=answers is not None)
    return Section(
        name=f"gate-{position}",
        title=words("gate.title", adapter=short_name(record.adapter)),
        lines=tuple(lines),
        tables=tuple(tables),
        quotes=tuple(_quotes(record)),
    )


def _about_answers(record: GateVerdict, words: Text, *, asked: bool) -> list[str]:
    """Say why no answers are shown, where that is so."""
    if not asked:
        return [words("gate.answers")]
    return [words("gate.unkept")] if record.evidence is None else []


def gate_sentence(record: GateVerdict, words: Text) -> str:
    """Return the verdict on an adapter as one sentence."""
    open_ = [check.check for check in record.checks if check.verdict is not PASS]
    key = {"pass": "pass", "fail": "fail"}.get(record.verdict, "open")
    return words(f"gate.{key}", checks=words.listed(open_), total=len(record.checks))


def walk_section(walk: GateWalk, words: Text) -> Section:
    """Return the verdicts on the checkpoints of a run, the last first."""
    return Section(
        name="checkpoints",
        title=words("walk.title"),
        lines=(words("walk.read", total=walk.checkpoints, gated=len(walk.gated)),),
        tables=(
            DataTable(
                caption=words("walk.title"),
                columns=(words("column.step"), words("column.verdict"), words("column.checks")),
                rows=tuple(
                    (
                        words.count(one.step),
                        _signed(one.verdict.verdict, words),
                        words.listed(
                            [f"{c.check}: {words.word(c.verdict)}" for c in one.verdict.checks]
                        ),
                    )
                    for one in walk.gated
                ),
                numeric=(True, False, False),
            ),
        ),
    )


_COLUMNS = ("verdict", "base", "adapter", "difference", "bounds", "limit", "items")


def _checks(record: GateVerdict, words: Text) -> DataTable:
    rows = tuple(
        (
            check.check,
            check.metric,
            _signed(check.verdict, words),
            _measured(check.base, words),
            _measured(check.adapter, words),
            number(check.difference.value, 4, signed=True),
            words.interval(check.bound_low, check.bound_high, digits=4, signed=True),
            number(check.limit, 4, signed=True),
            words.count(check.items),
        )
        for check in record.checks
    )
    return DataTable(
        caption=words("gate.checks"),
        columns=(
            words("column.check"), words("column.metric"),
            *(words(f"column.{name}") for name in _COLUMNS),
        ),
        rows=rows,
        numeric=(False, False, False, True, True, True, True, True, True),
    )  # fmt: skip


def _parts(check: CheckResult, words: Text) -> DataTable:
    """Return the parts of a check, those that fail first."""
    order = sorted(check.parts, key=lambda part: part.verdict is PASS or part.verdict is None)
    return DataTable(
        caption=words("gate.parts", check=check.check),
        columns=(
            words("column.part"), *(words(f"column.{name}") for name in _COLUMNS if name != "limit")
        ),
        rows=tuple(_part(part, words) for part in order),
        numeric=(False, False, True, True, True, True, True),
    )  # fmt: skip


def _part(part: CheckPart, words: Text) -> tuple[str, ...]:
    return (
        part.name,
        "" if part.verdict is None else _signed(part.verdict, words),
        _measured(part.base, words),
        _measured(part.adapter, words),
        number(part.difference.value, 4, signed=True),
        words.interval(part.bound_low, part.bound_high, digits=4, signed=True),
        words.count(part.items),
    )


def _worst(record: GateVerdict, check: CheckResult, words: Text, answers: Answers) -> DataTable:
    """Return the items of a check that went worst, with their answers where they are known."""
    keys = [(record.measurement, item.suite, item.index) for item in check.worst_items]
    texts = [answers.get(key) for key in keys]
    answered = any(text is not None for text in texts)
    columns = ["item", "base", "adapter", "difference"]
    columns += ["base_answer", "adapter_answer"] if answered else []
    cells = [
        (
            words.recorded("item", item.name),
            words("undecided") if item.base is None else number(item.base, 4),
            words("undecided") if item.adapter is None else number(item.adapter, 4),
            number(item.difference, 4, signed=True),
        )
        for item in check.worst_items
    ]
    rows = [
        (*row, *(_shortened(side, words) for side in text or ("", ""))) if answered else row
        for row, text in zip(cells, texts, strict=True)
    ]
    return DataTable(
        caption=words("gate.worst", check=check.check, part=f" ({check.part})" * bool(check.part)),
        columns=tuple(words(f"column.{name}") for name in columns),
        rows=tuple(rows),
        numeric=(False, True, True, True, False, False)[: len(columns)],
        fold=Fold.OPEN if check.verdict is FAIL else Fold.CLOSED,
        brief=MOST_ITEMS,
    )


def _shortened(answer: str, words: Text) -> str:
    """Return the beginning of an answer on one line."""
    line = " ".join(answer.split())
    if not line:
        return words("gate.empty")
    return line if len(line) <= LONGEST_ANSWER else f"{line[:LONGEST_ANSWER].rstrip()}…"


def _signed(verdict: CheckVerdict, words: Text) -> str:
    return SIGNS[TONES[verdict]] + words.word(verdict)


def _measured(measured: Measured, words: Text) -> str:
    bounds = words.interval(measured.low, measured.high)
    return number(measured.value) + (f" ({bounds})" if bounds else "")


def _quotes(record: GateVerdict) -> list[str]:
    """Return what the checks say of themselves, each after the name of its check."""
    found = [
        f"{check.check}: {sentence}"
        for check in record.checks
        for sentence in (check.reason, check.warning, *check.advice, *check.notes)
        if sentence
    ]
    return [*found, *record.notes]
