"""The scores of a model as a map in a notebook: layers down, module types across.

A cell's colour is the stronger, the more cells have a higher score: a few very high ones, which
first layers often have, leave the others their differences. It is laid with an opacity over
whatever the notebook's background is, and the text keeps the notebook's own colour, so that the
map can be read on a light and on a dark page. Rendering only.
"""

from __future__ import annotations

import html
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence

from plop_lora.records import Scores

SHADE = (66, 133, 244)
STRONGEST = 0.6
"""Opacity of the lowest score: black on white and light grey on black both stay readable."""


def shade(value: float, rising: Sequence[float]) -> float:
    """Return the opacity of a score: `STRONGEST` for the lowest of several, 0 for the highest.

    >>> [shade(value, (1.0, 1.5, 9.0)) for value in (1.0, 1.5, 9.0)]
    [0.6, 0.3, 0.0]
    """
    higher = len(rising) - bisect_right(rising, value)
    return round(STRONGEST * higher / max(1, len(rising) - 1), 3)


def cells_of(scores: Scores) -> dict[int, dict[str, float]]:
    """Return layer → type → NFN; several sites of one type in a layer show their mean."""
    values: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for site in scores.sites:
        if site.layer is not None:
            values[site.layer][site.type].append(site.nfn)
    return {
        layer: {name: sum(found) / len(found) for name, found in row.items()}
        for layer, row in sorted(values.items())
    }


def heat_map(scores: Scores) -> str:
    """Return the map as an HTML fragment, empty where no site stands in a layer."""
    cells = cells_of(scores)
    if not cells:
        return ""
    rising = sorted(value for row in cells.values() for value in row.values())
    names = [name for name in scores.type_names() if any(name in row for row in cells.values())]
    head = "".join(f'<th style="text-align:right">{html.escape(name)}</th>' for name in names)
    body = "".join(
        f'<tr><th style="text-align:right">{layer}</th>'
        + "".join(_cell(layer, name, row.get(name), rising) for name in names)
        + "</tr>"
        for layer, row in cells.items()
    )
    return (
        "<details open><summary>NFN by layer: the stronger the colour, the lower the score"
        "</summary>"
        f'<table><thead><tr><th style="text-align:right">layer</th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></details>"
    )


def _cell(layer: int, name: str, value: float | None, rising: Sequence[float]) -> str:
    if value is None:
        return "<td></td>"
    red, green, blue = SHADE
    opacity = shade(value, rising)
    title = html.escape(f"{name}, layer {layer}: NFN {value:.4f}")
    return (
        f'<td title="{title}" style="text-align:right;color:inherit;'
        f'background-color:rgba({red},{green},{blue},{opacity:g})">{value:.2f}</td>'
    )
