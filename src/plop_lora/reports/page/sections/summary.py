"""The first screen: what was asked, the answer, how sure it is, what it gains, and what it cost."""

from __future__ import annotations

from dataclasses import replace

from plop_lora.records import ArmResult, CostLedger, Placement, Verification
from plop_lora.records.finetune import FinetuneVerdict
from plop_lora.records.gate import FAIL
from plop_lora.records.placement import GapVerdict
from plop_lora.records.robustness import Holding
from plop_lora.records.tuning import TuningVerdict
from plop_lora.records.verification import ArmVerdict, Verdict
from plop_lora.reports.page.blocks import Fact, Tone
from plop_lora.reports.page.reading import Held
from plop_lora.reports.page.sections.costs import money
from plop_lora.reports.page.sections.gate import TONES as GATE_TONES
from plop_lora.reports.page.sections.gate import gate_sentence
from plop_lora.reports.page.sections.placement import share_of_model
from plop_lora.reports.page.sections.robustness import mismatches
from plop_lora.reports.page.sections.tuning import tuning_sentence
from plop_lora.reports.page.sections.verification import verdict_sentence
from plop_lora.reports.proof import random_does_as_well
from plop_lora.reports.rows import short_name
from plop_lora.reports.text import Text, number

_TONES: dict[object, Tone] = {
    Verdict.CONFIRMED: Tone.GOOD,
    Verdict.BEATEN: Tone.BAD,
    Verdict.INCONCLUSIVE: Tone.OPEN,
    TuningVerdict.IMPROVED: Tone.GOOD,
    TuningVerdict.STANDS: Tone.GOOD,
    TuningVerdict.INCONCLUSIVE: Tone.OPEN,
    TuningVerdict.UNCONFIRMED: Tone.OPEN,
    FinetuneVerdict.IMPROVED: Tone.GOOD,
    FinetuneVerdict.WORSE: Tone.BAD,
    FinetuneVerdict.INCONCLUSIVE: Tone.OPEN,
    GapVerdict.DECIDED: Tone.GOOD,
    GapVerdict.TIE: Tone.GOOD,
    GapVerdict.UNDECIDED: Tone.OPEN,
    GapVerdict.UNSCORED: Tone.PLAIN,
    Holding.HOLDS: Tone.GOOD,
    Holding.TIES: Tone.GOOD,
    Holding.CHANGES: Tone.BAD,
    Holding.UNSETTLED: Tone.OPEN,
}


def model_of(found: Held) -> str:
    """Return the name of the model, empty where no record names one."""
    if found.model is not None:
        return found.model.name
    if found.shown_gates:
        return found.shown_gates[0].base
    return "" if found.run is None else found.run.model


def question_of(found: Held, words: Text) -> str:
    """Return what was asked, as far as the records say."""
    name, proof = short_name(model_of(found)), found.verification or found.tuning
    if proof is not None:
        return words("question.task", name=name, task=proof.task, metric=proof.metric)
    if found.scores is not None:
        return words("question.data", name=name, data=short_name(found.scores.provenance.data))
    if found.placement is not None:
        return words("question.model", name=name)
    if found.shown_gates:
        return words("question.gate", adapter=short_name(found.shown_gates[0].adapter))
    if found.finetune is not None:
        return words(
            "question.finetune",
            name=name,
            task=found.finetune.task,
            metric=found.finetune.criterion,
        )
    if found.analysis is not None:
        return words("question.experiment", name=found.analysis.experiment)
    if found.robustness is not None:
        return words("question.robustness", name=name, data=short_name(found.robustness.data))
    return words("question.model", name=name)


def answer_of(found: Held, words: Text) -> tuple[str, Tone]:
    """Return the answer of the record that knows most, and its tone; a failed gate comes first."""
    answer, tone = _placed(found, words)
    failed = next((one for one in found.shown_gates if one.verdict is FAIL), None)
    if failed is None or not (found.scores or found.shown_placement):
        return answer, tone
    return words("answer.gated", gate=gate_sentence(failed, words), answer=answer), Tone.BAD


def _placed(found: Held, words: Text) -> tuple[str, Tone]:
    """Return what the records say of the placement, or else of what came after it."""
    placement = found.shown_placement
    if found.verification is not None:
        record = found.verification
        return _verified(record, words), _TONES[record.verdict]
    if found.tuning is not None:
        return tuning_sentence(found.tuning, words), _TONES[found.tuning.verdict]
    if placement is not None:
        return words("answer.placement", types=_types(placement, words)), Tone.OPEN
    if found.scores is not None:
        lowest = [row.type for row in found.scores.types if row.eligible][:3]
        return words("answer.scores", types=words.listed(lowest)), Tone.OPEN
    if found.shown_gates:
        verdict = found.shown_gates[0]
        return gate_sentence(verdict, words), GATE_TONES[verdict.verdict]
    if found.finetune is not None:
        made = found.finetune
        key = f"answer.finetune.{made.verdict.name.lower()}"
        return words(key, metric=made.criterion), _TONES[made.verdict]
    if found.analysis is not None:
        winner = found.analysis.winner
        if winner is None:
            return words(f"answer.{found.analysis.action}"), Tone.OPEN
        return words("answer.ship", arm=winner), Tone.GOOD
    if found.robustness is not None:
        held = found.robustness
        key = f"answer.robustness.{held.verdict.name.lower()}"
        return words(key, types=words.listed(list(held.chosen))), _TONES[held.verdict]
    return words("answer.run"), Tone.OPEN


