"""Parts of pages that are written from data: `python docs/generate.py --tables`.

A part stands between two comments, `<!-- NAME -->` and `<!-- end of NAME -->`. What is between them
is never edited by hand, and a test compares it with the data.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from plop_lora.exports.caveats import CAVEATS, sentence
from plop_lora.study.findings import findings

DOCS = Path(__file__).parent
COMPARISON = DOCS / "comparison.yaml"
PHRASES = DOCS / "phrases.yaml"
TRIALS = DOCS.parent / "scripts" / "experiments" / "results"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown; the first row is the head."""
    head, *body = rows
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ("---",) * len(head), *body))


# --------------------------------------------------------------------------- comparison


def overview() -> str:
    """Return who does what: one row a tool, one column an ability, in a table for each purpose."""
    data = _comparison()
    parts = []
    for purpose in data["glance"]:
        abilities, groups = purpose["abilities"], purpose["groups"]
        tools = [row for group in data["groups"] if group["title"] in groups
                 for row in group["rows"]]  # fmt: skip
        rows = [(purpose["title"], *abilities.values())]
        for row in (data["ours"], *tools):
            marks = ["yes" if name in row["does"] else "–" for name in abilities]
            name = f"**{row['tool']}**" if row is data["ours"] else row["tool"]
            rows.append((name, *marks))
        parts.append(f'<div class="matrix" markdown>\n\n{table(rows)}\n\n</div>')
    return "\n\n".join(parts)


def details() -> str:
    """Return a table for every group, with versions, days and sources."""
    parts = []
    for group in _comparison()["groups"]:
        rows = [("tool, version, day", "how it decides", "has, and plop-lora has not",
                 "plop-lora has, and it has not")]  # fmt: skip
        for row in group["rows"]:
            links = ", ".join(
                f"[{number}]({link})" for number, link in enumerate(row["sources"], 1)
            )
            name = f"{row['tool']}; {row['version']}; {row['looked']} {links}"
            rows.append((name, row["decides"], row["more"], row["less"]))
        parts.append(f"### {group['title']}\n\n{table(rows)}")
    return "\n\n".join(parts)


def _comparison() -> dict[str, Any]:
    return yaml.safe_load(COMPARISON.read_text(encoding="utf-8"))


# --------------------------------------------------------------------------- costs


def costs() -> str:
    """Return the costs that `plop place` and `plop export` can tell."""
    rows = [("cost", "told for", "source")]
    for row in CAVEATS:
        text = re.sub(r"\{(\w+)\}", r"*\1*", sentence(row.text))
        told = ", ".join(f"`{name}`" for name in row.trainers) or row.scope
        rows.append((text, told, f"[{row.seen}]({row.source})"))
    return table(rows)


# --------------------------------------------------------------------------- devices


def devices() -> str:
    """Return the number of trials of every pair of the study by the device in their records."""
    found: dict[str, Counter[str]] = {}
    for path in sorted(TRIALS.glob("*/*.json")):
        cost = json.loads(path.read_text(encoding="utf-8")).get("cost")
        if cost:
            kind = "GPU" if cost["accelerator"] else "processor"
            found.setdefault(path.parent.name, Counter())[f"{cost['device']} ({kind})"] += 1
    every = sorted({device for counts in found.values() for device in counts})
    rows = [("pair", *every)]
    rows += [(f"`{pair}`", *(str(counts[device]) for device in every))
             for pair, counts in found.items()]  # fmt: skip
    return table(rows)


# --------------------------------------------------------------------------- the study


def _figures() -> dict[str, str]:
    """Return the numbers of the study that sentences quote."""
    found = findings()
    low, high = found.pooled.low, found.pooled.high
    signs = sum(pair.correlation < 0 for pair in found.pairs)
    sizes = [network.parameters / 1e6 for network in found.networks]
    figures = {
        "pairs": str(len(found.pairs)),
        "networks": str(len(found.networks)),
        "smallest": f"{min(sizes):.0f}",
        "largest": f"{max(sizes):.0f}",
        "rho": _signed(found.pooled.rho),
        "low": "" if low is None else _signed(low),
        "high": "" if high is None else _signed(high),
        "signs": str(signs),
    }
    for rule in QUOTED:
        mean = fmean(pair.regrets[rule] for pair in found.pairs)
        figures[rule] = f"{100 * mean:.1f} %".replace("-", "−")
    return figures


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


QUOTED = ("plop", "random", "attention", "mlp", "all-linear", "plop-inverse")
"""Rules whose mean regret is quoted."""


def _sure() -> bool:
    return findings().pooled.shown


STUDY_EN = (
    "The study has {pairs} pairs of network and task so far, on {networks} networks of {smallest} "
    "to {largest} million parameters.",
    "The correlation of score and gain has the sign that the method predicts in {signs} of the "
    "{pairs} pairs. Its mean is {rho}, with a 95 % interval over networks from {low} to {high}.",
    "On the mean of the pairs the three lowest types (`plop`) leave {plop} of the gain of the best "
    "single type, types drawn at random {random}, attention {attention}, the MLP {mlp}, all linear "
    "layers {all-linear} and the three highest types {plop-inverse}.",
)
SURE_EN = {
    True: "That interval lies on one side of 0.",
    False: "That interval holds 0: the study does not show that the score predicts the gain.",
}
STUDY_JA = (
    "これまでの調査は、ネットワークとタスクの組が {pairs} 件、ネットワークは {networks} 種類"
    "（{smallest}M～{largest}M パラメーター）です。",
    "スコアと改善量の相関は、{pairs} 件のうち {signs} 件で手法の予測どおりの符号でした。平均は "
    "{rho}、ネットワークをまたいだ 95 % 区間は {low}～{high} です。",
    "組の平均で見ると、最良の単一種類が得る改善のうち取りこぼす割合は、最も低い 3 種類（`plop`）が "
    "{plop}、無作為に選んだ種類が {random}、attention が {attention}、MLP が {mlp}、"
    "すべての線形層が {all-linear}、最も高い 3 種類が {plop-inverse} でした。",
)
SURE_JA = {
    True: "この区間は 0 を含みません。",
    False: "この区間は 0 を含むため、スコアが改善量を予測するとは示されていません。",
}


