"""The costs of a placement in the reader's language; in English the texts of the registry."""

from __future__ import annotations

from plop_lora.exports.caveats import CAVEATS, sentence

EN = {f"caveat.{row.name}": sentence(row.text) for row in CAVEATS} | {
    "caveat.source": "{source} ({day})",
    "placement.costs": "What this placement costs in trainers and servers",
    "column.cost": "cost",
    "column.source": "source",
}
"""The English texts by key."""

JA = {
    "caveat.unfused": (
        "Unsloth と Axolotl は {groups} を LoRA カーネルなしで学習する。カーネルを使うには、"
        "これらのすべてにアダプターが必要となる。Unsloth の開発者は q、k、v の場合を約 10 % の"
        "速度低下と見積もっている。"
    ),
    "caveat.dropout": (
        "ドロップアウト {dropout} を指定すると、Unsloth と Axolotl の LoRA カーネルは使われない。"
    ),
    "caveat.kept-inputs": (
        "学習中、アダプターの入力として 1,000 トークンあたり最大 {kept} を保持する。query と value "
        "では {usual} である（16 ビット、勾配チェックポイントなし）。PEFT の計測では、3B の"
        "モデルの MLP で 2.3 GB 多かった。"
    ),
    "caveat.stacked-experts": (
        "PEFT は順伝播のたびに {experts} 個のエキスパートをまとめた重みを複製する。最大のもので "
        "{size}（16 ビット）。"
    ),
    "caveat.several-ranks": (
        "モジュールごとのランクを読み取るのは peft、axolotl、unsloth のみ。ほかの学習ツールは"
        "すべてランク {rank} で学習し、パラメーター数は {share} となる。"
    ),
    "caveat.rank-flag": (
        "vLLM でランク {rank} を使うには --max-lora-rank {flag} が必要。既定値は {default}。"
    ),
    "caveat.rejected-vllm": (
        "vLLM は学習済みアダプターを拒否する。対処法は plop export --serve vllm で表示される。"
    ),
    "caveat.ignored-vllm": (
        "vLLM は学習済みアダプターの一部を警告なしに無視する。対処法は plop export --serve vllm "
        "で表示される。"
    ),
    "caveat.rejected-sglang": (
        "SGLang は学習済みアダプターを拒否する。対処法は plop export --serve sglang で表示される。"
    ),
    "caveat.ignored-sglang": (
        "SGLang は学習済みアダプターの一部を警告なしに無視する。対処法は plop export --serve "
        "sglang で表示される。"
    ),
    "caveat.source": "{source}（{day}）",
    "placement.costs": "学習ツールと推論サーバーで生じるコスト",
    "column.cost": "コスト",
    "column.source": "出典",
}
"""The Japanese texts by key."""
