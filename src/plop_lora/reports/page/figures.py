"""The drawings of the page as Vega-Lite specifications. Pure; nothing is computed.

The fields of the data have fixed names, since a name with a dot or a bracket means a path to
Vega-Lite, and no text of a record becomes part of an expression. Colours are variables of the
page's style, so that one specification serves light, dark and print.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SERIES = tuple(f"var(--series-{number})" for number in range(1, 9))
SHAPES = (
    "circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right",
    "triangle-left",
)  # fmt: skip
HEAT = tuple(f"var(--heat-{number})" for number in range(1, 8))
MOST_ELEMENTS = 1500
"""The most cells that are drawn with an element each; more are drawn on a canvas."""
MOST_LINES = 200
"""The most lines with an interval that are drawn with elements."""
WIDEST = 24
"""The most module types that share the width of the page; the columns of more have a fixed one."""
TICKS: dict[str, Any] = {"tickCount": 8}
PANEL = 200
"""Width of one of several small drawings, in pixels."""
ROW, CELL = 26, 15
"""Height of a row of a drawing, and the sides of a small cell, in pixels."""

Rows = Sequence[Mapping[str, object]]
Spec = dict[str, Any]


def heat_map(matrix: Mapping[str, Any], *, titles: Mapping[str, str]) -> Spec:
    """Return a map of cells, layers down and types across.

    Args:
        matrix: `types`, `layers`, and `values` by layer and type, None where there is no cell. The
            page turns them into rows with the fields `type`, `layer` and `value`.
        titles: Titles of the three fields, and as `heat` that of the colours.
    """
    wide = len(matrix["types"]) > WIDEST
    x = _names("type", titles["type"], matrix["types"])
    x["axis"] = {"orient": "top", "labelAngle": -40, "labelLimit": 160}
    return {
        "data": {"matrix": matrix},
        "width": CELL * len(matrix["types"]) if wide else "container",
        "height": CELL * len(matrix["layers"]),
        "mark": {"type": "rect", "stroke": "var(--surface)", "strokeWidth": 1},
        "encoding": {
            "x": x,
            "y": {"field": "layer", "type": "ordinal", "title": titles["layer"]},
            "color": {
                "field": "value",
                "type": "quantitative",
                "title": titles["heat"],
                "scale": {"type": "quantile", "range": list(HEAT)},
                "legend": {"orient": "bottom", "direction": "horizontal", "format": ".3f"},
            },
            "tooltip": [
                _tip("type", titles), _tip("layer", titles), _tip("value", titles, ".4f"),
            ],
        },
    }  # fmt: skip


def intervals(
    rows: Rows,
    *,
    names: Sequence[str],
    groups: Sequence[str],
    titles: Mapping[str, str],
    rules: Sequence[float] = (),
    boundary: str | None = None,
    zero: bool = False,
    legend_columns: int = 3,
) -> Spec:
    """Return values with their intervals, a line for each name.

    Args:
        rows: Rows with `name`, `value`, `low`, `high` and `group`.
        names: Names from the top down.
        groups: Groups, which differ by colour and by shape.
        titles: Titles of the fields.
        rules: Values of `value` at which a line is drawn.
        boundary: Name above which a line is drawn across.
        zero: Whether the axis holds 0.
        legend_columns: Columns of the legend, which starts below the axis: long names leave it
            little room on a telephone.
    """
    y = _names("name", "", names) | {"scale": {"type": "band", "domain": list(names)}}
    x: Spec = {
        "type": "quantitative",
        "title": titles["value"],
        "scale": {"zero": zero},
        "axis": TICKS,
    }
    tips = [_tip("name", titles), _tip("value", titles, ".4f"), _tip("low", titles, ".4f"),
            _tip("high", titles, ".4f"), _tip("group", titles)]  # fmt: skip
    layers: list[Spec] = [_rule(rule, dashed=bool(rule)) for rule in rules]
    if boundary is not None:
        layers.append(
            {
                "data": {"values": [{"name": boundary}]},
                "mark": {"type": "rule", "color": "var(--accent)", "strokeDash": [5, 3]},
                "encoding": {"y": y | {"bandPosition": 0}},
            }
        )
    color = _by_group(groups, titles, legend_columns)
    layers += [
        {
            "transform": [{"filter": "isValid(datum.low) && isValid(datum.high)"}],
            "mark": {"type": "rule", "strokeWidth": 2},
            "encoding": {
                "y": y, "x": x | {"field": "low"}, "x2": {"field": "high"}, "color": color["color"],
                "tooltip": tips,
            },
        },
        {
            "mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
            "encoding": {"y": y, "x": x | {"field": "value"}, "tooltip": tips} | color,
        },
    ]  # fmt: skip
    return {
        "data": {"values": list(rows)},
        "width": "container",
        "height": ROW * len(names),
        "layer": layers,
    }


def points(
    rows: Rows, *, names: Sequence[str], groups: Sequence[str], titles: Mapping[str, str]
) -> Spec:
    """Return several values for each name, such as those of the seeds of an arm."""
    return {
        "data": {"values": list(rows)},
        "width": "container",
        "height": ROW * len(names),
        "mark": {"type": "point", "filled": True, "size": 60, "opacity": 0.8},
        "encoding": {
            "y": _names("name", "", names) | {"scale": {"type": "band", "domain": list(names)}},
            "x": {
                "field": "value",
                "type": "quantitative",
                "title": titles["value"],
                "scale": {"zero": False},
                "axis": TICKS,
            },
            "tooltip": [_tip("name", titles), _tip("value", titles, ".4f"), _tip("seed", titles)],
        }
        | _by_group(groups, titles),
    }


def curves(rows: Rows, *, groups: Sequence[str], titles: Mapping[str, str]) -> Spec:
    """Return a line for each group, over `at`, which has a logarithmic axis."""
    mark = {"type": "line", "strokeWidth": 2, "point": {"size": 45, "filled": True}}
    axis = {"scale": {"type": "log", "nice": False}}
    return _over(rows, mark, axis, groups, titles)


def course(rows: Rows, *, groups: Sequence[str], titles: Mapping[str, str]) -> Spec:
    """Return a point for each row, over its whole number `at`."""
    mark = {"type": "point", "filled": True, "size": 60}
    axis = {"scale": {"zero": False}, "axis": TICKS | {"format": "d", "tickMinStep": 1}}
    return _over(rows, mark, axis, groups, titles)


def band(rows: Rows, *, groups: Sequence[str], titles: Mapping[str, str]) -> Spec:
    """Return a line with its interval for each group, over the whole number `at`; 0 is marked."""
    colors = [SERIES[index % len(SERIES)] for index in range(len(groups))]
    color = {
        "field": "group",
        "type": "nominal",
        "title": titles["group"],
        "legend": {"orient": "bottom", "columns": 3, "labelLimit": 220, "title": None},
        "scale": {"domain": list(groups), "range": colors},
    }
    shared = {
        "x": {"field": "at", "type": "quantitative", "title": titles["at"], "axis": TICKS},
        "color": color,
        "tooltip": [
            _tip("group", titles),
            _tip("at", titles, "d"),
            *(_tip(name, titles, ".4f") for name in ("value", "low", "high")),
        ],
    }
    low = {"field": "low", "type": "quantitative", "title": titles["value"]}
    area = {"type": "area", "opacity": 0.25}
    line = {"type": "line", "strokeWidth": 2, "point": {"size": 30, "filled": True}}
    zero = {"type": "rule", "color": "var(--muted)", "strokeDash": [4, 4]}
    return {
        "data": {"values": list(rows)},
        "width": "container",
        "height": 260,
        "layer": [
            {"mark": area, "encoding": shared | {"y": low, "y2": {"field": "high"}}},
            {"mark": line, "encoding": shared | {"y": low | {"field": "value"}}},
            {
                "data": {"values": [{"zero": 0}]},
                "mark": zero,
                "encoding": {"y": {"field": "zero", "type": "quantitative"}},
            },
        ],
    }


def panels(lines: Mapping[str, Any], *, titles: Mapping[str, str]) -> Spec:
    """Return a small drawing for each panel, with the same axes, and in each a few lines.

    The page sets as many panels side by side as it has room for.

    Args:
        lines: `panels`, the names of the panels, and `lines`, each with the index of its `panel`,
            its `name` and its `points` of at and value. The page turns them into rows.
        titles: Titles of `at`, `value`, `panel` and `name`.
    """
    x = {"field": "at", "type": "quantitative", "title": titles["at"]}
    y = {"field": "value", "type": "quantitative", "title": titles["value"]}
    return {
        "data": {"lines": lines},
        "facet": {
            "field": "panel",
            "type": "nominal",
            "title": None,
            # By a number: names would become a part of an expression.
            "sort": {"field": "order", "op": "min"},
            "header": {"labelLimit": PANEL, "labelFontSize": 12, "labelColor": "var(--text)"},
        },
        "spec": {
            "width": PANEL,
            "height": 130,
            "mark": {
                "type": "line",
                "color": SERIES[0],
                "strokeWidth": 1.5,
                "opacity": 0.75,
                "point": {"size": 12, "filled": True, "color": SERIES[0]},
            },
            "encoding": {
                "x": x | {"axis": {"tickCount": 3, "format": "~d"}},
                "y": y | {"scale": {"zero": False}, "axis": {"tickCount": 5}},
                "detail": {"field": "name", "type": "nominal"},
                "tooltip": [
                    _tip("panel", titles), _tip("name", titles), _tip("at", titles, "d"),
                    _tip("value", titles, ".4f"),
                ],
            },
        },
    }  # fmt: skip


def training(
    rows: Rows, *, groups: Sequence[str], titles: Mapping[str, str], best: int | None
) -> Spec:
    """Return a line for each group over the whole number `at`, with a rule at the best step."""
    mark = {"type": "line", "strokeWidth": 2, "point": {"size": 30, "filled": True}}
    axis = {"axis": TICKS | {"format": "~d", "tickMinStep": 1}}
    spec = _over(rows, mark, axis, groups, titles)
    if best is None:
        return spec
    layers = [_rule(best, dashed=True), {name: spec.pop(name) for name in ("mark", "encoding")}]
    return spec | {"layer": layers}


def _over(
    rows: Rows, mark: Spec, axis: Spec, groups: Sequence[str], titles: Mapping[str, str]
) -> Spec:
    """Return marks at `at` and `value`, by group."""
    value = {"field": "value", "type": "quantitative", "title": titles["value"]}
    tips = [_tip("group", titles), _tip("at", titles, "~g"), _tip("value", titles, ".4f")]
    return {
        "data": {"values": list(rows)},
        "width": "container",
        "height": 260,
        "mark": mark,
        "encoding": {
            "x": {"field": "at", "type": "quantitative", "title": titles["at"]} | axis,
            "y": value | {"scale": {"zero": False}},
            "tooltip": tips,
        }
        | _by_group(groups, titles),
    }


def _names(field: str, title: str, names: Sequence[str]) -> Spec:
    return {
        "field": field,
        "type": "nominal",
        "title": title or None,
        "scale": {"domain": list(names)},
        "sort": None,
        "axis": {"labelLimit": 220},
    }


def _by_group(groups: Sequence[str], titles: Mapping[str, str], columns: int = 3) -> Spec:
    """Return the encoding of a group by colour and shape, which only together tell all apart."""
    legend = {"orient": "bottom", "columns": columns, "labelLimit": 220, "title": None}
    common = {"field": "group", "type": "nominal", "legend": legend, "title": titles["group"]}

    def scale(values: Sequence[str]) -> Spec:
        taken = [values[index % len(values)] for index in range(len(groups))]
        return {"scale": {"domain": list(groups), "range": taken}}

    return {"color": common | scale(SERIES), "shape": common | scale(SHAPES)}


def _rule(at: float, *, dashed: bool) -> Spec:
    return {
        "data": {"values": [{"at": at}]},
        "mark": {"type": "rule", "color": "var(--muted)"}
        | ({"strokeDash": [4, 4]} if dashed else {}),
        "encoding": {"x": {"field": "at", "type": "quantitative"}},
    }


def _tip(field: str, titles: Mapping[str, str], form: str | None = None) -> Spec:
    kind = "nominal" if form is None else "quantitative"
    shown = {} if form is None else {"format": form}
    return {"field": field, "type": kind, "title": titles[field]} | shown
