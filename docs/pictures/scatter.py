"""Points in small panels, two in a row, all of them on the same axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from drawing import Axis

from pictures.svg import MIDDLE, SMALL, WIDTH, Drawing

LEFT, GAP, RIGHT = 34, 26, 10
HEIGHT, HEAD, FOOT = 92, 26, 20
"""Of a panel, of its heading, and of the numbers below it."""
COLUMNS = 2


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Points (across, up) under a heading."""

    heading: str
    points: Sequence[tuple[float, float]]


def scatter(title: str, panels: Sequence[Panel], *, across: str, up: str) -> str:
    """Return a scatter plot.

    Args:
        title: What the picture is.
        panels: Panels, two in a row.
        across: What the horizontal axis shows, once below all panels.
        up: What the vertical axis shows, once above all panels.
    """
    points = [point for panel in panels for point in panel.points]
    axes = tuple(Axis([point[side] for point in points], log=False) for side in (0, 1))
    rows = -(-len(panels) // COLUMNS)
    bottom = 24 + rows * (HEAD + HEIGHT + FOOT)
    drawing = Drawing(bottom + 28, title)
    drawing.text(8, 18, up, size=SMALL, role="muted")
    width = (WIDTH - LEFT - RIGHT - GAP) / COLUMNS
    for number, panel in enumerate(panels):
        row, column = divmod(number, COLUMNS)
        left = LEFT + column * (width + GAP)
        top = 24 + row * (HEAD + HEIGHT + FOOT)
        drawing.text(left, top + 18, panel.heading, size=SMALL, face="bold")
        _panel(drawing, panel, (left, top + HEAD, width), axes)
    drawing.text(WIDTH / 2, bottom + 16, across, size=MIDDLE, anchor="middle")
    return drawing.svg()


def _panel(
    drawing: Drawing, panel: Panel, place: tuple[float, float, float], axes: tuple[Axis, ...]
) -> None:
    """Draw one panel at its left, top and width."""
    left, top, width = place
    drawing.rect(left, top, width, HEIGHT, fill="panel", radius=3)
    for tick in axes[0].ticks:
        x = left + axes[0].at(tick) * width
        if left <= x <= left + width:
            drawing.line([(x, top), (x, top + HEIGHT)])
            drawing.text(x, top + HEIGHT + 14, _number(tick), size=SMALL, role="muted",
                         anchor="middle")  # fmt: skip
    for tick in axes[1].ticks:
        y = top + HEIGHT - axes[1].at(tick) * HEIGHT
        if top <= y <= top + HEIGHT:
            drawing.line([(left, y), (left + width, y)])
            drawing.text(left - 4, y + 4, _number(tick), size=SMALL, role="muted", anchor="end")
    for across, up in panel.points:
        x, y = left + axes[0].at(across) * width, top + HEIGHT - axes[1].at(up) * HEIGHT
        drawing.circle(x, y, 3.5, fill="accent", opacity=0.75)


def _number(value: float) -> str:
    return f"{value:.6g}".replace("-", "−")
