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
from plop_lora.records import Scores, Verification
from plop_lora.reports.heatmap import cells_of, shade

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


# --------------------------------------------------------------------------- the bundled model


@functools.cache
def _scores() -> Scores:
    return Scores.load(SCORES)


def _chosen(scores: Scores) -> list[str]:
    return [choice.type for choice in place(scores).choices]


def block() -> Picture:
    """Draw a block of the bundled model, with the adapters that its scores suggest."""
    scores = _scores()
    chosen = _chosen(scores)
    nfn = {row.type: row.nfn for row in scores.types}
    frozen = {name: value for name, value in nfn.items() if name not in chosen}
    shapes = {site.type: (site.out_features, site.in_features) for site in scores.sites}

    def weights(names: Sequence[str]) -> list[scenes.Weight]:
        return [
            scenes.Weight(
                name=name, rows=shapes[name][0], columns=shapes[name][1], nfn=nfn[name],
                chosen=name in chosen,
            )
            for name in names
        ]  # fmt: skip

    alt = (
        "A transformer block of the bundled model with its seven weight matrices. Adapters stand "
        "on the three with the lowest NFN: "
        f"{scenes.names_of({name: nfn[name] for name in chosen})}. "
        f"The others stay frozen: {scenes.names_of(frozen)}."
    )
    title = "A transformer block with LoRA adapters on three of its weights"
    return Picture(scenes.block(title, weights(ATTENTION), weights(MLP)), alt)


def layers() -> Picture:
    """Draw the NFN of the bundled model by layer and type."""
    scores = _scores()
    cells = cells_of(scores)
    rising = sorted(value for row in cells.values() for value in row.values())
    names = [row.type for row in sorted(scores.types, key=lambda row: row.nfn)]
    shown = heat.Cells(
        rows=names,
        columns=[str(layer) for layer in cells],
        values={(name, str(layer)): row[name] for layer, row in cells.items() for name in names},
        opacity=lambda value: shade(value, rising),
        shown=lambda value: f"{value:.2f}",
        bold=_chosen(scores),
    )
    svg = heat.heat_map(
        "NFN by layer and module type", shown, left=96, heading="layer",
        legend="The stronger the colour, the lower the NFN; bold: chosen",
    )  # fmt: skip
    ends = [(value, name, layer) for (name, layer), value in shown.values.items()]
    low, high = min(ends), max(ends)
    alt = (
        f"Heat map of the NFN of the bundled model, {len(names)} module types by {len(cells)} "
        f"layers. The lowest value is {low[0]:.2f} ({low[1]} in layer {low[2]}), the highest "
        f"{high[0]:.2f} ({high[1]} in layer {high[2]}). From the lowest to the highest mean the "
        f"types are {', '.join(names)}; the first three are chosen."
    )
    return Picture(svg, alt)


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
    """Draw the verbs with Japanese words; its description stands in the translated pages."""
    title = "データ行から判断まで：plop のコマンド"
    return scenes.flow(title, scenes.STEPS_JA, scenes.FRAME_JA)


# --------------------------------------------------------------------------- verifications


def _verification(record: Verification, what: str) -> Picture:
    """Draw the difference between the shortlist and every rival of a verification."""
    own = record.shortlist
    arms = sorted(
        (arm for arm in record.arms if arm.difference is not None),
        key=lambda arm: -(arm.difference or 0.0),
    )
    rows = [
        forest.Row(label=arm.arm, value=arm.difference or 0.0, low=arm.low, high=arm.high)
        for arm in arms
    ]
    difference = f"{own} minus rival" if record.higher_is_better else f"gain of {own} over rival"
    scale = forest.Scale(
        title=f"{difference}, {record.metric}; dashed: margin", left="rival better",
        right=f"{own} better", marks=(0.0, -record.margin), digits=DIGITS,
    )  # fmt: skip
    panel = forest.Panel(heading="", rows=rows)
    svg = forest.forest(f"{what}: {own} against its rivals", [panel], scale)
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
TRANSLATED: dict[str, Callable[[], str]] = {"flow": flow_ja}
"""The pictures with Japanese words, which stand in docs/ja under the same names."""