def _verified(record: Verification, words: Text) -> str:
    if record.verdict is Verdict.BEATEN:
        return verdict_sentence(record, words)
    key = "answer.confirmed" if record.verdict is Verdict.CONFIRMED else "answer.open"
    return words(key, types=_types(record.placement, words))


def _types(placement: Placement, words: Text) -> str:
    return words.listed([choice.type for choice in placement.choices])


def facts_of(found: Held, words: Text) -> list[Fact]:
    """Return the facts below the answer; one that no record knows is left out."""
    facts = _certainty(found, words)
    if found.verification is not None:
        facts += _gain(found.verification, words)
    placement = found.shown_placement
    if placement is not None:
        facts.append(
            Fact(
                label=words("fact.size"),
                value=words.count(placement.trainable_parameters),
                detail=words("fact.share", share=share_of_model(placement, words)),
            )
        )
    facts += [
        Fact(
            label=words("fact.gate"),
            value=words.word(verdict.verdict),
            detail=gate_sentence(verdict, words),
            tone=GATE_TONES[verdict.verdict],
        )
        for verdict in found.shown_gates
    ]
    if found.analysis is not None:
        facts.append(
            Fact(
                label=words("fact.experiment"),
                value=words.word(found.analysis.action),
                detail=found.analysis.winner or "",
            )
        )
    return facts + _costs(found, words)


def _certainty(found: Held, words: Text) -> list[Fact]:
    placement, proof = found.shown_placement, found.verification
    facts = []
    if placement is not None:
        facts.append(
            Fact(
                label=words("fact.scores"),
                value=words.word(placement.verdict),
                detail=words(f"certainty.{placement.verdict.name.lower()}"),
                tone=_TONES[placement.verdict],
            )
        )
    facts += _held(found, words)
    if proof is not None:
        facts.append(
            Fact(
                label=words("fact.verified"),
                value=words.word(proof.verdict),
                detail=words("fact.quick")
                if proof.quick
                else words("fact.rivals", rivals=len(proof.arms) - 1, rows=proof.report_rows),
                tone=Tone.OPEN if proof.quick else _TONES[proof.verdict],
            )
        )
        if random_does_as_well(proof):
            facts.append(
                Fact(
                    label=words("fact.chance"),
                    value=words("fact.chance.value"),
                    detail=words("fact.chance.detail"),
                    tone=Tone.OPEN,
                )
            )
    return facts


def _held(found: Held, words: Text) -> list[Fact]:
    """Return whether the choice holds, unless it was asked of another choice than the page's."""
    record = found.robustness
    if record is None or mismatches(found, words):
        return []
    return [
        Fact(
            label=words("fact.robustness"),
            value=words(f"holding.{record.verdict}"),
            detail=words(
                "fact.robustness.detail",
                variants=sum(one.judged for one in record.results),
                left=len(record.left_out),
            ),
            tone=_TONES[record.verdict],
        )
    ]


def _gain(record: Verification, words: Text) -> list[Fact]:
    """Return the difference to the best rival, and what is reached without a finetune."""
    rival = _best_rival(record)
    facts = []
    if rival is not None:
        bounds = words.interval(rival.low, rival.high, digits=4, signed=True)
        facts.append(
            Fact(
                label=words("fact.gain", rival=rival.arm),
                value=f"{number(rival.difference, 4, signed=True)} {record.metric}",
                detail=words("fact.between", bounds=bounds) if bounds else "",
            )
        )
    own = next((arm for arm in record.arms if arm.verdict is ArmVerdict.SHORTLIST), None)
    before = next((one for one in record.references if one.value is not None), None)
    if own is not None and own.mean is not None and before is not None:
        facts.append(
            Fact(
                label=words("fact.before"),
                value=f"{number(before.value)} → {number(own.mean)}",
                detail=words(
                    "fact.before.detail",
                    metric=record.metric,
                    name=words.recorded("reference", before.name),
                ),
            )
        )
    return facts


def _best_rival(record: Verification) -> ArmResult | None:
    rivals = [arm for arm in record.arms if arm.difference is not None and arm.mean is not None]
    return min(rivals, key=lambda arm: arm.difference or 0.0, default=None)


def _costs(found: Held, words: Text) -> list[Fact]:
    """Return what it cost and what a full search would have, from each ledger; else the scoring."""
    ledgers = {
        words(f"{record.kind}.title"): record.cost
        for record in (found.verification, found.tuning)
        if record is not None
    }
    facts = [
        replace(fact, label=f"{fact.label} ({title})") if len(ledgers) > 1 else fact
        for title, ledger in ledgers.items()
        for fact in _cost(ledger, words)
    ]
    if not facts and found.scores is not None:
        seconds = found.scores.provenance.elapsed_seconds
        facts.append(Fact(label=words("fact.cost"), value=words.duration(seconds),
                          detail=words("fact.cost.scores")))  # fmt: skip
    return facts


def _cost(ledger: CostLedger, words: Text) -> list[Fact]:
    facts = [
        Fact(
            label=words("fact.cost"),
            value=words.duration(ledger.total.device_seconds),
            detail=words(
                "fact.cost.detail", trials=words.count(ledger.total.trials), device=ledger.device,
                money=money(ledger.total.money, ledger, words),
            ),
        )
    ]  # fmt: skip
    if ledger.search is not None:
        facts.append(
            Fact(
                label=words("fact.search"),
                value=words.duration(ledger.search.device_seconds),
                detail=words(
                    "fact.search.detail", trials=words.count(ledger.search.trials),
                    money=money(ledger.search.money, ledger, words),
                ),
            )
        )  # fmt: skip
    return facts
