"""Pictures that explain: where adapters go, the order of the verbs, and what a score measures."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pictures.svg import MIDDLE, SMALL, WIDTH, Drawing

# --------------------------------------------------------------------------- a block


@dataclass(frozen=True, kw_only=True)
class Weight:
    """A weight matrix of a block.

    Attributes:
        name: Module type.
        rows: Width of its output.
        columns: Width of its input.
        nfn: Mean NFN of the type.
        chosen: Whether adapters go there.
    """

    name: str
    rows: int
    columns: int
    nfn: float
    chosen: bool


UNITS = 0.16
"""Units of the picture for one row or column of a weight."""
ADAPTER = 6
"""Thickness of a LoRA matrix in the picture."""


BLOCK = ("Self-attention", "MLP", "frozen weight", "LoRA adapter: the lowest NFN",
         "Numbers: NFN of the type, mean over all blocks")  # fmt: skip
BLOCK_JA = ("自己注意（attention）", "MLP", "凍結した重み", "LoRA アダプター：最も低い NFN",
            "数値：種類ごとの NFN（全ブロックの平均）")  # fmt: skip
"""The names of the parts of a block, and what stands below it."""


def block(
    title: str, attention: Sequence[Weight], mlp: Sequence[Weight],
    words: Sequence[str] = BLOCK, language: str = "",
) -> str:  # fmt: skip
    """Return a transformer block with adapters on the chosen weights, in true proportions."""
    first, second, frozen, adapter, below = words
    drawing = Drawing(346, title, language)
    drawing.line([(20, 8), (20, 296)], stroke="muted", width=2, arrow=True)
    _part(drawing, first, attention, top=8, height=106)
    _part(drawing, second, mlp, top=124, height=156)
    drawing.rect(12, 306, 12, 12, fill="panel", stroke="muted")
    drawing.text(30, 317, frozen, size=MIDDLE)
    drawing.rect(132, 306, 5, 12, fill="accent")
    drawing.rect(139, 313, 12, 5, fill="accent")
    drawing.text(158, 317, adapter, size=MIDDLE)
    drawing.text(12, 337, below, size=SMALL, role="muted")
    return drawing.svg()


def _part(
    drawing: Drawing, name: str, weights: Sequence[Weight], *, top: float, height: float
) -> None:
    """Draw one part of the block, which reads from the residual stream and adds to it."""
    left, right = 42, WIDTH - 8
    drawing.rect(left, top, right - left, height, stroke="line", radius=6)
    drawing.text(left + 8, top + 17, name, size=MIDDLE, face="bold")
    drawing.line([(20, top + 24), (left, top + 24)], stroke="muted", arrow=True)
    drawing.line([(left, top + height - 12), (22, top + height - 12)], stroke="muted", arrow=True)
    width = (right - left) / len(weights)
    for place, weight in enumerate(weights):
        _weight(drawing, weight, left + width * (place + 0.5), top + 26, height - 66)


def _weight(drawing: Drawing, weight: Weight, x: float, top: float, room: float) -> None:
    wide, high = weight.columns * UNITS, weight.rows * UNITS
    y = top + (room - high) / 2
    drawing.rect(x - wide / 2, y, wide, high, fill="panel", stroke="muted")
    if weight.chosen:
        drawing.rect(x - wide / 2 - 3 - ADAPTER, y, ADAPTER, high, fill="accent")
        drawing.rect(x - wide / 2, y + high + 3, wide, ADAPTER, fill="accent")
    role, face = ("accent", "bold") if weight.chosen else ("text", "")
    drawing.text(
        x, top + room + 22, weight.name, size=MIDDLE, anchor="middle", role=role, face=face
    )
    drawing.text(
        x, top + room + 36, f"{weight.nfn:.2f}", size=MIDDLE, anchor="middle", role=role,
        face=face,
    )  # fmt: skip


# --------------------------------------------------------------------------- the verbs


@dataclass(frozen=True, kw_only=True)
class Step:
    """A verb and what it does, in two short lines."""

    verb: str
    lines: tuple[str, str]


STEPS = (
    Step(verb="acquire", lines=("split the rows,", "remove leaks")),
    Step(verb="score", lines=("NFN of every", "module type")),
    Step(verb="place", lines=("choose types", "and ranks")),
    Step(verb="verify", lines=("finetune rivals:", "exit 0, 3 or 4")),
    Step(verb="finetune", lines=("the adapter", "that ships")),
    Step(verb="gate", lines=("may it ship?", "exit 0, 3 or 4")),
    Step(verb="export", lines=("for your trainer", "or server")),
    Step(verb="ab", lines=("is it better in", "production?")),
    Step(verb="report", lines=("all of it", "on one page")),
)
"""The verbs in their order."""
STEPS_JA = (
    Step(verb="acquire", lines=("行を分割し、", "漏れを除く")),
    Step(verb="score", lines=("種類ごとの", "NFN を測る")),
    Step(verb="place", lines=("種類とランク", "を選ぶ")),
    Step(verb="verify", lines=("対抗案と比較", "終了 0・3・4")),
    Step(verb="finetune", lines=("出荷する", "アダプター")),
    Step(verb="gate", lines=("出荷してよいか", "終了 0・3・4")),
    Step(verb="export", lines=("学習ツールと", "サーバーへ")),
    Step(verb="ab", lines=("本番環境でも", "良いか")),
    Step(verb="report", lines=("すべてを", "1 ページに")),
)
"""The same in Japanese."""
FRAME = ("your model, your rows", "does all of it from one recipe.",
         "Exit 3 says no, and 4 says that the data cannot tell.")  # fmt: skip
FRAME_JA = ("モデルとデータ行", "は一つのレシピからすべてを行う。",
            "終了コード 3 は否、4 はデータから判断できないことを示す。")  # fmt: skip
"""What stands above the steps, beside `plop run`, and below."""
BOX = (104, 62)
GAP = 18


def flow(
    title: str, steps: Sequence[Step] = STEPS, frame: Sequence[str] = FRAME, language: str = ""
) -> str:
    """Return the verbs in rows of three, joined by arrows."""
    above, beside, below = frame
    drawing = Drawing(352, title, language)
    drawing.text(12, 24, above, size=MIDDLE, face="bold")
    tops = [46 + number * (BOX[1] + 30) for number in range(len(steps) // 3)]
    start = 12 + BOX[0] / 2
    drawing.line([(start, 30), (start, tops[0] - 1)], stroke="muted", arrow=True)
    for number, step in enumerate(steps):
        row, column = divmod(number, 3)
        x, y = 8 + column * (BOX[0] + GAP), tops[row]
        drawing.rect(x, y, *BOX, fill="panel", stroke="accent", radius=6)
        drawing.text(x + 52, y + 19, step.verb, anchor="middle", face="code")
        for place, line in enumerate(step.lines):
            drawing.text(x + 52, y + 36 + 15 * place, line, size=SMALL, anchor="middle")
        middle = y + BOX[1] / 2
        if column < 2:
            drawing.line(
                [(x + BOX[0] + 1, middle), (x + BOX[0] + GAP - 1, middle)], stroke="muted",
                arrow=True,
            )  # fmt: skip
        elif row + 1 < len(tops):
            turn = (y + BOX[1] + tops[row + 1]) / 2
            drawing.line(
                [(x + 52, y + BOX[1]), (x + 52, turn), (60, turn), (60, tops[row + 1] - 1)],
                stroke="muted", arrow=True,
            )  # fmt: skip
    drawing.text(12, 318, "plop run", size=MIDDLE, face="code")
    drawing.text(80, 318, beside, size=MIDDLE)
    drawing.text(12, 340, below, size=SMALL, role="muted")
    return drawing.svg()


# --------------------------------------------------------------------------- the norm

MATRIX = ((1.5, 0.55), (0.35, 0.5))
"""The weight of the picture of the idea."""
DIRECTION, SPREAD = 0.42, 0.22
"""Mean and standard deviation of the angles of the features, in radians."""


@dataclass(frozen=True)
class Idea:
    """Features and random vectors of equal length in the plane, and what `MATRIX` makes of them."""

    features: tuple[tuple[float, float], ...]
    randoms: tuple[tuple[float, float], ...]
    nfn: float


def idea(seed: int = 0) -> Idea:
    """Draw features near one direction and random vectors in all of them, and measure the NFN."""
    rng = random.Random(seed)
    features = tuple(_at(rng.gauss(DIRECTION, SPREAD)) for _ in range(14))
    randoms = tuple(_at(2 * math.pi * (number + rng.random()) / 36) for number in range(36))
    turns = (_at(2 * math.pi * number / 3600) for number in range(3600))
    expected = sum(math.hypot(*_image(point)) for point in turns) / 3600
    mean = sum(math.hypot(*_image(point)) for point in features) / len(features)
    return Idea(features, randoms, mean / expected)


def _at(angle: float) -> tuple[float, float]:
    return math.cos(angle), math.sin(angle)


def _image(point: tuple[float, float]) -> tuple[float, float]:
    (a, b), (c, d) = MATRIX
    return a * point[0] + b * point[1], c * point[0] + d * point[1]


def norm(title: str, found: Idea) -> str:
    """Return vectors of one length on the left, and their images under a weight on the right."""
    drawing = Drawing(282, title)
    drawing.text(76, 24, "inputs of one length", size=MIDDLE, face="bold", anchor="middle")
    drawing.text(264, 24, "after the weight W", size=MIDDLE, face="bold", anchor="middle")
    unit, centres = 50, ((76, 120), (264, 120))
    drawing.line([(142, 120), (170, 120)], stroke="muted", width=2, arrow=True)
    circle = [_at(2 * math.pi * number / 90) for number in range(90)]
    for (x, y), change in zip(centres, (lambda point: point, _image), strict=True):

        def place(point, x=x, y=y, change=change):
            across, up = change(point)
            return x + unit * across, y - unit * up

        drawing.line([place(point) for point in circle], closed=True)
        drawing.line([(x - 3, y), (x + 3, y)], stroke="muted")
        drawing.line([(x, y - 3), (x, y + 3)], stroke="muted")
        for point in found.randoms:
            drawing.circle(*place(point), 3, fill="muted", opacity=0.7)
        for point in found.features:
            drawing.circle(*place(point), 4, fill="accent")
    drawing.circle(18, 216, 4, fill="accent")
    drawing.text(30, 220, "features z of the data: mean length ‖W z‖", size=MIDDLE)
    drawing.circle(18, 238, 3, fill="muted")
    drawing.text(30, 242, "random vectors as long as z: mean length E‖W z̃‖", size=MIDDLE)
    words = f"NFN = {found.nfn:.2f}, the first length over the second"
    drawing.text(12, 268, words, size=MIDDLE, face="bold")
    return drawing.svg()


# --------------------------------------------------------------------------- tokens


@dataclass(frozen=True, kw_only=True)
class Responses:
    """Relative lengths of a weight's products with features and with random vectors."""

    name: str
    nfn: float
    features: Sequence[float]
    randoms: Sequence[float]


