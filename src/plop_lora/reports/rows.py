"""Rows of the tables: pure functions from a record to strings, which only format numbers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from plop_lora.escapes import escaped
from plop_lora.indicators import NFN as NFN_ROW
from plop_lora.placement import default_choice
from plop_lora.records import (
    TIE,
    UNDECIDED,
    Choice,
    Comparison,
    Gap,
    GapVerdict,
    GgufFile,
    Placement,
    Scores,
    Stopping,
    TrialResult,
    TrialSpec,
)
from plop_lora.reports.reference import reference_line
from plop_lora.reports.values import (
    by_indicator,
    difference,
    title_of,
    value_and_interval,
    value_in,
)

_BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Column:
    """A column; `right` aligns it right, `starts` allows a narrow table to be split before it."""

    name: str
    right: bool = False
    starts: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table: its title, columns, rows of cells, the lines below it, and further tables."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[str, ...]
    more: tuple[Table, ...] = ()


def shown(table: Table) -> Table:
    """Return the table as it may be printed: names that others chose cannot move the cursor.

    Every drawing, live or not, goes through here.
    """
    return Table(
        title=escaped(table.title),
        columns=tuple(replace(column, name=escaped(column.name)) for column in table.columns),
        rows=tuple(tuple(map(escaped, row)) for row in table.rows),
        lines=tuple(map(escaped, table.lines)),
        more=tuple(map(shown, table.more)),
    )


TYPE = Column("type")
MODULES = Column("modules", right=True)
NFN = Column("NFN")
INTERVAL = Column("95 % interval")
DIFFERENCE = Column("difference")
VERDICT = Column("verdict")
LISTED_PAIRS = 3
LISTED_GROUPS = 12
LONGEST_GROUP = 32
"""The largest number of characters that are shown of the name of a group."""
TIE_MEANS = "Tie: the order is open, but the other type is not better by more than the tolerance."
UNDECIDED_MEANS = "Undecided: the interval contains 0, so these texts do not separate the two."


def scores_table(scores: Scores) -> Table:
    """Types from the lowest NFN, with interval, the default choice marked, layers as bars."""
    chosen = default_choice(scores)
    every = [site.nfn for site in scores.sites]
    bounds = (min(every), max(every))
    further = [{row.type: row for row in held.types} for held in scores.indicators]
    rows = tuple(
        (
            row.type,
            str(row.modules),
            count(row.parameters),
            *value_and_interval(row.nfn, row.low, row.high),
            *(value_in(held, row.type) for held in further),
            "✓" if row.type in chosen else "" if row.eligible else "never",
            sparkline([site.nfn for site in scores.sites if site.type == row.type], bounds),
        )
        for row in scores.types
    )
    cover = scores.coverage
    lines = [
        f"Coverage: {cover.share:.1%} of the block parameters measured "
        f"({count(cover.measured_parameters)} of {count(cover.block_parameters)})."
    ]
    lines += _missing_lines(scores)
    lines += _expert_lines(scores)
    lines += [] if scores.model.gguf is None else [_gguf_line(scores.model.gguf)]
    lines += [f"Note: {note}." for note in scores.notes]
    lines += [] if scores.stopping is None else _stopping_lines(scores.stopping)
    lines += list(map(reference_line, scores.references))
    made = scores.provenance
    lines += [
        f"{plural(scores.sequences, 'sequence')}, {scores.tokens:,} tokens of "
        f"{short_name(made.data)}; {made.dtype} on {made.device}, {made.elapsed_seconds:.1f} s, "
        f"peak {made.peak_memory_bytes / 2**30:.1f} GiB.",
        *_text_lines(scores),
        "A low NFN is room for an adapter; ✓ marks what plop place chooses by default.",
    ]
    columns = (
        TYPE, MODULES, Column("parameters", right=True), NFN, INTERVAL,
        *(Column(title_of(held.indicator)) for held in scores.indicators),
        Column("chosen"), Column("by layer", starts=True),
    )  # fmt: skip
    return Table(f"NFN of {short_name(scores.model.name)}", columns, rows, tuple(lines))


def _gguf_line(file: GgufFile) -> str:
    """Say which file the weights are from, and how it held them."""
    held = ", ".join(f"{plural(count, 'tensor')} in {kind}" for kind, count in file.types.items())
    return f"Weights: dequantised from {file.name} ({held}; SHA-256 {file.sha256[:12]}…)."


def _text_lines(scores: Scores) -> list[str]:
    """Say what of a row was scored, and how long its texts are; pixels have no tokens."""
    if not scores.tokens:
        return []
    field = scores.provenance.settings.get("field")
    length = f"{scores.tokens / scores.sequences:.1f} tokens a sequence on average"
    return [f"Text: {field}, {length}." if field else f"Length: {length}."]


def _stopping_lines(stopping: Stopping) -> list[str]:
    """Say why scoring ended, which pairs are a tie or open, and the groups of the texts."""
    lines = []
    within = f"{stopping.tolerance:g} NFN"
    if stopping.decided:
        lines.append(
            f"Stopped after {stopping.used:,} of {plural(stopping.available, 'sequence')}: no type "
            f"left out is better than one of the {stopping.top} lowest by more than {within} "
            f"(confidence {stopping.confidence:g})."
        )
    elif stopping.mode == "adaptive":
        lines.append(f"Not decided within {within}: {stopping.reason}.")
    for word, pairs in (("Tie in practice", stopping.ties), ("Undecided", stopping.undecided)):
        for pair in pairs[:LISTED_PAIRS]:
            gap, interval = difference(pair.difference, pair.low, pair.high)
            lines.append(
                f"{word}: {pair.chosen} was chosen and {pair.left_out} was not; "
                f"{pair.left_out} minus {pair.chosen} is {gap} ({interval})."
            )
        if len(pairs) > LISTED_PAIRS:
            lines.append(f"{word}: {len(pairs) - LISTED_PAIRS} more, in the record.")
    if stopping.groups:
        groups = stopping.groups[:LISTED_GROUPS]
        parts = [f"{_short(row.group)} {row.used} of {row.available}" for row in groups]
        if len(stopping.groups) > LISTED_GROUPS:
            parts.append(f"and {len(stopping.groups) - LISTED_GROUPS} more groups, in the record")
        lines.append(f"Sequences by group: {', '.join(parts)}.")
    return lines


def _short(group: str) -> str:
    return group if len(group) <= LONGEST_GROUP else f"{group[:LONGEST_GROUP]}…"


def _missing_lines(scores: Scores) -> list[str]:
    """Say what was missed, a line for each reason, and in one line what is left out by rule."""
    missed: dict[str, list[int]] = {}
    ruled: dict[str, list[int]] = {}
    for entry in scores.coverage.not_measured:
        kind = ruled if entry.by_rule else missed
        kind.setdefault(entry.reason, []).append(entry.parameters)
    total = scores.model.parameters
    lines = [
        f"Not measured: {plural(len(sizes), 'weight')}, {count(sum(sizes))} parameters "
        f"({sum(sizes) / total:.1%} of the model): {reason}."
        for reason, sizes in missed.items()
    ]
    if ruled:
        parts = [f"{reason} {count(sum(sizes))}" for reason, sizes in ruled.items()]
        lines.append(f"Left out by rule: {', '.join(parts)}; --include scores them.")
    return lines


def _expert_lines(scores: Scores) -> list[str]:
    """Say how many tokens the experts of a stack saw: few of them make a score that wobbles."""
    seen = {(site.host, e.expert): e.tokens for site in scores.sites for e in site.experts}
    tokens = sorted(seen.values())
    if not tokens:
        return []
    middle = tokens[len(tokens) // 2]
    return [
        f"Experts: {plural(len(tokens), 'expert weight')}, {tokens[0]:,} to {tokens[-1]:,} routed "
        f"tokens each, median {middle:,}; each one's score is in the record."
    ]


def placement_table(placement: Placement) -> Table:
    """Choices in the order of the strategy, with the gap to the next type and the verdict."""
    from plop_lora.exports import caveats_of

    rows = tuple(
        (
            choice.type,
            str(choice.modules),
            *by_indicator(choice.score, choice.low, choice.high),
            _ranks(choice),
            count(choice.parameters),
            *_gap(choice.next),
        )
        for choice in placement.choices
    )
    share = placement.trainable_parameters / placement.model.parameters
    budget = "" if placement.budget is None else f" of a budget of {placement.budget:,}"
    lines = (
        *_explained([choice.next.verdict for choice in placement.choices if choice.next]),
        f"Against what was left out: {_told(placement)}.",
        f"{plural(len(placement.sites), 'adapter')}, {placement.trainable_parameters:,} trainable "
        f"parameters{budget} ({share:.2%} of the model); {_scaling(placement)}.",
        *(
            f"Forced along: {', '.join(choice.forced)}, since {choice.type} is one weight."
            for choice in placement.choices
            if choice.forced
        ),
        *(f"Note: {note}." for note in placement.notes),
        *map(str, caveats_of(placement)),
    )
    columns = (
        TYPE, MODULES, Column(title_of(placement.indicator)), INTERVAL,
        Column("rank", right=True), Column("trainable", right=True),
        Column("next type", starts=True), DIFFERENCE, INTERVAL, VERDICT,
    )  # fmt: skip
    by = "" if placement.indicator == NFN_ROW else f" by {placement.indicator}"
    title = f"Placement for {short_name(placement.model.name)}, strategy {placement.strategy}{by}"
    return _without_empty_columns(Table(title, columns, rows, lines))


def _scaling(placement: Placement) -> str:
    settings = placement.settings
    formula = "alpha/sqrt(rank)" if settings.rslora else "alpha/rank"
    extras = [f"{formula} {placement.scaling:g}"]
    extras += [f"LoRA+ ratio {settings.loraplus_ratio:g}"] if settings.loraplus_ratio else []
    extras += [f"init {settings.init}"] if settings.init != "default" else []
    extras += [f"dropout {settings.dropout:g}"] if settings.dropout else []
    return ", ".join(extras)


def _ranks(choice: Choice) -> str:
    if choice.lowest_rank == choice.highest_rank:
        return str(choice.lowest_rank)
    return f"{choice.lowest_rank}–{choice.highest_rank}"


def _gap(gap: Gap | None) -> tuple[str, str, str, str]:
    if gap is None:
        return "", "", "", ""
    return (gap.other, *difference(gap.difference, gap.low, gap.high), _word(gap.verdict))


def _without_empty_columns(table: Table) -> Table:
    """Drop what no row has, such as the gaps of a placement that was made without scores."""
    kept = [i for i in range(len(table.columns)) if any(row[i] for row in table.rows)]
    return Table(
        table.title,
        tuple(table.columns[i] for i in kept),
        tuple(tuple(row[i] for i in kept) for row in table.rows),
        table.lines,
    )


def _told(placement: Placement) -> str:
    """Return the verdict on the choice, with the tolerance of a tie."""
    if placement.tolerance is None:
        return placement.verdict
    return f"a {placement.verdict} within {placement.tolerance:g}"


def _word(verdict: GapVerdict) -> str:
    """Return the verdict without its advice, which a line below the table gives once."""
    return "undecided" if verdict == UNDECIDED else verdict


def _explained(verdicts: Sequence[GapVerdict]) -> list[str]:
    """Return the meaning of each verdict that needs one."""
    meanings = {UNDECIDED: UNDECIDED_MEANS, TIE: TIE_MEANS}
    return [text for verdict, text in meanings.items() if verdict in verdicts]


def comparison_table(comparison: Comparison) -> Table:
    """Types in the order of the first file, with the difference second minus first."""
    rows = tuple(
        (
            row.type,
            f"{row.first:.3f}",
            f"{row.second:.3f}",
            *difference(row.difference, row.low, row.high),
            _word(row.verdict),
        )
        for row in comparison.types
    )
    tau = comparison.kendall_tau
    pairing = (
        "unpaired intervals (different sequences)"
        if comparison.paired_sequences is None
        else f"intervals paired over {comparison.paired_sequences} sequences"
    )
    order = "undefined" if tau is None else f"{tau:.2f}"
    lines = _explained([row.verdict for row in comparison.types])
    lines.append(f"Kendall tau of the type order: {order}; {pairing}.")
    first, second = short_name(comparison.first), short_name(comparison.second)
    for name, only in ((first, comparison.only_first), (second, comparison.only_second)):
        if only:
            lines.append(f"Only in {name}: {', '.join(only)}.")
    lines += [f"Note: {note}" for note in comparison.notes]
    columns = (
        TYPE, Column(first), Column(second),
        Column(DIFFERENCE.name, starts=True), INTERVAL, VERDICT,
    )  # fmt: skip
    return Table("NFN compared, second minus first", columns, rows, tuple(lines))


def spec_table(spec: TrialSpec) -> Table:
    """One trial that is to be run."""
    row = (
        spec.arm, str(spec.seed), f"{spec.learning_rate:g}", spec.task,
        count(spec.placement.trainable_parameters),
    )  # fmt: skip
    columns = (
        Column("arm"), Column("seed", right=True), Column("learning rate", right=True),
        Column("task"), Column("trainable", right=True),
    )  # fmt: skip
    lines = (f"Train on {spec.data.train}, judge on {spec.data.evaluation}.",)
    return Table(f"Trial of {short_name(spec.model)}, {spec.phase}", columns, (row,), lines)


def trial_table(result: TrialResult) -> Table:
    """One trial: what it was, how it was judged, what it took."""
    cost = result.cost
    value = result.metrics.get(result.metric)
    others = sorted(result.metrics.keys() - {result.metric})
    row = (
        result.arm, str(result.seed), f"{result.learning_rate:g}",
        "failed" if value is None else f"{value:.4f}", count(result.trainable_parameters),
        f"{cost.wall_seconds:.1f} s", f"{cost.peak_memory / 2**30:.2f} GiB",
    )  # fmt: skip
    lines = [] if result.cause is None else [f"Failed: {result.cause.rstrip('.')}."]
    lines += [f"{name} {result.metrics[name]:.4f}" for name in others]
    lines += [f"Note: {note}." for note in result.notes]
    lines.append(
        f"{cost.train_seconds:.1f} s training on {cost.tokens:,} tokens in batches of "
        f"{result.batch_size}, {cost.evaluate_seconds:.1f} s judging; "
        f"{cost.devices} × {cost.device}."
    )
    columns = (
        Column("arm"), Column("seed", right=True), Column("learning rate", right=True),
        Column(result.metric, right=True), Column("trainable", right=True),
        Column("time", right=True, starts=True), Column("memory", right=True),
    )  # fmt: skip
    return Table(f"Trial, {result.phase}: {result.status}", columns, (row,), tuple(lines))


# --------------------------------------------------------------------------- cells


def plural(number: int, word: str, ending: str = "s") -> str:
    """Return a number with its word, which has an ending unless the number is 1.

    >>> plural(1, "module"), plural(2, "module"), plural(3, "pass", "es")
    ('1 module', '2 modules', '3 passes')
    """
    return f"{number:,} {word}{'' if number == 1 else ending}"


def short_name(name: str) -> str:
    """Return a hub id as it is, and the last two parts of a longer path.

    >>> short_name("Qwen/Qwen3-0.6B"), short_name("/home/me/models/mine")
    ('Qwen/Qwen3-0.6B', '…/models/mine')
    """
    parts = name.rstrip("/").split("/")
    return name if len(parts) < 3 else "…/" + "/".join(parts[-2:])


def count(number: int) -> str:
    """Return a number of parameters in short.

    >>> count(1234), count(2_750_000), count(8_030_000_000), count(999_999)
    ('1,234', '2.75 M', '8.03 B', '1 M')
    """
    if number < 10_000:
        return f"{number:,}"
    for unit, size in (("k", 10**3), ("M", 10**6)):
        if float(f"{number / size:.3g}") < 1000:
            return f"{number / size:.3g} {unit}"
    return f"{number / 10**9:,.3g} B" if number < 10**12 else f"{number / 10**9:,.0f} B"


def sparkline(values: Sequence[float], bounds: tuple[float, float], width: int = 16) -> str:
    """Return one bar per layer, or per run of layers where there are more than `width`.

    >>> sparkline([0.0, 0.5, 1.0], (0.0, 1.0))
    '▁▅█'
    """
    if len(values) > width:
        edges = [round(i * len(values) / width) for i in range(width + 1)]
        pairs = itertools.pairwise(edges)
        values = [sum(values[a:b]) / (b - a) for a, b in pairs]
    low, high = bounds
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((value - low) * scale)] for value in values)
