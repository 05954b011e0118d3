"""The section of a placement: what was chosen, how certainly, and every other budget."""

from __future__ import annotations

import itertools
import shlex

from plop_lora.errors import ExportError
from plop_lora.exports import TARGETS, Target, caveats_of
from plop_lora.placement import STRATEGIES
from plop_lora.records import Choice, Gap, Placement
from plop_lora.records.placement import GapVerdict
from plop_lora.reports.page.blocks import DataTable, Download, Explorer, Section
from plop_lora.reports.text import Text, number

MOST_DOWNLOADED = 60_000
"""The most characters of a file that the page holds as a download."""
MOST_RENDERED = 2_000
"""The most adapters of a placement that is rendered for the trainers."""


def placement_section(placement: Placement, words: Text) -> Section:
    """Return the choices with their gaps, the explorer of budgets, and the downloads."""
    columns = ("type", "modules", "score", "interval", "rank", "parameters", "gap", "verdict")
    table = DataTable(
        caption=words("placement.table"),
        columns=tuple(words(f"column.{name}") for name in columns),
        rows=tuple(_row(choice, words) for choice in placement.choices),
        numeric=(False, True, True, True, True, True, False, False),
    )
    forced = [name for choice in placement.choices for name in choice.forced]
    lines = [
        words(
            "placement.sum",
            adapters=words.count(len(placement.sites)),
            parameters=words.count(placement.trainable_parameters),
            share=share_of_model(placement, words),
            scaling=f"{placement.scaling:g}",
        ),
        words(f"placement.{_KEYS[placement.verdict]}"),
    ]
    if forced:
        lines.append(words("placement.forced", types=words.listed(forced)))
    return Section(
        name="placement",
        title=words("placement.title"),
        lines=tuple(lines),
        explorer=explorer_of(placement),
        tables=(table, *_costs(placement, words)),
        quotes=placement.notes,
        downloads=tuple(_downloads(placement, words)),
    )


def _costs(placement: Placement, words: Text) -> tuple[DataTable, ...]:
    """Return the table of what the placement costs in trainers and servers, if it does."""
    rows = tuple(
        (
            words(f"caveat.{found.name}", **found.values),
            words("caveat.source", source=found.source, day=found.seen),
        )
        for found in caveats_of(placement)
    )
    columns = (words("column.cost"), words("column.source"))
    table = DataTable(
        caption=words("placement.costs"), columns=columns, rows=rows, numeric=(False, False)
    )
    return (table,) if rows else ()


def share_of_model(placement: Placement, words: Text) -> str:
    """Return the share of the model's parameters that is trained; a dash where none are known."""
    whole = placement.model.parameters
    return words.percent(placement.trainable_parameters / whole) if whole else "—"


_KEYS = {
    GapVerdict.DECIDED: "decided",
    GapVerdict.UNDECIDED: "undecided",
    GapVerdict.TIE: "tie",
    GapVerdict.UNSCORED: "unscored",
}


def _row(choice: Choice, words: Text) -> tuple[str, ...]:
    low, high = choice.lowest_rank, choice.highest_rank
    gap = choice.left_out
    return (
        choice.type,
        words.count(choice.modules),
        number(choice.score),
        words.interval(choice.low, choice.high),
        str(low) if low == high else f"{low}–{high}",
        words.count(choice.parameters),
        "" if gap is None else _gap(gap, words),
        "" if gap is None else words.word(gap.verdict),
    )


def _gap(gap: Gap, words: Text) -> str:
    bounds = words.interval(gap.low, gap.high, signed=True)
    return f"{gap.other} {gap.difference:+.3f}" + (f" ({bounds})" if bounds else "")


