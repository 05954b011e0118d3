"""The words of a report in Japanese, under the same keys as in the other language."""

TEXT: dict[str, str] = {
    "list.separator": "、",
    "percent": "{number} %",
    "interval": "{low}～{high}",
    "seconds": "{number} 秒",
    "minutes": "{minutes} 分 {seconds} 秒",
    "hours": "{hours} 時間 {minutes} 分",
    "failed": "失敗",
    "untrained": "学習なし",
    "undecided": "判定不能",
    "word.decided": "確定",
    "word.undecided, score more data": "未確定（データを追加）",
    "word.tie": "同等",
    "word.not decided by scores": "スコアによらない選択",
    "word.confirmed": "確認済み",
    "word.beaten": "劣る",
    "word.cannot separate": "判別できない",
    "word.shortlist": "推奨配置",
    "word.non-inferior": "非劣性",
    "word.better than shortlist": "推奨配置より良い",
    "word.worse": "悪い",
    "word.failed": "失敗",
    "word.not settled": "未決着",
    "word.screened out": "選抜で除外",
    "word.improved": "改善",
    "word.default stands": "既定値を維持",
    "word.unconfirmed": "未確認",
    "word.reference": "基準",
    "word.better than base": "ベースより良い",
    "word.worse than base": "ベースより悪い",
    "word.done": "完了",
    "word.reused": "以前の結果を使用",
    "word.open": "未実行",
    "word.partly done": "途中",
    "word.gate failed": "ゲート不合格",
    "word.undecided": "未決定",
    "word.better": "良い",
    "word.not worse": "悪くない",
    "word.pass": "合格",
    "word.fail": "不合格",
    "word.not enough data": "データ不足",
    "word.harm": "有害",
    "word.void": "無効",
    "word.guardrail": "ガードレール",
    "word.primary": "主要指標",
    "word.other": "その他",
    "word.sequential": "逐次",
    "word.fixed": "固定",
    "word.ship": "採用",
    "word.stop": "中止",
    "word.continue": "継続",
    "word.sample ratio mismatch": "割り付け比率の不一致",
    "word.no improvement shown": "改善が示されない",
    "word.not decided yet": "未決定",
    "tone.good": "良好",
    "tone.bad": "問題あり",
    "tone.open": "未解決",
    "tone.plain": "参考",
    "page.title": "{name} の LoRA 配置",
    "page.title.plain": "LoRA レポート",
    "page.facts": "要点",
    "page.contents": "目次",
    "page.data": "この図のデータ",
    "page.notes": "記録に含まれる注記（英語）",
    "page.downloads": "ダウンロード",
    "page.commands": "コマンド",
    "page.table": "表：{caption}",
    "page.static": "図の表示には JavaScript が必要である。どの図にも同じ内容の表が付いている。",
    "page.made": "plop-lora {version} で作成。このページはネットワークから何も読み込まない。",
    "warning.stranger": "記録 {kind} は、このページのスコアから作られたものではない。",
    "question.task": (
        "タスク {task}（評価指標 {metric}）のために、{name} のどこに LoRA アダプターを置くべきか。"
    ),
    "question.data": (
        "{data} のようなデータのために、{name} のどこに LoRA アダプターを置くべきか。"
    ),
    "question.model": "{name} のどこに LoRA アダプターを置くべきか。",
    "question.gate": "アダプター {adapter} を出荷してよいか。",
    "question.finetune": (
        "タスク {task}（評価指標 {metric}）で、{name} のアダプターはベースより良いか。"
    ),
    "question.experiment": "実験 {name} は何を示しているか。",
    "answer.gated": "{gate}{answer}",
    "answer.placement": (
        "アダプターは {types} に置く。ファインチューニングによる検証はまだ行われていない。"
    ),
    "answer.scores": "スコアが最も低いのは {types}。配置はまだ作られていない。",
    "answer.confirmed": (
        "アダプターは {types} に置く。小規模なファインチューニングにより、許容差を超"
        "えて優れる対抗案はないと確認された。"
    ),
    "answer.open": (
        "{types} への配置は、確認も否定もされていない。これらのファインチューニングで"
        "は対抗案と判別できない。"
    ),
    "answer.finetune.improved": (
        "学習に使っていない行では、{metric} でアダプターがベースより良い。"
        "このページにはゲートの判定がない。"
    ),
    "answer.finetune.worse": ("学習に使っていない行では、{metric} でアダプターがベースより悪い。"),
    "answer.finetune.inconclusive": (
        "学習に使っていない行では、{metric} でアダプターとベースの差を確認できない。"
    ),
    "answer.run": "この実行の答えはまだ出ていない。",
    "answer.ship": "実験群 {arm} を採用する。",
    "answer.stop": "実験を中止する。採用できる実験群はない。",
    "answer.continue": "実験を継続する。まだ決まっていない。",
    "fact.scores": "スコアによる選択",
    "fact.verified": "ファインチューニングによる検証",
    "fact.quick": "動作確認のみ。どの配置が優れるかは示さない",
    "fact.rivals": "パラメーター数の等しい対抗案 {rivals} 件と、{rows} 行で比較",
    "fact.chance": "無作為に選んだ種類との比較",
    "fact.chance.value": "差は示されていない",
    "fact.chance.detail": "許容差の範囲で同等であり、これらの行では置く場所の影響は小さい",
    "fact.gain": "最良の対抗案 {rival} に対する優位",
    "fact.between": "信頼限界は {bounds}。0 を超えれば推奨配置が良い",
    "fact.before": "ファインチューニングの前後",
    "fact.before.detail": "{metric}：{name}と推奨配置",
    "fact.size": "アダプターの大きさ",
    "fact.share": "学習可能パラメーター（モデル全体の {share}）",
    "fact.gate": "ゲート判定",
    "fact.experiment": "A/B 実験",
    "fact.cost": "実測コスト",
    "fact.cost.scores": "スコア計算のみ（順伝播のみ）",
    "fact.cost.detail": "{device} での試行 {trials} 回のデバイス時間。費用：{money}",
    "fact.search": "全探索の推定コスト",
    "fact.search.detail": "実行していない試行 {trials} 回分の推定。費用：{money}",
    "certainty.decided": "選ばれた種類とその他は、区間によって区別できる",
    "certainty.undecided": "これらのテキストでは、選ばれた種類とその他を区別できない",
    "certainty.tie": "許容差を超えて優れる種類はほかにない",
    "certainty.unscored": "種類の選択にスコアは使われていない",
    "group.chosen": "アダプターあり",
    "group.left": "アダプターなし",
    "group.never": "提案の対象外",
    "group.shortlist": "推奨配置",
    "group.rival": "対抗案",
    "group.full": "{arm}（全行）",
    "direction.higher": "高いほど良い",
    "direction.lower": "低いほど良い",
    "scores.title": "スコア",
    "scores.read": (
        "NFN は、重みがデータに示す応答を、同じノルムの雑音に対する応答と比べた値である。"
        "1 に近いほど適応の余地が大きいため、最も低い種類にアダプターを置く（✓ 印）。"
    ),
    "scores.sample": (
        "テキスト {sequences} 件、{tokens} トークン。ブロック内パラメーターの {share} を測定した。"
    ),
    "scores.reference.same": (
        "別の入力（{name}）でも最も低い種類は同じである。この選択はデータよりもモデルの"
        "性質を反映している。"
    ),
    "scores.reference.other": (
        "別の入力（{name}）では最も低い種類が異なる：{types}。この選択はデータに依存している。"
    ),
    "scores.reference.near": (
        "別の入力（{name}）では最も低い種類が異なる：{types}。入れ替わった種類の NFN の差は "
        "{margin} で許容差の範囲内にあり、データの影響とは言えない。"
    ),
    "scores.reference.share": (
        "重み {weights} 個の順位のうち、テキストで説明されるのは {share} である。"
        "上の入力との順位相関は {correlation}（重みについての 95 % 信頼区間：{interval}）。"
    ),
    "scores.map.title": "層とモジュール種類ごとの NFN",
    "scores.map.colour": "NFN（色が強いほど低い）",
    "scores.map.alt": (
        "{layers} 層 × {types} 種類のヒートマップ。平均の低い順に並び、最も低いのは {lowest}。"
    ),
    "scores.ranking.title": "モジュール種類ごとの NFN と 95 % 信頼区間",
    "scores.ranking.alt": "各モジュール種類の平均 NFN。低い順に {order}。",
    "scores.settling.title": "テキストの追加に伴うスコアの収束",
    "scores.settling.alt": "テキスト {first} 件から {last} 件までの各種類の平均 NFN。",
    "placement.title": "配置",
    "placement.table": "選ばれたモジュール種類",
    "placement.sum": (
        "アダプター {adapters} 個、学習可能パラメーター "
        "{parameters}（モデル全体の {share}）。スケーリング係数（B·A に掛ける値）は "
        "{scaling}。"
    ),
    "placement.decided": (
        "選ばれた種類はいずれも、選ばれなかった最も近い種類とデータによって区別できる。"
    ),
    "placement.undecided": (
        "選ばれた種類の一部は、選ばれなかった最も近い種類と区別できない。テキストを増やすと選"
        "択が変わることがある。"
    ),
    "placement.tie": (
        "順序が定まらない箇所でも、選ばれなかった種類が許容差を超えて優れることはない。"
    ),
    "placement.unscored": "この方式はスコアで選択しない。",
    "placement.forced": "融合された重みの一部としてのみ適応される：{types}。",
    "explorer.title": "予算を変える",
    "explorer.read": (
        "スライダーを動かすか、学習可能パラメーター数を入力する。ランクは plop place "
        "--budget と同じ規則で決まる。"
    ),
    "explorer.budget": "予算（パラメーター数）",
    "explorer.slider": "予算（最小から最大まで）",
    "explorer.used": "使用：",
    "explorer.small": "使用できる最小の予算：",
    "explorer.whole": "整数を入力する。",
    "explorer.static": "JavaScript がない場合は、予算を指定して次のコマンドを使う：",
    "download.placement": "配置の記録（plop-lora 形式）",
    "download.trainer": "{name} 用。plop export --to {name} はライブラリーとの照合も行う",
    "verification.title": "ファインチューニングによる検証",
    "verification.quick": (
        "これは動作確認である。シード 2 個では動くことしか示せず、どの配置が優れるかは示さない。"
    ),
    "verification.confirmed": (
        "{shortlist} は、パラメーター数が等しい条件で最良であるか、どの対抗案にも"
        " {metric} で {margin} を超えて劣らない。"
    ),
    "verification.beaten": (
        "パラメーター数が等しい条件で、{better} は {shortlist} より "
        "{metric} で {margin} を超えて優れている。"
    ),
    "verification.inconclusive": (
        "これらの試行は、{shortlist} とすべての対抗案の差が {metric} "
        "で {margin} 以内であることも、それを超えて優れる対抗案があることも示してい"
        "ない。"
    ),
    "verification.design": (
        "学習にも選択にも使っていない {rows} 行での "
        "{metric}（{direction}）。各案は最大 {budget} "
        "パラメーター、学習 {train} 行、シード {seeds} 個。"
    ),
    "verification.bounds": (
        "差が 0 を超えれば {shortlist} が良い。上下の信頼限界がともに "
        "-{margin} を下回れば対抗案が良く、ともに上回れば {shortlist} "
        "は劣らない。"
    ),
    "verification.predictive": (
        "{arms} 案での NFN と結果の相関：スピアマンの順位相関 {rho}。0 "
        "未満なら NFN が低いほど結果が良い。"
    ),
    "verification.forest.title": "各対抗案との差（0 を超えれば {shortlist} が良い）",
    "verification.forest.alt": "{arms} との差とその信頼限界。破線は許容差 -{margin}。",
    "verification.seeds.title": "各案の全シードの結果と、決着の時点",
    "verification.seeds.alt": "{arms} 案の {metric}。点はシードごとの値。",
    "verification.rates.title": "試した学習率",
    "verification.rates.alt": (
        "選択用の行での学習率ごとの {metric}（{lines} 本）。全行での試行は別に示す。"
    ),
    "verification.arms": "各案の結果と、ファインチューニングなしの結果",
    "verification.forgetting": "一般テキスト（{source}）での損失の増加（nat/トークン）",
    "curves.title": "学習曲線：ステップごとの{quantity}（シードごとに 1 本の線）",
    "curves.alt": "{arms} のステップごとの{quantity}。案ごとに図を分けている。",
    "curves.none": "この記録に学習曲線はない。以前のバージョンでは記録していなかった。",
    "curves.training": "学習中の{quantity}",
    "curves.selection": "選択用の行での損失",
    "curves.final.title": "学習曲線",
    "curves.final.alt": "全 {steps} ステップの損失を {points} 点で示す。",
    "quantity.loss": "損失",
    "quantity.reward": "報酬",
    "tuning.title": "チューニング",
    "tuning.improved": "{chosen} は既定値 {default} より良い。",
    "tuning.stands": "既定値 {default} より良いと示された候補はない。",
    "tuning.inconclusive": "これらの試行では、候補と既定値 {default} の優劣は決まらない。",
    "tuning.unconfirmed": (
        "{chosen} は探索で最良だったが、新しいシードによる確認は行われていない。"
    ),
    "tuning.design": (
        "探索の提案 {trials} 件（評価指標 {metric}、最大 "
        "{budget} パラメーター）。確認は別の {rows} 行で評価した。"
    ),
    "tuning.search.title": "探索の経過",
    "tuning.search.alt": "試行 {trials} 件の {metric}（実行順、配置別）。",
    "tuning.confirmation.title": "既定値 {default} に対する優位",
    "tuning.confirmation.alt": "既定値に対する候補 {candidates} 件の優位と同時 95 % 信頼区間。",
    "tuning.candidates": "新しいシードでの候補の結果（{metric}）",
    "gate.title": "{adapter} のゲート判定",
    "gate.pass": "アダプターは出荷できる。検査 {total} 件すべてに合格した。",
    "gate.fail": "アダプターは出荷できない。検査 {total} 件のうち合格していないもの：{checks}。",
    "gate.open": (
        "判定に必要なデータが足りない。検査 {total} 件のうち合格していないもの：{checks}。"
    ),
    "gate.against": "同じ項目で {base} と比較した。信頼限界は片側。",
    "gate.evidence": "全項目の値と、回答があるものはその回答が {path} にある。",
    "gate.answers": (
        "下の項目への回答は省略している。plop report --answers を指定すると表示される。"
    ),
    "gate.unkept": "この判定の証拠ファイルは保存されていないため、回答は分からない。",
    "gate.worst": "検査 {check}{part} で最も悪化した項目",
    "gate.empty": "（文字なし）",
    "gate.checks": "検査",
    "gate.parts": "検査 {check} の内訳",
    "walk.title": "学習のチェックポイント",
    "walk.read": "チェックポイント {total} 件のうち {gated} 件を、最後のものから順に判定した。",
    "finetune.title": "出荷するアダプター",
    "finetune.line": (
        "パラメーター {parameters}、学習率 {rate}、{planned} ステップ中 {steps} ステップ、"
        "訓練データ {rows} 行。"
    ),
    "finetune.best": "アダプターは、選択用の行で最良だったステップ {step} のものである。",
    "finetune.outcomes": "評価データでのベースとアダプター",
    "run.title": "実行の各段階",
    "run.line": "{stages} 段階、合計 {time}。",
    "run.waiting": "この実行は待機中：{what}。",
    "run.stages": "段階",
    "analysis.title": "実験 {name}",
    "analysis.units": "計画 {planned} 単位のうち {units} 単位。デザイン：{design}。",
    "analysis.metric": "対照群に対する {metric} の差（{direction}）",
    "analysis.alt": "対照群に対する {metric} の差と区間：{arms}。",
    "analysis.course": "これまでの各時点での {metric}（信頼列つき）",
    "analysis.course.alt": "対照群に対する {metric} の差と区間の推移（{looks} 時点）。",
    "analysis.comparisons": "すべての比較",
    "analysis.decisions": "各実験群の扱い",
    "analysis.split": "実験群ごとの単位数（割り付け比率に一致）",
    "analysis.mismatch": "実験群ごとの単位数（割り付け比率に一致せず、結果は無効）",
    "study.title": "本プロジェクトの調査で分かったこと",
    "study.about": (
        "本プロジェクトの調査では、ネットワークとタスクの組 {pairs} 件"
        "（ネットワークは {networks} 種類）で、"
        "モジュール種類を一つずつ単独で学習し、種類を選ぶ各規則による配置も学習した。"
    ),
    "study.nearest": (
        "このモデルに最も近いのは同じ系統（{architecture}）の {network} である。"
        "パラメーター数は {size}、このモデルは {own} である。"
        "規模が違うときに同じことが言えるかは分からない。"
    ),
    "study.nearest.unsized": (
        "このモデルに最も近いのは同じ系統（{architecture}）の {network} である。"
        "パラメーター数は {size}、このモデルの規模は分からない。"
    ),
    "study.none": (
        "このモデル（{architecture}）に似たネットワークは調査にない。"
        "調査したのは {networks} であり、その結果がここで成り立つとは限らない。"
    ),
    "study.pooled": (
        "全 {pairs} 件で、スコアと改善量の順位相関の平均は {rho}（95 % 信頼区間 {bounds}）である。"
        "0 を下回れば、スコアの低い種類ほど改善が大きい。"
    ),
    "study.unbounded": "ネットワークが 1 種類のため不明",
    "study.open": (
        "区間が 0 を含むため、スコアが改善量を予測するとはまだ示されていない。"
        "配置を採用する前に検証が必要である。"
    ),
    "study.shown": "区間は 0 を含まない。",
    "study.regret": (
        "規則のリグレットは、最良の種類を単独で学習したときの改善のうち、規則が取り逃がす割合で"
        "ある。0 を下回れば、その種類より改善が大きい。"
    ),
    "study.pairs": "{network} の組",
    "cost.title": "コスト（{device}）",
    "cost.total": "実測の合計",
    "cost.search": "未実行：{plan}",
    "provenance.title": "来歴",
    "provenance.read": (
        "以下のコマンドは記録に残っている範囲で再現したもの。パスは記録を作成したマシンのもの。"
    ),
    "provenance.records": "このページに示した記録",
    "provenance.conditions": "スコアの作成条件",
    "made.model": "モデル",
    "made.revision": "リビジョン",
    "made.architecture": "アーキテクチャ",
    "made.data": "データ",
    "made.fingerprint": "データのフィンガープリント",
    "made.dtype": "データ型",
    "made.device": "デバイス",
    "made.seed": "シード",
    "made.denominator": "分母",
    "made.created": "作成日時",
    "made.elapsed": "所要時間",
}
"""Key → text, with placeholders in braces."""