def _sentences(texts: Sequence[str], sure: dict[bool, str]) -> str:
    figures = _figures()
    lines = [text.format(**figures) for text in texts]
    lines.insert(2, sure[_sure()])
    return "\n".join(f"- {line}" for line in lines)


def phrases() -> str:
    """Return sentences for a meeting, each with the one that has to follow it."""
    heads = ("you may say", "and then say", "do not say", "source")
    return table([heads, *(_phrase(row, row) for row in _phrases())])


def phrases_ja() -> str:
    """Return the same in Japanese."""
    heads = ("言ってよいこと", "続けて言うべきこと", "言ってはいけないこと", "根拠")
    return table([heads, *(_phrase(row["ja"], row, SOURCES_JA) for row in _phrases())])


def _phrases() -> list[dict[str, Any]]:
    return yaml.safe_load(PHRASES.read_text(encoding="utf-8"))


SOURCES_JA = {
    "evidence.md": "調査結果",
    "gate.md": "ゲートの例",
    "ab-design.md": "A/B テストの設計",
    "security.md": "セキュリティ",
    "how-to/score.md": "スコアの計算",
    "how-to/verify.md": "検証",
    "how-to/gate.md": "ゲート",
    "how-to/fairness.md": "公平性",
}
"""Names of the sources of phrases in Japanese."""


def _phrase(
    words: dict[str, str], row: dict[str, Any], names: dict[str, str] | None = None
) -> tuple[str, ...]:
    cells = (words[key].format(**_figures()) for key in ("say", "follow", "never"))
    say, follow, never = (re.sub(r"\[(.+?)\]", r"\[*\1*\]", cell) for cell in cells)
    source = row["source"]
    name = Path(source).stem if names is None else names[source]
    return say, follow, never, f"[{name}]({source})"


def study() -> str:
    """Return what the study has found, in sentences that pages quote."""
    return _sentences(STUDY_EN, SURE_EN)


def study_ja() -> str:
    """Return the same in Japanese."""
    return _sentences(STUDY_JA, SURE_JA)


def study_figure_ja() -> str:
    """Return the picture of the networks' correlations with its description in Japanese."""
    found: dict[str, list[float]] = defaultdict(list)
    for pair in findings().pairs:
        found[pair.network].append(pair.correlation)
    titles = {network.name: network.title for network in findings().networks} | OWN_JA
    ordered = sorted(found.items(), key=lambda item: fmean(item[1]))
    said = "、".join(
        f"{titles[name]} {_signed(fmean(rhos))}（{len(rhos)}）" for name, rhos in ordered
    )
    alt = (
        f"ネットワーク {len(found)} 種類における NFN と改善量の相関のフォレストプロット。"
        "0 を下回れば手法の予測どおり。線はタスクごとの値の最小から最大まで。タスクについての平均"
        f"（括弧内はタスク数）：{said}。"
        + "全体の平均は {rho}、ネットワークをクラスターとした 95 % 区間は {low}～{high}。"
    ).format(**_figures())
    return f"![{alt}](figures/study-networks.svg)"


OWN_JA = {
    "bundled": "付属の Llama",
    "small-gpt2": "小さな GPT-2",
    "small-mixtral": "小さな混合エキスパートモデル",
    "small-lfm2": "小さな LFM2",
}
"""Titles of networks that have no name of their own."""


# --------------------------------------------------------------------------- pages

PARTS: dict[str, tuple[Callable[[], str], tuple[str, ...]]] = {
    "overview": (overview, ("comparison.md",)),
    "details": (details, ("comparison.md",)),
    "costs": (costs, ("how-to/place.md",)),
    "devices": (devices, ("how-to/gpu.md",)),
    "study": (study, ("adoption.md",)),
    "study-ja": (study_ja, ("ja/adoption.md",)),
    "study-figure-ja": (study_figure_ja, ("ja/index.md",)),
    "phrases": (phrases, ("phrases.md",)),
    "phrases-ja": (phrases_ja, ("ja/phrases.md",)),
}
"""Name of a part → the function that writes it, and the pages that hold it."""


def renewed(page: str, name: str, content: str) -> str:
    """Return a page with a part that is replaced.

    Raises:
        ValueError: The page does not hold the two marks of the part.
    """
    first, last = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, opened, rest = page.partition(first)
    _, closed, after = rest.partition(last)
    if not opened or not closed:
        raise ValueError(f"The page lacks {first} or {last}.")
    return f"{before}{first}\n\n{content}\n\n{last}{after}"


def pages() -> dict[Path, str]:
    """Return every page that holds a part, as it should be."""
    made: dict[Path, str] = {}
    for name, (write, files) in PARTS.items():
        for file in files:
            path = DOCS / file
            page = made.get(path) or path.read_text(encoding="utf-8")
            made[path] = renewed(page, name, write())
    return made


def write() -> None:
    """Renew the parts of all pages."""
    for path, page in pages().items():
        path.write_text(page, encoding="utf-8")
