"""The section of a robustness record: does the choice hold, under which variants, and of what."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from plop_lora.records import Outcome, Robustness, Scores, VariantResult
from plop_lora.records.robustness import STEADY
from plop_lora.reports.page import figures
from plop_lora.reports.page.blocks import DataTable, Figure, Section
from plop_lora.reports.page.reading import Held
from plop_lora.reports.robustness import exchanged, shown_name, whole_bounds
from plop_lora.reports.rows import short_name
from plop_lora.reports.text import Text, number

_GGUF = ".gguf"


def robustness_section(record: Robustness, words: Text) -> Section:
    """Return the advice, the variants by what they are for, and those that could not be run."""
    judged = [one for one in record.results if one.judged]
    aside = [one for one in record.results if not one.judged]
    main = _variants(judged, words("robustness.judged"), record, words)
    drawn = _taus(judged, main, words)
    tables = (main, _variants(aside, words("robustness.aside"), record, words))
    return Section(
        name="robustness",
        title=words("robustness.title"),
        lines=tuple(_lines(record, words)),
        figures=() if drawn is None else (drawn,),
        tables=tuple(table for table in (*tables, _left_out(record, words)) if table.rows),
        quotes=(
            *(
                words("robustness.note", variant=one.name, note=note)
                for one in record.results
                for note in one.notes
            ),
            *record.notes,
        ),
    )


def mismatches(found: Held, words: Text) -> list[str]:
    """Say why a robustness record does not belong to the other records of a page.

    `plop robustness` scores the texts itself, so that its digest is that of no saved scores: the
    model, the texts and the choice are compared instead.
    """
    record, model = found.robustness, found.model
    if record is None or model is None:
        return []
    if not _of_model(record, model.name, (model.architecture, model.parameters)):
        return [words("warning.robustness.model", other=record.model, name=model.name)]
    told = []
    if found.scores is not None and not _of_texts(record, found.scores):
        data = short_name(found.scores.provenance.data)
        told.append(words("warning.robustness.texts", other=short_name(record.data), data=data))
    placement = found.shown_placement
    types = [] if placement is None else [choice.type for choice in placement.choices]
    if placement is not None and set(types) != set(record.chosen):
        chosen = words.listed(list(record.chosen))
        told.append(words("warning.robustness.choice", other=chosen, types=words.listed(types)))
    return told


def _of_model(record: Robustness, name: str, built: tuple[str, int]) -> bool:
    """Return whether a record is of a model; the folders above the model's own do not matter."""
    return _own_name(record.model) == _own_name(name) and built == (
        record.architecture, record.parameters,
    )  # fmt: skip


def _own_name(name: str) -> str:
    """Return the last part of a model's name, without the GGUF file in its folder."""
    parts = [part for part in re.split(r"[/\\]", name) if part]
    if len(parts) > 1 and parts[-1].lower().endswith(_GGUF):
        parts.pop()
    return parts[-1] if parts else name


def _of_texts(record: Robustness, scores: Scores) -> bool:
    """Return whether the texts are the same, or all of one are texts of the other.

    Scores that stopped early are of a part of the texts. An older record does not name its texts,
    and is taken at the name of its data.
    """
    made = scores.provenance
    if record.data_fingerprint == made.data_fingerprint:
        return True
    own, others = set(record.sequence_ids), set(scores.measurements.sequence_ids)
    return own <= others or others <= own if own else record.data == made.data


def _lines(record: Robustness, words: Text) -> list[str]:
    outcomes = {one.outcome for one in record.results}
    steady = words.percent(STEADY)
    return [
        words(
            "robustness.verdict", verdict=words(f"holding.{record.verdict}"), advice=record.advice
        ),
        words(
            "robustness.sample", types=words.listed(list(record.chosen)),
            name=short_name(record.model),
            sequences=words.count(record.sequences), tokens=words.count(record.tokens),
            data=short_name(record.data), forwards=words.count(record.forwards),
            time=words.duration(record.elapsed_seconds),
        ),
        words("robustness.read", steady=steady),
        *(
            words(f"outcome.means.{one}", steady=steady, margin=f"{record.tolerance:g}")
            for one in Outcome
            if one in outcomes and one is not Outcome.SAME
        ),
    ]  # fmt: skip