def explorer_of(placement: Placement) -> Explorer | None:
    """Return what the explorer needs; None where the record lacks the size of a weight."""
    sizes = {host.name: host for host in placement.hosts}
    order = [choice.type for choice in placement.choices]
    if not placement.sites or any(site.name not in sizes for site in placement.sites):
        return None
    if any(site.type not in order for site in placement.sites):
        return None
    weights = []
    for name in order:
        hosts = [sizes[site.name] for site in placement.sites if site.type == name]
        costs = ((host.parameters_per_rank, host.largest_rank) for host in hosts)
        weights.append(tuple((*cost, len(list(alike))) for cost, alike in itertools.groupby(costs)))
    every = [run for runs in weights for run in runs]
    return Explorer(
        types=tuple(order),
        weights=tuple(weights),
        smallest=sum(price * count for price, _, count in every),
        largest=sum(price * rank * count for price, rank, count in every),
        start=placement.budget or placement.trainable_parameters,
        command=place_command(placement, budget=False),
    )


def place_command(placement: Placement, *, budget: bool = True) -> str:
    """Return the command that makes the placement from its scores, quoted for the shell.

    Args:
        placement: The record.
        budget: Whether the ranks are given; without them `--budget N` can follow.
    """
    row = STRATEGIES.get(placement.strategy)
    words = ["plop", "place", "scores.json", "--strategy", placement.strategy]
    if row is not None and row.uses_top:
        words += ["--top", str(len(placement.choices))]
    if row is not None and row.by_name:
        words += ["--types", ",".join(choice.type for choice in placement.choices)]
    if placement.indicator not in ("nfn", None if row is None else row.indicator):
        words += ["--indicator", placement.indicator]
    if placement.seed:
        words += ["--seed", str(placement.seed)]
    words += _layers(placement) + _settings(placement)
    if budget:
        words += _ranks(placement)
    return shlex.join([*words, "-o", "placement.json"]) if budget else shlex.join(words)


def _layers(placement: Placement) -> list[str]:
    """Return the option of the layers where some weights of a chosen type have no adapter."""
    types = {choice.type for choice in placement.choices}
    placed = {site.name for site in placement.sites}
    bare = any(host.type in types and host.name not in placed for host in placement.hosts)
    layers = sorted({site.layer for site in placement.sites if site.layer is not None})
    return ["--layers", ",".join(map(str, layers))] if bare and layers else []


def _settings(placement: Placement) -> list[str]:
    held = placement.settings
    words = [] if placement.scaling == 2 else ["--set", f"place.scaling={placement.scaling:g}"]
    words += ["--set", "place.rslora=true"] if held.rslora else []
    if held.loraplus_ratio is not None:
        words += ["--set", f"place.loraplus_ratio={held.loraplus_ratio:g}"]
    words += [] if held.init == "default" else ["--set", f"place.init={held.init}"]
    return words + (["--set", f"place.dropout={held.dropout:g}"] if held.dropout else [])


def _ranks(placement: Placement) -> list[str]:
    """Return the option of the ranks: the budget, or the one rank that is only cut by sizes."""
    if placement.budget is not None:
        return ["--budget", str(placement.budget)]
    return ["--rank", str(max(site.rank for site in placement.sites))] if placement.sites else []


def _downloads(placement: Placement, words: Text) -> list[Download]:
    """Return the record, and the configuration for every trainer that can say all of it.

    Files that would make the page large are left out; `plop export` writes them.
    """
    if not 0 < len(placement.sites) <= MOST_RENDERED:
        return []
    record = placement.to_json() + "\n"
    found = [Download(name="placement.json", content=record, what=words("download.placement"))]
    found += [
        Download(name=target.file_name, content=file, what=words("download.trainer", name=name))
        for name, target in TARGETS.items()
        if (file := _whole_file(placement, target)) is not None
    ]
    return [one for one in found if len(one.content) <= MOST_DOWNLOADED]


def _whole_file(placement: Placement, target: Target) -> str | None:
    """Return a trainer's file, or None where it could not say all of the placement."""
    try:
        rendered = target.render(placement)
    except ExportError:
        return None
    return None if rendered.losses else rendered.text
