"""Which pictures there are: what each is drawn from, and what it says to who cannot see it.

A description tells the content with its numbers, and comes from the same records as the picture, so
that a page never describes another picture than the one it shows.
"""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Callable, Sequence
from statistics import fmean

from pictures.measure import LAYER, RESPONSES, ROOT, SCORES, VERIFICATION
from plop_lora.placement import place
from plop_lora.records import ArmResult, Scores, Verification
from plop_lora.reports.heatmap import cells_of, shade
from plop_lora.reports.text import text

EXPERIMENTS = ROOT / "scripts" / "experiments"
sys.path[:0] = [str(ROOT / "benchmarks"), str(EXPERIMENTS)]

from pictures import forest, heat, scenes, study  # noqa: E402
from pictures.picture import Picture  # noqa: E402
from pictures.svg import signed  # noqa: E402

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
GROWTH = ROOT / "benchmarks" / "results" / "growth-2026-11-25.md"
DIGITS = 3
"""Decimals of a difference."""
JAPANESE = "ja"


# --------------------------------------------------------------------------- the bundled model


@functools.cache
def _scores() -> Scores:
    return Scores.load(SCORES)


def _chosen(scores: Scores) -> list[str]:
    return [choice.type for choice in place(scores).choices]


def _weights() -> tuple[list[scenes.Weight], list[scenes.Weight]]:
    """Return the weights of attention and of the MLP in a block of the bundled model."""
    scores = _scores()
    chosen = _chosen(scores)
    nfn = {row.type: row.nfn for row in scores.types}
    shapes = {site.type: (site.out_features, site.in_features) for site in scores.sites}

    def weights(names: Sequence[str]) -> list[scenes.Weight]:
        return [
            scenes.Weight(
                name=name, rows=shapes[name][0], columns=shapes[name][1], nfn=nfn[name],
                chosen=name in chosen,
            )
            for name in names
        ]  # fmt: skip

    return weights(ATTENTION), weights(MLP)


def block() -> Picture:
    """Draw a block of the bundled model, with the adapters that its scores suggest."""
    scores = _scores()
    chosen = _chosen(scores)
    nfn = {row.type: row.nfn for row in scores.types}
    frozen = {name: value for name, value in nfn.items() if name not in chosen}
    alt = (
        "A transformer block of the bundled model with its seven weight matrices. Adapters stand "
        "on the three with the lowest NFN: "
        f"{scenes.names_of({name: nfn[name] for name in chosen})}. "
        f"The others stay frozen: {scenes.names_of(frozen)}."
    )
    title = "A transformer block with LoRA adapters on three of its weights"
    return Picture(scenes.block(title, *_weights()), alt)


def block_ja() -> str:
    """Draw the block with Japanese words."""
    title = "3 個の重みに LoRA アダプターを置いた Transformer ブロック"
    return scenes.block(title, *_weights(), scenes.BLOCK_JA, JAPANESE)


def _cells() -> heat.Cells:
    """Return the NFN of the bundled model by type and layer, the lowest mean first."""
    scores = _scores()
    cells = cells_of(scores)
    rising = sorted(value for row in cells.values() for value in row.values())
    names = [row.type for row in sorted(scores.types, key=lambda row: row.nfn)]
    return heat.Cells(
        rows=names,
        columns=[str(layer) for layer in cells],
        values={(name, str(layer)): row[name] for layer, row in cells.items() for name in names},
        opacity=lambda value: shade(value, rising),
        shown=lambda value: f"{value:.2f}",
        bold=_chosen(scores),
    )


def layers() -> Picture:
    """Draw the NFN of the bundled model by layer and type."""
    shown = _cells()
    names = shown.rows
    svg = heat.heat_map(
        "NFN by layer and module type", shown, left=96, heading="layer",
        legend="The stronger the colour, the lower the NFN; bold: chosen",
    )  # fmt: skip
    ends = [(value, name, layer) for (name, layer), value in shown.values.items()]
    low, high = min(ends), max(ends)
    alt = (
        f"Heat map of the NFN of the bundled model, {len(names)} module types by "
        f"{len(shown.columns)} layers. The lowest value is {low[0]:.2f} ({low[1]} in layer "
        f"{low[2]}), the highest {high[0]:.2f} ({high[1]} in layer {high[2]}). From the "
        f"lowest to the highest mean the types are {', '.join(names)}; the first three are chosen."
    )
    return Picture(svg, alt)


