"""Draw the rows: rich tables for a terminal, plain text for `print`, HTML for a notebook."""

from __future__ import annotations

import html
import io
import itertools
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table as RichTable
from rich.text import Text

from plop_lora.records import (
    Acquisition,
    Analysis,
    Comparison,
    EventImport,
    Experiment,
    ExperimentPlan,
    ExperimentStatus,
    Finetune,
    FinetunePlan,
    GatePlan,
    GateVerdict,
    GateWalk,
    Installation,
    LearnedModel,
    PipelineRun,
    Placement,
    Ramp,
    Record,
    Replay,
    Robustness,
    Scores,
    TrialResult,
    TrialSpec,
    Tuning,
    TuningPlan,
    Verification,
    VerificationPlan,
)
from plop_lora.reports.acquisition import acquisition_table
from plop_lora.reports.experiment import (
    analysis_table,
    experiment_plan_table,
    experiment_table,
    import_table,
    ramp_table,
    status_table,
)
from plop_lora.reports.finetune import finetune_plan_table, finetune_table
from plop_lora.reports.gate import gate_plan_table, gate_table, gate_walk_table
from plop_lora.reports.heatmap import heat_map
from plop_lora.reports.installation import installation_table
from plop_lora.reports.learned import learned_table
from plop_lora.reports.pipeline import run_table
from plop_lora.reports.proof import plan_table, verification_table
from plop_lora.reports.replay import replay_table
from plop_lora.reports.robustness import robustness_table
from plop_lora.reports.rows import (
    Table,
    comparison_table,
    placement_table,
    scores_table,
    shown,
    spec_table,
    trial_table,
)
from plop_lora.reports.tuning import tuning_plan_table, tuning_table

PLAIN_WIDTH = 120
GAP = 2


_TABLES: dict[type[Record], Callable[[Any], Table]] = {
    Acquisition: acquisition_table,
    Scores: scores_table,
    Placement: placement_table,
    Comparison: comparison_table,
    TrialSpec: spec_table,
    TrialResult: trial_table,
    VerificationPlan: plan_table,
    Verification: verification_table,
    TuningPlan: tuning_plan_table,
    Tuning: tuning_table,
    Finetune: finetune_table,
    FinetunePlan: finetune_plan_table,
    GatePlan: gate_plan_table,
    GateVerdict: gate_table,
    GateWalk: gate_walk_table,
    Experiment: experiment_table,
    Ramp: ramp_table,
    Analysis: analysis_table,
    ExperimentPlan: experiment_plan_table,
    ExperimentStatus: status_table,
    EventImport: import_table,
    Installation: installation_table,
    PipelineRun: run_table,
    Replay: replay_table,
    Robustness: robustness_table,
    LearnedModel: learned_table,
}


def table_of(record: Record) -> Table:
    """Return the table of a record, safe to print.

    Raises:
        TypeError: There is no table for this kind of record.
    """
    try:
        draw = _TABLES[type(record)]
    except KeyError:
        raise TypeError(f"no table for a {type(record).__name__}") from None
    return shown(draw(record))


def as_rich(record: Record) -> Group:
    """Return the record as a rich renderable that fits itself to the width it is given."""
    return _rich(table_of(record))


def _rich(table: Table) -> Group:
    title = Text(table.title, style="bold")
    lines = (Text(line) for line in table.lines)
    more = (part for other in table.more for part in (Text(), _rich(other)))
    return Group(title, Text(), _Fitted(table), Text(), *lines, *more)


