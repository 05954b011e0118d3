"""The words of the section of a robustness record, in the reader's language."""

from __future__ import annotations

EN: dict[str, str] = {
    "robustness.title": "Does the choice hold?",
    "robustness.verdict": "Verdict: {verdict}. {advice}",
    "robustness.sample": (
        "The choice of {types} for {name} was made on {sequences} texts ({tokens} tokens) of "
        "{data}, and every variant is compared with it: {forwards} forward passes over the texts "
        "in {time}."
    ),
    "robustness.read": (
        "Unchanged is the share of the resamples of the texts that make the same choice; its "
        "interval is the exact one of counting them, and from {steady} on the choice counts as the "
        "same. Kendall's tau compares the ranking of all types with that on all texts: 1 is the "
        "same order, -1 the reverse. Its 95 % interval is over the resamples."
    ),
    "robustness.tau.title": "Kendall's tau of the ranking under each variant, with 95 % intervals",
    "robustness.tau.alt": (
        "Kendall's tau of the ranking of the types against that on all texts, under {variants} "
        "variants; the line marks 1, the same order."
    ),
    "robustness.judged": "Variants that should not change the choice",
    "robustness.aside": "Fewer texts and unrelated texts, which do not count for the verdict",
    "robustness.left": "Variants that could not be run",
    "robustness.cell": "{value} ({bounds})",
    "robustness.undefined": "undefined",
    "robustness.exchange": "{there} in place of {here}",
    "robustness.apart": "{types}, {margin} NFN apart",
    "robustness.note": "{variant}: {note}",
    "outcome.same": "same",
    "outcome.tie": "tie",
    "outcome.other": "other",
    "outcome.open": "open",
    "outcome.means.tie": (
        "Tie: another choice, or the same one in too few of the resamples, among types that differ "
        "by no more than the tolerance ({margin} NFN)."
    ),
    "outcome.means.other": "Other: another choice, beyond the tolerance ({margin} NFN).",
    "outcome.means.open": "Open: the same choice, which fewer than {steady} of the resamples make.",
    "holding.holds": "holds",
    "holding.holds up to ties": "holds up to ties",
    "holding.changes": "changes",
    "holding.unsettled": "unsettled",
    "fact.robustness": "Choice under variants",
    "fact.robustness.detail": (
        "variants of the texts, weights and checkpoint that should not change it: {variants}; not "
        "run: {left}"
    ),
    "question.robustness": (
        "Does the choice of module types of {name} hold, made on data like {data}?"
    ),
    "answer.robustness.holds": "The choice of {types} holds; no finetune has verified it yet.",
    "answer.robustness.ties": (
        "The choice of {types} holds up to ties; no finetune has verified it yet."
    ),
    "answer.robustness.changes": (
        "The choice of {types} changes under variants that should not change it."
    ),
    "answer.robustness.unsettled": "The texts do not settle the choice of {types}.",
    "warning.robustness.model": (
        "The robustness record is of another model ({other}) than this page ({name})."
    ),
    "warning.robustness.texts": (
        "The robustness record is of other texts ({other}) than the scores on this page ({data})."
    ),
    "warning.robustness.choice": (
        "The robustness record asks about the choice of {other}, and the placement on this page is "
        "on {types}."
    ),
    "column.variant": "variant",
    "column.unchanged": "unchanged",
    "column.tau": "Kendall's tau",
    "column.exchange": "types exchanged",
    "column.reason": "reason",
}
"""The English texts by key."""

JA: dict[str, str] = {
    "robustness.title": "選択は保たれるか",
    "robustness.verdict": "判定：{verdict}。{advice}",
    "robustness.sample": (
        "{name} での {types} という選択は {data} のテキスト {sequences} 件（{tokens} トークン）に"
        "よるもので、各条件をこれと比べた。"
        "テキスト全体の順伝播は {forwards} 回、所要時間は {time}。"
    ),
    "robustness.read": (
        "不変率は、テキストの再標本のうち同じ選択になる割合である。区間は数え上げの正確な区間で、"
        "{steady} 以上なら選択は同じとみなす。ケンドールの τ は、全種類の順位を全テキストでの順位"
        "と比べる値で、1 は同じ順序、-1 は逆の順序を表す。95% 区間は再標本についてのもの。"
    ),
    "robustness.tau.title": "各条件での順位のケンドールの τ と 95% 区間",
    "robustness.tau.alt": (
        "{variants} 条件での、全テキストでの順位に対するケンドールの τ。線は 1（同じ順序）を示す。"
    ),
    "robustness.judged": "選択が変わるべきでない条件",
    "robustness.aside": "テキストを減らした条件と無関係なテキスト（判定には含めない）",
    "robustness.left": "実行できなかった条件",
    "robustness.cell": "{value}（{bounds}）",
    "robustness.undefined": "計算できない",
    "robustness.exchange": "{here} の代わりに {there}",
    "robustness.apart": "{types}（NFN の差 {margin}）",
    "robustness.note": "{variant}：{note}",
    "outcome.same": "同じ",
    "outcome.tie": "同等",
    "outcome.other": "別の選択",
    "outcome.open": "不確定",
    "outcome.means.tie": (
        "同等：別の選択であるか、同じ選択になる再標本が少ないが、"
        "種類の差は許容差（NFN で {margin}）以内である。"
    ),
    "outcome.means.other": "別の選択：種類の差が許容差（NFN で {margin}）を超える。",
    "outcome.means.open": "不確定：選択は同じだが、再標本での割合が {steady} に満たない。",
    "holding.holds": "保たれる",
    "holding.holds up to ties": "同等の範囲で保たれる",
    "holding.changes": "変わる",
    "holding.unsettled": "定まらない",
    "fact.robustness": "条件を変えたときの選択",
    "fact.robustness.detail": (
        "選択が変わるべきでない条件（テキスト、重み、チェックポイント）：{variants} 件。"
        "実行できなかった条件：{left} 件"
    ),
    "question.robustness": (
        "{data} のようなデータによる {name} のモジュール種類の選択は、条件を変えても保たれるか。"
    ),
    "answer.robustness.holds": (
        "{types} という選択は保たれる。ファインチューニングによる検証はまだ行われていない。"
    ),
    "answer.robustness.ties": (
        "{types} という選択は同等の範囲で保たれる。"
        "ファインチューニングによる検証はまだ行われていない。"
    ),
    "answer.robustness.changes": "{types} という選択は、変わるべきでない条件で変わる。",
    "answer.robustness.unsettled": "これらのテキストでは {types} という選択は定まらない。",
    "warning.robustness.model": (
        "頑健性の記録は、このページのモデル（{name}）とは別のモデル（{other}）のものである。"
    ),
    "warning.robustness.texts": (
        "頑健性の記録は、このページのスコア（{data}）とは別のテキスト（{other}）のものである。"
    ),
    "warning.robustness.choice": (
        "頑健性の記録は {other} という選択についてのもので、このページの配置は {types} である。"
    ),
    "column.variant": "条件",
    "column.unchanged": "不変率",
    "column.tau": "ケンドールの τ",
    "column.exchange": "入れ替わった種類",
    "column.reason": "理由",
}
"""The Japanese texts by key."""
