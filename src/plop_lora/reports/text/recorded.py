"""Names and reasons that plop-lora itself writes into records, in the reader's language.

A record holds them in English. `recorded` finds the English template of such a text and returns the
same in another language. A text without a template, such as a name that the user gave, or what a
later version writes, is shown as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

EN = {
    "recorded.reference.untrained": "untrained model",
    "recorded.reference.majority": "majority class ({label})",
    "recorded.general.bundled": "the bundled general text",
    "recorded.inputs.english": "general English text",
    "recorded.inputs.tokens": "random tokens",
    "recorded.cost.scoring": "scoring",
    "recorded.cost.selectors": "selectors",
    "recorded.cost.rates": "ladder",
    "recorded.cost.confirm": "confirm",
    "recorded.cost.untrained": "untrained model",
    "recorded.cost.tuning.rates": "learning-rate ladder",
    "recorded.cost.tuning.search": "search",
    "recorded.cost.tuning.confirm": "confirmation",
    "recorded.plan.full": (
        "every usual placement ({arms}) × learning-rate ladder ({rates}) × seeds ({seeds})"
    ),
    "recorded.ended.settled": "settled at {seeds} seeds",
    "recorded.ended.open": "open at {seeds} seeds",
    "recorded.ended.unsettled": "at {seeds} seeds: not settled",
    "recorded.ended.failed": "at {seeds} seeds: failed",
    "recorded.ended.reach": "at {seeds} seeds: out of reach with {last}",
    "recorded.ended.unlikely": (
        "at {seeds} seeds: unlikely to be better, and nothing can be confirmed"
    ),
    "recorded.ended.screened": (
        "screened out on the selection rows: at its best rate it learned {gain}, where {shortlist} "
        "learned {best} in trials of the same length"
    ),
    "recorded.item.row": "row {number}",
}
"""The English templates by key; a test compares them with what is written into records."""

JA = {
    "recorded.reference.untrained": "学習前のモデル",
    "recorded.reference.majority": "最頻クラス（{label}）",
    "recorded.general.bundled": "付属",
    "recorded.inputs.english": "一般的な英語のテキスト",
    "recorded.inputs.tokens": "ランダムなトークン",
    "recorded.cost.scoring": "スコアの計算",
    "recorded.cost.selectors": "ほかの選択指標の計算",
    "recorded.cost.rates": "学習率の選択",
    "recorded.cost.confirm": "シードを変えた確認",
    "recorded.cost.untrained": "学習前のモデル",
    "recorded.cost.tuning.rates": "学習率の選択",
    "recorded.cost.tuning.search": "探索",
    "recorded.cost.tuning.confirm": "シードを変えた確認",
    "recorded.plan.full": (
        "通常の配置すべて（{arms} 通り）× 学習率（{rates} 通り）× シード（{seeds} 個）"
    ),
    "recorded.ended.settled": "シード {seeds} 個で決着",
    "recorded.ended.open": "シード {seeds} 個でも未決着",
    "recorded.ended.unsettled": "シード {seeds} 個：未決着",
    "recorded.ended.failed": "シード {seeds} 個：失敗",
    "recorded.ended.reach": "シード {seeds} 個：{last} 個に増やしても決着の見込みなし",
    "recorded.ended.unlikely": "シード {seeds} 個：優れる見込みが低く、確認もできない",
    "recorded.ended.screened": (
        "選択用の行での選抜で除外：最良の学習率での改善は {gain}（同じ長さの試行で {shortlist} は "
        "{best}）"
    ),
    "recorded.item.row": "{number} 行目",
}
"""The Japanese texts by key."""
LONGEST = 300
"""The most characters of a text that is compared; a longer one is none of these."""


def recorded(what: str, value: str, table: Mapping[str, str]) -> str:
    """Return a text of a record in the language of a table; one without a template as it is.

    Args:
        what: What the text is in the record, the second word of its keys.
        value: The text.
        table: The texts of the language by key.
    """
    for key, pattern in _PATTERNS.items() if len(value) <= LONGEST else ():
        if key.startswith(f"recorded.{what}.") and (found := pattern.fullmatch(value)):
            return table[key].format(**found.groupdict())
    return value


def _pattern(template: str) -> re.Pattern[str]:
    # A value has no parentheses, so that it ends where the template goes on.
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^()]+)", re.escape(template)))


_PATTERNS = {key: _pattern(template) for key, template in EN.items()}
