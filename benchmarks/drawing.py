"""Small multiples of lines as one SVG, with the standard library alone.

    from drawing import Line, Panel, draw
    Path("out.svg").write_text(draw([Panel("time", "tokens", "seconds", [Line("ours", points)])]))

Lines of one label have one colour in all panels and one entry in the legend.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

SIZE = (300, 230)
"""Width and height of a panel, in pixels."""
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 30, 44
COLOURS = ("#3b6fb6", "#d1652c", "#2f8f5b", "#8a4fa3", "#c9a227", "#c2417a", "#222222", "#4fa7b5",
           "#8c6239", "#a3bf3f", "#9a9a9a", "#e8998d")  # fmt: skip
_LARGEST, _SMALLEST = 1e4, 1e-3


@dataclass(frozen=True)
class Line:
    """Points (x, y) in the order of x; a faint line is thin and has no dots."""

    label: str
    points: Sequence[tuple[float, float]]
    faint: bool = False
    dots: bool = True


@dataclass(frozen=True)
class Panel:
    """One pair of axes; a logarithmic one takes numbers above 0 only."""

    title: str
    across: str
    up: str
    lines: Sequence[Line]
    log_across: bool = False
    log_up: bool = False


class Axis:
    """From numbers to the unit interval, with ticks."""

    def __init__(self, values: Sequence[float], log: bool, exact: bool = False) -> None:
        if not values:
            raise ValueError("A panel without points cannot be drawn.")
        if log and min(values) <= 0:
            raise ValueError(f"A logarithmic axis cannot show {min(values)}.")
        self._log = log
        low, high = min(values), max(values)
        if log:
            room = (high / low) ** 0.06 if high > 2 * low else 2.0
            self.low, self.high = low / room, high * room
        else:
            room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
            self.low, self.high = low - room, high + room
        distinct = sorted(set(values))
        self.ticks = distinct if exact and len(distinct) <= 6 else self._round_numbers()

    def at(self, value: float) -> float:
        """Return the place of a value, 0 at the low end."""
        scale = math.log if self._log else float
        return (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))

    def _round_numbers(self) -> list[float]:
        if not self._log:
            step = 10 ** math.floor(math.log10((self.high - self.low) / 2))
            step *= next((f for f in (1, 2, 5) if (self.high - self.low) / (f * step) <= 6), 10)
            first = math.ceil(self.low / step)
            return [step * n for n in range(first, math.floor(self.high / step) + 1)]
        exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for factors in ((1,), (1, 3), (1, 2, 5)):
            ticks = [factor * 10.0**exponent for exponent in exponents for factor in factors]
            inside = [tick for tick in ticks if self.low <= tick <= self.high]
            if len(inside) >= 3:
                return inside
        return inside or [self.low, self.high]


def draw(
    panels: Sequence[Panel],
    *,
    columns: int = 4,
    size: tuple[int, int] = SIZE,
    note: str = "",
) -> str:
    """Return an SVG of the panels in rows, with a legend and a note below them.

    Raises:
        ValueError: a panel has no points, or numbers that its axis cannot show.
    """
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    labels = list(dict.fromkeys(line.label for panel in panels for line in panel.lines))
    colours = {label: COLOURS[order % len(COLOURS)] for order, label in enumerate(labels)}
    width = columns * size[0]
    legend, lines_below = _legend(colours, width, rows * size[1] + 20)
    height = rows * size[1] + 18 * lines_below + (26 if note else 8)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for order, panel in enumerate(panels):
        row, column = divmod(order, columns)
        parts.append(f'<g transform="translate({column * size[0]} {row * size[1]})">')
        parts += [*_panel(panel, colours, size), "</g>"]
    parts += legend
    if note:
        parts.append(_text(12, height - 8, note, fill="#555"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel, colours: dict[str, str], size: tuple[int, int]) -> list[str]:
    points = [point for line in panel.lines for point in line.points]
    across = Axis([x for x, _ in points], panel.log_across, exact=panel.log_across)
    up = Axis([y for _, y in points], panel.log_up)
    right, bottom = size[0] - RIGHT, size[1] - BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + across.at(x) * (right - LEFT), bottom - up.at(y) * (bottom - TOP)

    middle = (TOP + bottom) / 2
    parts = [
        _text((LEFT + right) / 2, 18, panel.title, anchor="middle", weight="bold"),
        _text((LEFT + right) / 2, size[1] - 10, panel.across, anchor="middle"),
        f'<g transform="translate(14 {middle}) rotate(-90)">'
        + _text(0, 0, panel.up, anchor="middle")
        + "</g>",
    ]
    for tick in up.ticks:
        y = place(across.low, tick)[1]
        parts.append(f'<path d="M{LEFT} {y:.1f}H{right}" stroke="#e4e4e4"/>')
        parts.append(_text(LEFT - 6, y + 4, _number(tick), anchor="end"))
    for tick in across.ticks:
        x = place(tick, up.low)[0]
        parts.append(f'<path d="M{x:.1f} {bottom}v4" stroke="#888"/>')
        parts.append(_text(x, bottom + 16, _number(tick), anchor="middle"))
    parts.append(f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="#888"/>')
    for line in sorted(panel.lines, key=lambda line: not line.faint):
        parts += _line(line, [place(*point) for point in line.points], colours[line.label])
    return parts


def _line(line: Line, places: list[tuple[float, float]], colour: str) -> list[str]:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    style = 'stroke-width="0.8" opacity="0.35"' if line.faint else 'stroke-width="2"'
    parts = [f'<polyline points="{path}" fill="none" stroke="{colour}" {style}/>']
    if line.dots and not line.faint:
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
    return parts


def _legend(colours: dict[str, str], width: int, top: int) -> tuple[list[str], int]:
    """Return the legend's elements and how many lines it takes."""
    parts, x, row = [], 12.0, 0
    for label, colour in colours.items():
        needed = 36 + 6.4 * len(label)
        if x > 12 and x + needed > width:
            x, row = 12.0, row + 1
        y = top + 18 * row
        parts.append(f'<path d="M{x} {y - 4}h18" stroke="{colour}" stroke-width="3"/>')
        parts.append(_text(x + 24, y, label))
        x += needed
    return parts, row + 1


def _text(x: float, y: float, text: str, *, anchor: str = "start", **style: str) -> str:
    names = {"weight": "font-weight", "fill": "fill"}
    more = "".join(f' {names[name]}="{value}"' for name, value in style.items())
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(text)}</text>'


def _number(value: float) -> str:
    if value and not _SMALLEST <= abs(value) < _LARGEST:
        return f"{value:.3g}"
    return f"{value:.6g}"
