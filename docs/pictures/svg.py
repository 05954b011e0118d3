"""SVG files that can be read on a light and on a dark page, and on a phone.

A drawing is 360 units wide, which is the width of a phone's screen, so that its letters are not
made smaller there. Colours are named by their role and stand in the style of the file, once for
each colour scheme; the background belongs to the drawing, so that it stays readable on a page of
the other scheme. Only the standard library is imported.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence

WIDTH = 360
SIZE, MIDDLE, SMALL = 13, 12, 11
"""Sizes of letters; there is no other."""
LIGHT = {
    "surface": "#ffffff", "panel": "#f3f5f8", "text": "#1f2328", "muted": "#57606a",
    "line": "#c3cad2", "accent": "#1f5fbf", "second": "#a8470f", "heat": "#4285f4",
    "loss": "#d9822b",
}  # fmt: skip
DARK = {
    "surface": "#1e2029", "panel": "#282b36", "text": "#f0f3f6", "muted": "#aab3be",
    "line": "#4a505c", "accent": "#84b6ff", "second": "#f2a873", "heat": "#4285f4",
    "loss": "#c8691a",
}  # fmt: skip
"""Colours by role. `heat` and `loss` are laid with an opacity below text."""
SANS = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
MONO = "ui-monospace, SFMono-Regular, Menlo, 'DejaVu Sans Mono', monospace"


class Drawing:
    """A picture to which elements are added from the back to the front."""

    def __init__(self, height: float, title: str, language: str = "") -> None:
        """Begin a drawing.

        Args:
            height: Height in units.
            title: What the picture is, in a few words.
            language: Code of the language of its words, English if empty. Chinese and Japanese
                share letters whose shapes differ, and a browser chooses them by the language.
        """
        self._root = ET.Element(
            "svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {written(height)}",
            width=str(WIDTH), height=written(height), role="img",
        )  # fmt: skip
        if language:
            self._root.set("lang", language)
        ET.SubElement(self._root, "title").text = title
        ET.SubElement(self._root, "style").text = _style()
        self.rect(0, 0, WIDTH, height, fill="surface", radius=6)

    def svg(self) -> str:
        """Return the text of the file."""
        ET.indent(self._root, space="")
        return ET.tostring(self._root, encoding="unicode") + "\n"

    def text(
        self, x: float, y: float, words: str, *, role: str = "text", anchor: str = "start",
        size: int = SIZE, face: str = "", turn: float = 0,
    ) -> None:  # fmt: skip
        """Add a line of text, whose base line stands at `y`.

        Args:
            x: Place across of its start, middle or end, as `anchor` says.
            y: Place down of its base line.
            words: The text.
            role: Colour.
            anchor: `start`, `middle` or `end`.
            size: Size of the letters, one of `SIZE`, `MIDDLE` and `SMALL`.
            face: `bold`, or `code` for bold letters of one width.
            turn: Degrees by which the text is turned about its place, clockwise.
        """
        names = [f"f-{role}", *([face] if face else []), *([f"z{size}"] if size != SIZE else [])]
        given = {"class": " ".join(names), "x": written(x), "y": written(y)}
        if anchor != "start":
            given["text-anchor"] = anchor
        if turn:
            given["transform"] = f"rotate({written(turn)} {written(x)} {written(y)})"
        ET.SubElement(self._root, "text", given).text = words

    def rect(
        self, x: float, y: float, width: float, height: float, *, fill: str = "",
        stroke: str = "", radius: float = 0, opacity: float = 1,
    ) -> None:  # fmt: skip
        """Add a rectangle; without a role for `fill` or `stroke` it has none."""
        given = {"x": x, "y": y, "width": width, "height": height} | (
            {"rx": radius} if radius else {}
        )
        self._shape("rect", given, fill, stroke, opacity=opacity)

    def circle(self, x: float, y: float, radius: float, *, fill: str, opacity: float = 1) -> None:
        """Add a disc."""
        self._shape("circle", {"cx": x, "cy": y, "r": radius}, fill, "", opacity=opacity)

    def line(
        self, points: Sequence[tuple[float, float]], *, stroke: str = "line", width: float = 1,
        dash: str = "", arrow: bool = False, fill: str = "", closed: bool = False,
    ) -> None:  # fmt: skip
        """Add straight lines from point to point.

        Args:
            points: Points, at least two.
            stroke: Colour of the line, none if empty.
            width: Width of the line.
            dash: Lengths of the dashes and of the spaces between them.
            arrow: Whether the last point has the head of an arrow.
            fill: Colour of the inside, none if empty.
            closed: Whether the last point is joined to the first.
        """
        path = "M" + "L".join(f"{written(x)} {written(y)}" for x, y in points)
        more = {"stroke-width": written(width)} if stroke and width != 1 else {}
        more |= {"stroke-dasharray": dash} if dash else {}
        given = {"d": path + ("Z" if closed else "")} | more
        self._shape("path", given, fill, stroke)
        if arrow:
            self._head(points[-2], points[-1], stroke)

    def _head(self, before: tuple[float, float], tip: tuple[float, float], role: str) -> None:
        angle = math.atan2(tip[1] - before[1], tip[0] - before[0])
        sides = [
            (tip[0] - 7 * math.cos(angle + side), tip[1] - 7 * math.sin(angle + side))
            for side in (0.45, -0.45)
        ]
        self.line([tip, *sides], stroke="", fill=role, closed=True)

    def _shape(
        self, name: str, given: Mapping[str, float | str], fill: str, stroke: str,
        opacity: float = 1,
    ) -> None:  # fmt: skip
        roles = [f"f-{fill}" if fill else "n", *([f"s-{stroke}"] if stroke else [])]
        values = {key: v if isinstance(v, str) else written(v) for key, v in given.items()}
        if opacity != 1:
            values["fill-opacity"] = written(opacity)
        ET.SubElement(self._root, name, {"class": " ".join(roles)} | values)


def written(number: float) -> str:
    """Return a coordinate with at most two decimals.

    >>> written(3.14159), written(2.0)
    ('3.14', '2')
    """
    # Adding 0 turns a negative zero into zero.
    return f"{round(number, 2) + 0.0:.2f}".rstrip("0").rstrip(".")


def signed(value: float, digits: int = 2) -> str:
    """Return a number with its sign, as typesetters write it.

    >>> signed(-0.541), signed(0.07)
    ('−0.54', '+0.07')
    """
    return f"{value:+.{digits}f}".replace("-", "−")


def _style() -> str:
    def roles(colours: dict[str, str]) -> str:
        return "".join(
            f".f-{role}{{fill:{colour}}}.s-{role}{{stroke:{colour}}}"
            for role, colour in colours.items()
        )

    return (
        f"text{{font-family:{SANS};font-size:{SIZE}px}}"
        f".code{{font-family:{MONO}}}.bold,.code{{font-weight:600}}.n{{fill:none}}"
        f".z{MIDDLE}{{font-size:{MIDDLE}px}}.z{SMALL}{{font-size:{SMALL}px}}{roles(LIGHT)}"
        f"@media (prefers-color-scheme:dark){{{roles(DARK)}}}"
    )