def layers_ja() -> str:
    """Draw the NFN by layer and type with Japanese words."""
    return heat.heat_map(
        "層とモジュール種類ごとの NFN", _cells(), left=96, heading="層",
        legend="色が濃いほど NFN が低い。太字は選ばれた種類。", language=JAPANESE,
    )  # fmt: skip


def responses() -> Picture:
    """Draw how two weights of one layer respond to tokens and to random vectors."""
    found = json.loads(RESPONSES.read_text(encoding="utf-8"))
    groups = [
        scenes.Responses(
            name=f"{name}, layer {LAYER}", nfn=fmean(each["features"]),
            features=each["features"], randoms=each["randoms"],
        )
        for name, each in found.items()
    ]  # fmt: skip
    highest = max(value for group in groups for value in (*group.features, *group.randoms))
    svg = scenes.tokens("Responses of two weights to tokens and to noise", groups, highest * 1.04)
    count = len(groups[0].features)
    noise = [value for group in groups for value in group.randoms]
    said = [
        f"For {group.name} they spread from {min(group.features):.2f} to "
        f"{max(group.features):.2f} with a mean, the NFN, of {group.nfn:.2f}."
        for group in groups
    ]
    alt = (
        f"Lengths of W z for {count} tokens of the word problems and for {count} random vectors, "
        "relative to the mean of random vectors. Random vectors lie around 1, between "
        f"{min(noise):.2f} and {max(noise):.2f}. Tokens do not. {' '.join(said)}"
    )
    return Picture(svg, alt)


def idea() -> Picture:
    """Draw what the norm compares, in the plane."""
    found = scenes.idea()
    alt = (
        "Two diagrams. On the left features of the data and random vectors lie on one circle, the "
        "features close together. On the right a weight has made an ellipse of the circle, and the "
        "features lie near its long end, further out than most random vectors: their mean length "
        f"is {found.nfn:.2f} times that of the random vectors. This ratio is the NFN."
    )
    return Picture(scenes.norm("What the Normalized Feature Norm measures", found), alt)


def flow() -> Picture:
    """Draw the verbs in their order."""
    verbs = ", ".join(step.verb for step in scenes.STEPS)
    alt = (
        f"The verbs in their order, from your model and your rows to a decision: {verbs}. "
        "verify and gate end with exit code 0, 3 for no, or 4 where the data cannot tell; plop run "
        "does all of it from one recipe."
    )
    return Picture(scenes.flow("From rows to a decision: the verbs of plop"), alt)


def flow_ja() -> str:
    """Draw the verbs with Japanese words."""
    title = "データ行から判断まで：plop のコマンド"
    return scenes.flow(title, scenes.STEPS_JA, scenes.FRAME_JA, JAPANESE)


# --------------------------------------------------------------------------- verifications


def _compared(record: Verification) -> list[ArmResult]:
    """Return the rivals of a verification, the one that the shortlist is furthest above first."""
    arms = (arm for arm in record.arms if arm.difference is not None)
    return sorted(arms, key=lambda arm: -(arm.difference or 0.0))


def _panel(record: Verification) -> forest.Panel:
    rows = [
        forest.Row(label=arm.arm, value=arm.difference or 0.0, low=arm.low, high=arm.high)
        for arm in _compared(record)
    ]
    return forest.Panel(heading="", rows=rows)


def _verification(record: Verification, what: str) -> Picture:
    """Draw the difference between the shortlist and every rival of a verification."""
    own = record.shortlist
    arms = _compared(record)
    difference = f"{own} minus rival" if record.higher_is_better else f"gain of {own} over rival"
    scale = forest.Scale(
        title=f"{difference}, {record.metric}; dashed: margin", left="rival better",
        right=f"{own} better", marks=(0.0, -record.margin), digits=DIGITS,
    )  # fmt: skip
    svg = forest.forest(f"{what}: {own} against its rivals", [_panel(record)], scale)
    said = "; ".join(
        f"{arm.arm} {signed(arm.difference or 0.0, DIGITS)}"
        + (
            f" ({signed(arm.low, DIGITS)} to {signed(arm.high, DIGITS)})"
            if arm.low is not None and arm.high is not None
            else ""
        )
        for arm in arms
    )
    alt = (
        f"Forest plot of {what}: how much better {own} is than each rival by {record.metric}, with "
        f"intervals, at a margin of {record.margin:.3g}: {said}. The verdict is {record.verdict}."
    )
    return Picture(svg, alt)