class _Fitted:
    """A table that is split into pieces below each other if it is too wide.

    Each piece repeats the first column. Cells are not folded, which would break names and numbers:
    if names are too long for a piece, their common prefix is written once above the table, and if
    that is not enough, the cells of a row are written below each other.
    """

    def __init__(self, table: Table) -> None:
        """Keep the rows; the width is known when they are drawn."""
        self.table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield one rich table per piece."""
        width = options.max_width
        table, prefix = self.table, ""
        if not _fits(table, width):
            table, prefix = _without_prefix(table)
        if not _fits(table, width):
            yield from _stacked(self.table)
            return
        if prefix:
            yield Text(f"… stands for {prefix}", overflow="fold")
        for index, columns in enumerate(_pieces(table, width)):
            if index:
                yield Text()
            yield _draw(table, columns)


def _pieces(table: Table, width: int) -> list[list[int]]:
    """Return the columns of each piece, cut only where a column says that it may start one."""
    groups: list[list[int]] = []
    for index, column in enumerate(table.columns):
        if column.starts or not groups:
            groups.append([])
        groups[-1].append(index)
    pieces = [groups[0]]
    for group in groups[1:]:
        if _width(table, pieces[-1] + group) <= width:
            pieces[-1] = pieces[-1] + group
        else:
            pieces.append([0, *group])
    return pieces


def _fits(table: Table, width: int) -> bool:
    return all(_width(table, columns) <= width for columns in _pieces(table, width))


def _without_prefix(table: Table) -> tuple[Table, str]:
    """Return the table with the beginning that all names of its first column share cut off.

    The beginning ends at a dot; where there is none it is empty, and the table as it was.
    """
    levels = zip(*(row[0].split(".")[:-1] for row in table.rows), strict=False)
    shared = itertools.takewhile(lambda level: len(set(level)) == 1, levels)
    prefix = "".join(f"{level[0]}." for level in shared)
    if not prefix:
        return table, ""
    rows = tuple((f"…{row[0].removeprefix(prefix)}", *row[1:]) for row in table.rows)
    return replace(table, rows=rows), prefix


def _stacked(table: Table) -> Iterator[Text]:
    """Yield each row as its name and, indented below it, a line for every other cell."""
    for row in table.rows:
        yield Text(row[0], overflow="fold")
        for column, cell in zip(table.columns[1:], row[1:], strict=True):
            if cell:
                yield Text(f"  {column.name}: {cell}")


def _width(table: Table, columns: Sequence[int]) -> int:
    widths = [
        max(cell_len(text) for text in (table.columns[i].name, *(row[i] for row in table.rows)))
        for i in columns
    ]
    return sum(widths) + GAP * (len(widths) - 1)


def _draw(table: Table, columns: Sequence[int]) -> RichTable:
    drawn = RichTable(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0)
    )
    for index in columns:
        column = table.columns[index]
        drawn.add_column(column.name, justify="right" if column.right else "left", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(row[index]) for index in columns))
    return drawn


def as_text(record: Record, width: int | None = None) -> str:
    """Return the table as plain text, without colours.

    Args:
        record: What to draw.
        width: Columns; the terminal's if left out, and 120 where there is none.
    """
    buffer = io.StringIO()
    console = Console(file=buffer, width=width or _terminal_width(), color_system=None)
    console.print(as_rich(record))
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def _terminal_width() -> int:
    return shutil.get_terminal_size((PLAIN_WIDTH, 40)).columns


def as_html(record: Record) -> str:
    """Return the table as an HTML fragment, and of scores a map of the layers.

    Every cell is escaped; text keeps the page's own colour.
    """
    more = heat_map(record) if isinstance(record, Scores) else ""
    return _html(table_of(record)) + more


def _html(table: Table) -> str:
    sides = [f' style="text-align:{"right" if c.right else "left"}"' for c in table.columns]

    def cells(tag: str, texts: Iterable[str]) -> str:
        pairs = zip(sides, texts, strict=True)
        return "".join(f"<{tag}{side}>{html.escape(text)}</{tag}>" for side, text in pairs)

    head = cells("th", (column.name for column in table.columns))
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in table.rows)
    lines = "<br>".join(html.escape(line) for line in table.lines)
    return (
        f"<p><b>{html.escape(table.title)}</b></p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{lines}</p>"
    ) + "".join(map(_html, table.more))


# Bars become digits from 1 to 8.
_PLAIN_LETTERS = str.maketrans(
    {"─": "-", "–": "-", "…": "...", "✓": "x", "‖": "|"}
    | {bar: str(height) for height, bar in enumerate("▁▂▃▄▅▆▇█", start=1)}
)


def printable(text: str) -> str:
    """Return the text, in ASCII where stdout has no Unicode."""
    unicode = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    return text if unicode else text.translate(_PLAIN_LETTERS)


def show(record: Record) -> None:
    """Print the table to stdout: with style to a terminal, elsewhere as plain text."""
    if sys.stdout.isatty() and printable("─") == "─":
        Console().print(as_rich(record))
    else:
        print(printable(as_text(record)))
