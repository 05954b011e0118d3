"""Rows of an acquisition: what was removed and why, what to look at, and the next command.

Rendering only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from plop_lora.records import Acquisition, DataSource, Reason, RowFinding, Side
from plop_lora.reports.markdown import table_markdown
from plop_lora.reports.rows import Column, Table, plural, short_name

HEAD = "# plop acquire"
"""The beginning of an acquisition in Markdown."""
LISTED = 5
"""Rows and fields that are listed by number; the record has all."""
_WORDS = {
    Reason.EMPTY: "have no text",
    Reason.EXACT: "repeat another",
    Reason.NEAR: "nearly repeat another",
    Reason.LEAKED: "hold an evaluation row",
    Reason.PERSONAL: "hold personal data or secrets",
}
_DONE = {"remove": "removed", "count": "kept", "refuse": "refused"}


def acquisition_table(record: Acquisition) -> Table:
    """Rows that were read, that were found for each reason, and that are left, set by set."""
    columns = (
        Column("set"), Column("rows that"), Column("number", right=True),
        Column("share", right=True), Column("action"), Column("row numbers", starts=True),
    )  # fmt: skip
    rows = tuple(_rows(record))
    return Table(acquisition_title(record), columns, rows, tuple(acquisition_lines(record)))


def _rows(record: Acquisition) -> Iterator[tuple[str, ...]]:
    read = {source.side: source.rows for source in record.sources}
    for side, left in ((Side.TRAIN, record.train_rows), (Side.EVAL, record.eval_rows)):
        whole = read.get(side, read[Side.TRAIN])
        if side in read:
            yield (str(side), "were read", f"{whole:,}", "", "", "")
        for found in record.findings:
            if found.side is side:
                count, share = _part(len(found.rows), whole)
                done, numbers = _DONE.get(found.action, found.action), _listed(found.rows)
                yield (str(side), _WORDS[found.reason], count, share, done, numbers)
        held = record.held_out and side is Side.EVAL
        yield (str(side), "are held out" if held else "are left", *_part(left, whole), "", "")


def _part(rows: int, whole: int) -> tuple[str, str]:
    """Return a number of rows, and its share of those that were read."""
    return f"{rows:,}", f"{rows / max(whole, 1):.1%}"


def acquisition_title(record: Acquisition) -> str:
    """Return in one line what came of the rows."""
    name = short_name(record.sources[0].name)
    sizes = f"{plural(record.train_rows, 'training row')}, {record.eval_rows:,} for evaluation"
    if record.refused:
        return f"{name}: refused, nothing was written ({sizes} would be left)"
    return f"{name}: {sizes}"


def acquisition_lines(record: Acquisition) -> list[str]:
    """Return the sentences below the table."""
    lines = list(map(_source_line, record.sources))
    if record.held_out:
        lines.append(_split_line(record))
    if not record.findings:
        lines.append("No row repeats another, and no evaluation row stands in a training row.")
    lines += _leak_lines(record)
    lines += _personal_lines(record)
    lines += [f"Note: {note}." for note in record.notes]
    lines += [_refusal(found) for found in record.refused]
    return lines


def _source_line(source: DataSource) -> str:
    identity = f"commit {source.revision}" if source.revision else f"SHA-256 {source.sha256}"
    licence = "licence unknown: make sure that you may train on these rows"
    if source.licence:
        licence = f"licence “{source.licence}”, from {source.licence_from}"
    return (
        f"{source.side}: {plural(source.rows, 'row')} of {source.name}, text in {source.fields}; "
        f"{identity}; {licence}."
    )


def _split_line(record: Acquisition) -> str:
    settings = record.recipe.get("acquire")
    split = settings.get("split") if isinstance(settings, dict) else None
    by, column = ("row", None) if not isinstance(split, dict) else (split["by"], split["column"])
    how = {"group": f"by whole groups of {column!r}", "time": f"the latest by {column!r}"}
    return (
        f"Evaluation rows were held out of the training rows, {how.get(by, 'at random')}; their "
        "row numbers are those of the training source."
    )


def _leak_lines(record: Acquisition) -> list[str]:
    if not record.leaks:
        return []
    share = len(record.leaks) / max(record.eval_rows, 1)
    holders = len({row for leak in record.leaks for row in leak.train_rows})
    worst = sorted(record.leaks, key=lambda leak: (-leak.share, leak.row))
    named = ", ".join(f"{leak.row} ({leak.share:.0%})" for leak in worst[:LISTED])
    more = f" and {len(worst) - LISTED:,} more" if len(worst) > LISTED else ""
    return [
        f"Leakage: {plural(len(record.leaks), 'evaluation row')} ({share:.1%}) stood in "
        f"{plural(holders, 'training row')}; the evaluation rows with the largest share in one "
        f"training row: {named}{more}."
    ]


def _personal_lines(record: Acquisition) -> list[str]:
    if not record.detectors:
        return []
    looked = f"Looked for personal data and secrets with {', '.join(record.detectors)}"
    if not record.personal:
        return [f"{looked}: none was found, which does not prove that there is none."]
    kinds: Counter[str] = Counter()
    for place in record.personal:
        kinds[place.kind] += place.count
    counts = ", ".join(f"{count:,} × {kind}" for kind, count in sorted(kinds.items()))
    first = "; ".join(
        f"{place.side} row {place.row}, field {place.field!r}: {place.kind}"
        for place in record.personal[:LISTED]
    )
    more = len(record.personal) - LISTED
    rest = f"; {more:,} more in the record" if more > 0 else ""
    return [f"{looked}: {counts}.", f"Look at: {first}{rest}."]


def _refusal(found: RowFinding) -> str:
    return (
        f"Refused: {plural(len(found.rows), f'{found.side} row')} that {_WORDS[found.reason]}. "
        "Change the data, or set the action to remove or count."
    )


def _listed(rows: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, rows[:LISTED]))
    return f"{shown}, …" if len(rows) > LISTED else shown


def acquisition_markdown(record: Acquisition) -> str:
    """Return an acquisition in Markdown, as for a pull request or a data sheet."""
    return table_markdown(acquisition_table(record), f"{HEAD}: ")
