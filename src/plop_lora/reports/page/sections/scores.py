"""The section of the scores: a map of the layers, the ranked types, and how the order settled."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from plop_lora.indicators.settling import settling
from plop_lora.placement import default_choice
from plop_lora.records import Placement, ReferenceChoice, Scores, TypeScore
from plop_lora.reports.heatmap import cells_of
from plop_lora.reports.page import figures
from plop_lora.reports.page.blocks import DataTable, Figure, Section
from plop_lora.reports.text import Text, number

MOST_CURVES = 16
"""The most module types whose lines can be told apart in one drawing."""


def scores_section(scores: Scores, placement: Placement | None, words: Text) -> Section:
    """Return the scores by layer, by type, and over the texts."""
    chosen = _chosen(scores, placement)

    def label(name: str) -> str:
        return f"✓ {name}" if name in chosen else name

    drawn = [_map(scores, label, words), _ranking(scores, chosen, label, words),
             _settling(scores, label, words)]  # fmt: skip
    cover = scores.coverage
    lines = [
        words("scores.read"),
        words(
            "scores.sample",
            sequences=words.count(scores.sequences),
            tokens=words.count(scores.tokens),
            share=words.percent(cover.share),
        ),
        *(line for one in scores.references for line in _reference_lines(one, words)),
    ]
    stopped = () if scores.stopping is None else (scores.stopping.reason,)
    return Section(
        name="scores",
        title=words("scores.title"),
        lines=tuple(lines),
        figures=tuple(figure for figure in drawn if figure is not None),
        quotes=(*stopped, *scores.notes),
    )


def _reference_lines(reference: ReferenceChoice, words: Text) -> Iterator[str]:
    """Say whether the choice is the same without the user's texts, and what they explain."""
    near = reference.near_tie and reference.margin is not None
    key = "same" if reference.same_choice else "near" if near else "other"
    yield words(
        f"scores.reference.{key}",
        name=words.recorded("inputs", reference.name),
        types=words.listed(list(reference.chosen)),
        margin=number(reference.margin),
    )
    held = reference.agreement
    if held is not None:
        yield words(
            "scores.reference.share",
            share=words.percent(held.share),
            weights=words.count(held.weights),
            correlation=number(held.correlation),
            interval=words.interval(held.low, held.high) or "–",
        )


def _chosen(scores: Scores, placement: Placement | None) -> set[str]:
    """Return the types that get adapters; without a placement those of the default choice."""
    if placement is None:
        return default_choice(scores)
    hosts = {choice.type for choice in placement.choices}
    return {row.type for row in scores.types if row.host_type in hosts}


def _map(scores: Scores, label: Callable[[str], str], words: Text) -> Figure | None:
    cells = cells_of(scores)
    if not cells:
        return None
    names = [name for name in scores.type_names() if any(name in row for row in cells.values())]
    values = [[_rounded(row.get(name)) for name in names] for row in cells.values()]
    shown = [label(name) for name in names]
    titles = {
        "type": words("column.type"), "layer": words("column.layer"), "value": words("column.nfn"),
        "heat": words("scores.map.colour"),
    }  # fmt: skip
    matrix = {"types": shown, "layers": list(cells), "values": values}
    return Figure(
        name="map",
        title=words("scores.map.title"),
        alt=words("scores.map.alt", layers=len(cells), types=len(names), lowest=names[0]),
        spec=figures.heat_map(matrix, titles=titles),
        table=DataTable(
            caption=words("scores.map.title"),
            columns=(words("column.layer"), *shown),
            rows=tuple(
                (str(layer), *("" if value is None else f"{value:.3f}" for value in row))
                for layer, row in zip(cells, values, strict=True)
            ),
            numeric=(True,) * (1 + len(names)),
        ),
        canvas=len(cells) * len(names) > figures.MOST_ELEMENTS,
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _ranking(scores: Scores, chosen: set[str], label: Callable[[str], str], words: Text) -> Figure:
    groups = {
        "chosen": words("group.chosen"), "left": words("group.left"), "never": words("group.never"),
    }  # fmt: skip

    def group(row: TypeScore) -> str:
        return groups["chosen" if row.type in chosen else "left" if row.eligible else "never"]

    rows = [
        {"name": label(row.type), "value": row.nfn, "low": row.low, "high": row.high,
         "group": group(row)}
        for row in scores.types
    ]  # fmt: skip
    left = [row for row in scores.types if row.type not in chosen]
    names = [label(row.type) for row in scores.types]
    first = all(row.type in chosen for row in scores.types[: len(chosen)])
    return Figure(
        name="ranking",
        title=words("scores.ranking.title"),
        alt=words("scores.ranking.alt", order=words.listed([row.type for row in scores.types])),
        spec=figures.intervals(
            rows,
            names=names,
            groups=[name for name in groups.values() if any(row["group"] == name for row in rows)],
            titles=_titles(words),
            rules=(1.0,),
            boundary=label(left[0].type) if chosen and left and first else None,
        ),
        table=DataTable(
            caption=words("scores.ranking.title"),
            columns=(
                words("column.type"), words("column.nfn"), words("column.interval"),
                words("column.modules"), words("column.parameters"), words("column.choice"),
            ),
            rows=tuple(
                (row.type, number(row.nfn), words.interval(row.low, row.high), str(row.modules),
                 words.count(row.parameters), group(row))
                for row in scores.types
            ),
            numeric=(False, True, True, True, True, False),
        ),
        canvas=len(names) > figures.MOST_LINES,
    )  # fmt: skip


def _settling(scores: Scores, label: Callable[[str], str], words: Text) -> Figure | None:
    names = scores.type_names()
    values = settling(scores) if len(names) <= MOST_CURVES else []
    if not values:
        return None
    at = sorted({value.sequences for value in values})
    found = {(value.sequences, value.type): value.nfn for value in values}
    return Figure(
        name="settling",
        title=words("scores.settling.title"),
        alt=words("scores.settling.alt", first=at[0], last=at[-1]),
        spec=figures.curves(
            [
                {"at": value.sequences, "value": value.nfn, "group": label(value.type)}
                for value in values
            ],
            groups=[label(name) for name in names],
            titles=_titles(words) | {"at": words("column.texts"), "group": words("column.type")},
        ),
        table=DataTable(
            caption=words("scores.settling.title"),
            columns=(words("column.texts"), *(label(name) for name in names)),
            rows=tuple(
                (str(count), *(number(found.get((count, name))) for name in names)) for count in at
            ),
            numeric=(True,) * (1 + len(names)),
        ),
    )


def _titles(words: Text) -> dict[str, str]:
    return {
        "name": words("column.type"), "value": words("column.nfn"), "low": words("column.low"),
        "high": words("column.high"), "group": words("column.choice"),
    }  # fmt: skip