def _variants(
    results: Sequence[VariantResult], caption: str, record: Robustness, words: Text
) -> DataTable:
    """Return a table of variants; the column of exchanged types is left out where none are."""
    exchanges = [_exchange(one, record, words) for one in results]
    columns = ["variant", "choice", "unchanged", "tau", *(["exchange"] if any(exchanges) else [])]
    return DataTable(
        caption=caption,
        columns=tuple(words(f"column.{name}") for name in columns),
        rows=tuple(
            (name, words(f"outcome.{one.outcome}"), _unchanged(one, words), _tau(one, words),
             exchange)[: len(columns)]
            for name, one, exchange in zip(_names(results), results, exchanges, strict=True)
        ),
        numeric=(False, False, True, True, False)[: len(columns)],
    )  # fmt: skip


def _names(results: Sequence[VariantResult]) -> list[str]:
    """Return a name for each variant; those that look the same once shortened are numbered."""
    names = [shown_name(one) for one in results]
    often, seen = Counter(names), Counter[str]()
    for place, name in enumerate(names):
        seen[name] += 1
        if often[name] > 1:
            names[place] = f"{name} ({seen[name]})"
    return names


def _unchanged(one: VariantResult, words: Text) -> str:
    low, high = whole_bounds(one)
    return words(
        "robustness.cell", value=words("percent", number=number(100 * one.unchanged, 1)),
        bounds=words("percent", number=words("interval", low=low, high=high)),
    )  # fmt: skip


def _tau(one: VariantResult, words: Text) -> str:
    bounds = words.interval(one.tau_low, one.tau_high, digits=2)
    if one.tau is None or not bounds:
        return words("robustness.undefined")
    return words("robustness.cell", value=number(one.tau, 2), bounds=bounds)


def _exchange(one: VariantResult, record: Robustness, words: Text) -> str:
    """Say which types a variant exchanges; nothing where the choice is the same or none is near."""
    if one.outcome is Outcome.SAME or not one.rival:
        return ""
    there, here = map(words.listed, exchanged(one, record))
    types = words("robustness.exchange", there=there, here=here)
    if one.margin is None:
        return types
    return words("robustness.apart", types=types, margin=number(one.margin))


def _taus(results: Sequence[VariantResult], table: DataTable, words: Text) -> Figure | None:
    """Return Kendall's tau of each variant, by what becomes of the choice."""
    drawn = [
        (name, one)
        for name, one in zip(_names(results), results, strict=True)
        if one.tau is not None
    ]
    if not drawn:
        return None
    outcomes = {one.outcome for _, one in drawn}
    return Figure(
        name="tau",
        title=words("robustness.tau.title"),
        alt=words("robustness.tau.alt", variants=len(drawn)),
        spec=figures.intervals(
            [
                {"name": name, "value": one.tau, "low": one.tau_low, "high": one.tau_high,
                 "group": words(f"outcome.{one.outcome}")}
                for name, one in drawn
            ],
            names=[name for name, _ in drawn],
            groups=[words(f"outcome.{one}") for one in Outcome if one in outcomes],
            titles={
                "name": words("column.variant"), "value": words("column.tau"),
                "low": words("column.low"), "high": words("column.high"),
                "group": words("column.choice"),
            },
            rules=(1.0,),
            zero=True,
            legend_columns=1,
        ),
        table=table,
    )  # fmt: skip


def _left_out(record: Robustness, words: Text) -> DataTable:
    return DataTable(
        caption=words("robustness.left"),
        columns=(words("column.variant"), words("column.reason")),
        rows=tuple((one.variant, one.reason) for one in record.left_out),
        numeric=(False, False),
    )