def experiment(name: str, what: str) -> Callable[[], Picture]:
    """Return the function that draws a verification of the experiments."""
    return lambda: _verification(Verification.load(EXPERIMENTS / "results" / name), what)


def tutorial() -> Picture:
    """Draw the verification of the tutorial."""
    return _verification(Verification.load(VERIFICATION), "the verification of the tutorial")


def tutorial_ja() -> str:
    """Draw the verification of the tutorial with Japanese words."""
    record = Verification.load(VERIFICATION)
    own, words = record.shortlist, text("ja")
    scale = forest.Scale(
        title=f"{own} の優位（{words(f'quantity.{record.metric}')}）、破線：許容差",
        left=f"{words('group.rival')}が良い", right=f"{own} が良い",
        marks=(0.0, -record.margin), digits=DIGITS,
    )  # fmt: skip
    title = f"チュートリアルの検証：対抗案に対する {own} の優位"
    return forest.forest(title, [_panel(record)], scale, JAPANESE)


# --------------------------------------------------------------------------- growth


def growth() -> Picture:
    """Draw how time and memory grow, from the table of the benchmark."""
    pattern = re.compile(
        r"^\| (\w+) [\d–]+ \| (\w+) \| ([\w ]+) \| [^|]* "
        r"\| ([-\d.]+) \(([-\d.]+) to ([-\d.]+)\) \|$",
        re.MULTILINE,
    )
    panels: dict[str, list[forest.Row]] = {}
    for axis, engine, quantity, *numbers in pattern.findall(GROWTH.read_text(encoding="utf-8")):
        value, low, high = map(float, numbers)
        memory = quantity != "time"
        row = forest.Row(
            label=f"{'memory' if memory else 'time'}: {ENGINES[engine]}", value=value, low=low,
            high=high, role="second" if memory else "accent",
        )  # fmt: skip
        panels.setdefault(AXES[axis], []).append(row)
    scale = forest.Scale(
        title="slope; 0 is flat, dashed: proportional", marks=(0.0, 1.0), plus=False
    )
    heads = [forest.Panel(heading=f"with {axis}", rows=rows) for axis, rows in panels.items()]
    svg = forest.forest("Growth of time and memory", heads, scale)
    said = "; ".join(
        f"with {axis} " + ", ".join(f"{row.label} {row.value:.2f}" for row in rows)
        for axis, rows in panels.items()
    )
    alt = f"Forest plot of the slopes of time and memory, 1 being proportional: {said}."
    return Picture(svg, alt)


AXES = {"tokens": "tokens", "layers": "depth", "hidden": "width", "experts": "experts"}
ENGINES = {"plain": "forward", "memory": "in memory", "stream": "stream"}
"""Words for what varies in the benchmark, and for its variants."""

PICTURES: dict[str, Callable[[], Picture]] = {
    "block": block,
    "layers": layers,
    "flow": flow,
    "study-correlations": study.correlations,
    "study-networks": study.by_network,
    "study-differences": study.differences,
    "study-regrets": study.regrets,
    "study-gains": study.gains,
    "study-indicators": study.indicators,
    "study-firsts": study.firsts,
    "study-triples": study.triples,
    "study-costs": study.costs,
    "study-forgetting": study.forgetting,
    "study-data": study.share_of_data,
    "nfn-idea": idea,
    "nfn-tokens": responses,
    "tutorial-verify": tutorial,
    "growth": growth,
    "experiment-sft": experiment("sft.json", "SFT on the bundled model"),
    "experiment-classify": experiment("classify.json", "classification with all-MiniLM-L6-v2"),
    "experiment-grpo": experiment("grpo.json", "GRPO on the bundled model"),
    "experiment-gsm8k": experiment("gsm8k.json", "SFT of SmolLM2-135M on GSM8K"),
}
"""The pictures by the name of their file."""
TRANSLATED: dict[str, Callable[[], str]] = {
    "block": block_ja,
    "layers": layers_ja,
    "flow": flow_ja,
    "tutorial-verify": tutorial_ja,
}
"""The pictures with Japanese words, which stand in docs/ja under the same names. Their descriptions
are part of the translated pages."""