def tokens(title: str, groups: Sequence[Responses], highest: float) -> str:
    """Return a strip of dots for the features and the random vectors of each weight."""
    drawing = Drawing(76 * len(groups) + 62, title)
    left, right = 92, 346

    def at(value: float) -> float:
        return left + (right - left) * value / highest

    bottom = 76 * len(groups) + 8
    for tick in range(math.floor(highest) + 1):
        drawing.line([(at(tick), 8), (at(tick), bottom)], stroke="muted" if tick == 1 else "panel")
        drawing.text(at(tick), bottom + 16, str(tick), size=SMALL, role="muted", anchor="middle")
    for number, group in enumerate(groups):
        y = 8 + 76 * number
        drawing.text(12, y + 16, group.name, face="bold")
        for label, values, middle, role in (
            ("tokens", group.features, y + 34, "accent"),
            ("random", group.randoms, y + 62, "muted"),
        ):
            drawing.text(12, middle + 4, label, size=MIDDLE, role=role)
            _strip(drawing, [at(value) for value in values], middle, role)
        drawing.line([(at(group.nfn), y + 20), (at(group.nfn), y + 48)], stroke="text", width=2)
        drawing.text(at(group.nfn), y + 15, f"NFN {group.nfn:.2f}", size=MIDDLE, anchor="middle",
                     face="bold")  # fmt: skip
    words = "‖W z‖, relative to the mean of random vectors"
    drawing.text(WIDTH / 2, bottom + 34, words, size=SMALL, anchor="middle")
    return drawing.svg()


def _strip(drawing: Drawing, places: Sequence[float], middle: float, role: str) -> None:
    """Draw dots at their places, one above or below another where they would meet."""
    taken: dict[int, int] = {}
    for x in sorted(places):
        column = round(x / 4)
        count = taken.get(column, 0)
        taken[column] = count + 1
        # 0, 1, −1, 2, −2, … and from the middle again where the strip is full
        step = (count + 1) // 2 * (1 if count % 2 else -1)
        offset = (step + 4) % 9 - 4
        drawing.circle(x, middle + 2.6 * offset, 2, fill=role, opacity=0.75)


def names_of(weights: Mapping[str, float]) -> str:
    """Write names with their values as in a sentence.

    >>> names_of({"v_proj": 1.135, "up_proj": 1.256})
    'v_proj (1.14) and up_proj (1.26)'
    """
    parts = [f"{name} ({value:.2f})" for name, value in weights.items()]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
