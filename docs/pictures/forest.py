"""Forest plots: a value with its interval on each line, all of them on one axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from drawing import Axis

from pictures.svg import MIDDLE, SMALL, WIDTH, Drawing, signed

LEFT, RIGHT = 138, 306
"""Ends of the axis; labels stand to its left, values to its right."""
LETTER = 6.8
"""Width of a letter, in the mean over a label; the axis begins where the longest label ends."""
ROW, HEAD = 21, 30
Place = Callable[[float], float]
"""From a value to its place across."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of a plot.

    Attributes:
        label: What it is.
        value: The value.
        low: Lower end of its interval, None where it has none.
        high: Upper end of its interval.
        role: Colour.
        pooled: Whether it sums up the others, and is drawn as a diamond.
    """

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    role: str = "accent"
    pooled: bool = False


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Lines under a heading of their own."""

    heading: str
    rows: Sequence[Row]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The axis that all panels share.

    Attributes:
        title: What the axis shows.
        left: What it means to lie far left, none if empty.
        right: What it means to lie far right.
        marks: Values at which a line is drawn down; the first is solid, the others are dashed.
        digits: Decimals of the values.
        plus: Whether values above zero have a sign.
    """

    title: str
    left: str = ""
    right: str = ""
    marks: Sequence[float] = (0.0,)
    digits: int = 2
    plus: bool = True


def forest(title: str, panels: Sequence[Panel], scale: Scale, language: str = "") -> str:
    """Return a forest plot.

    Args:
        title: What the picture is.
        panels: Panels from the top down; the heading of a panel may be empty.
        scale: The axis.
        language: Code of the language of the words, English if empty.
    """
    rows = [row for panel in panels for row in panel.rows]
    left = max(LEFT, *(12 + LETTER * len(row.label) for row in rows))
    ends = [end for row in rows for end in (row.value, row.low, row.high) if end is not None]
    axis = Axis([*ends, *scale.marks], log=False)
    heads = sum(bool(panel.heading) for panel in panels)
    bottom = 12 + ROW * len(rows) + HEAD * heads
    drawing = Drawing(bottom + (70 if scale.left or scale.right else 50), title, language)

    def at(value: float) -> float:
        return left + axis.at(value) * (RIGHT - left)

    for tick in axis.ticks:
        drawing.line([(at(tick), 10), (at(tick), bottom + 4)], stroke="panel")
    for number, mark in enumerate(scale.marks):
        dash = "4 3" if number else ""
        drawing.line([(at(mark), 10), (at(mark), bottom + 4)], stroke="muted", dash=dash)
    y = 12.0
    for panel in panels:
        if panel.heading:
            drawing.text(12, y + 20, panel.heading, face="bold")
            y += HEAD
        for row in panel.rows:
            _row(drawing, row, y + ROW / 2, at, scale)
            y += ROW
    _axis(drawing, axis, scale, bottom, left, at)
    return drawing.svg()


def _row(drawing: Drawing, row: Row, y: float, at: Place, scale: Scale) -> None:
    face = "bold" if row.pooled else ""
    drawing.text(12, y + 4, row.label, size=MIDDLE, face=face)
    shown = signed(row.value, scale.digits) if scale.plus else f"{row.value:.{scale.digits}f}"
    drawing.text(WIDTH - 8, y + 4, shown, size=MIDDLE, anchor="end", face=face)
    x, low, high = at(row.value), row.low, row.high
    if row.pooled and low is not None and high is not None:
        points = [(at(low), y), (x, y - 7), (at(high), y), (x, y + 7)]
        drawing.line(points, stroke="", fill=row.role, closed=True)
        return
    if low is not None and high is not None:
        drawing.line([(at(low), y), (at(high), y)], stroke=row.role, width=2)
        for end in (low, high):
            drawing.line([(at(end), y - 4), (at(end), y + 4)], stroke=row.role, width=2)
    drawing.circle(x, y, 4.5, fill=row.role)


def _axis(
    drawing: Drawing, axis: Axis, scale: Scale, bottom: float, left: float, at: Place
) -> None:
    drawing.line([(left, bottom + 4), (RIGHT, bottom + 4)])
    ticks = [tick for tick in axis.ticks if left - 1 <= at(tick) <= RIGHT + 1]
    for tick in ticks:
        words = f"{tick:.6g}".replace("-", "−")
        drawing.text(at(tick), bottom + 19, words, size=SMALL, role="muted", anchor="middle")
    middle = (LEFT + RIGHT) / 2  # also below a narrower axis, so that a title stays inside
    drawing.text(middle, bottom + 36, scale.title, size=MIDDLE, anchor="middle")
    if scale.left:
        drawing.text(LEFT - 46, bottom + 56, f"← {scale.left}", size=SMALL, role="muted")
    if scale.right:
        drawing.text(
            WIDTH - 8, bottom + 56, f"{scale.right} →", size=SMALL, role="muted", anchor="end"
        )
