"""Heat maps with the value in each cell: rows down, columns across."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pictures.svg import MIDDLE, SMALL, WIDTH, Drawing

ROW = 26


@dataclass(frozen=True, kw_only=True)
class Cells:
    """What a heat map shows.

    Attributes:
        rows: Names from the top down.
        columns: Names from left to right.
        values: Values by row and column.
        opacity: Strength of the colour of a value, from 0 to 1.
        shown: What is written into the cell of a value.
        role: Colour.
        bold: Rows whose names are bold.
    """

    rows: Sequence[str]
    columns: Sequence[str]
    values: Mapping[tuple[str, str], float]
    opacity: Callable[[float], float]
    shown: Callable[[float], str]
    role: str = "heat"
    bold: Sequence[str] = ()


def heat_map(
    title: str, cells: Cells, *, left: int, heading: str, legend: str, language: str = ""
) -> str:
    """Return a heat map.

    Args:
        title: What the picture is.
        cells: The values.
        left: Where the cells begin; the names of the rows stand before.
        heading: What the columns are. Where it is empty their names are turned.
        legend: What the strength of the colour says.
        language: Code of the language of the words, English if empty.
    """
    top = 46 if heading else 124
    bottom = top + ROW * len(cells.rows)
    drawing = Drawing(bottom + 32, title, language)
    width = (WIDTH - 8 - left) / len(cells.columns)
    if heading:
        drawing.text(left, 20, heading, size=MIDDLE, role="muted")
    for place, column in enumerate(cells.columns):
        middle = left + width * (place + 0.5)
        if heading:
            drawing.text(middle, top - 8, column, size=MIDDLE, anchor="middle")
        else:
            drawing.text(middle + 4, top - 6, column, size=SMALL, turn=-75)
    for number, row in enumerate(cells.rows):
        y = top + ROW * number
        drawing.text(12, y + 17, row, size=MIDDLE, face="bold" if row in cells.bold else "")
        for place, column in enumerate(cells.columns):
            value = cells.values[row, column]
            x = left + width * place
            drawing.rect(
                x + 1, y + 1, width - 2, ROW - 2, fill=cells.role, radius=3,
                opacity=cells.opacity(value),
            )  # fmt: skip
            drawing.text(x + width / 2, y + 17, cells.shown(value), size=SMALL, anchor="middle")
    drawing.text(12, bottom + 20, legend, size=SMALL, role="muted")
    return drawing.svg()
