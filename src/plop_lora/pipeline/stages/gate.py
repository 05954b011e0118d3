"""The stage `gate`: whether the adapter may ship."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from plop_lora.pipeline.asked import RunRecipe
from plop_lora.pipeline.reading import EVAL, code_of, content, general_content
from plop_lora.pipeline.stage import Stage, Work
from plop_lora.pipeline.stages.adapter import adapter_in
from plop_lora.recipe import GateRecipe
from plop_lora.records import CheckVerdict, GateVerdict
from plop_lora.records.run import CONFIRMED, GATE_FAILED, UNDECIDED, RunVerdict, StageOutcome
from plop_lora.reports.brief import brief

RESULT, EVIDENCE = "verdict.json", "verdict.evidence.jsonl"
_SAYS: Mapping[CheckVerdict, RunVerdict] = {
    CheckVerdict.PASS: CONFIRMED, CheckVerdict.FAIL: GATE_FAILED,
    CheckVerdict.NOT_ENOUGH_DATA: UNDECIDED,
}  # fmt: skip


def _recipe(recipe: RunRecipe, rows: Path | None) -> GateRecipe:
    return recipe.section(GateRecipe, eval=str((rows or Path()) / EVAL))


def _deciding(recipe: RunRecipe) -> Mapping[str, object]:
    from plop_lora.gating.checks import find_checks

    asked = _recipe(recipe, None)
    find_checks(asked)  # names that are wrong are told before anything is trained
    return asked.model_dump(mode="json", exclude={"eval"})


def _inputs(recipe: RunRecipe) -> Mapping[str, str | None]:
    """Return the content of every file that the checks read beside the evaluation rows."""
    asked = _recipe(recipe, None)
    functions = (asked.evaluation.metric, *asked.training.rewards)
    files = _named_files(asked.gate.model_dump(mode="json"))
    return {
        "general text": general_content(asked.general),
        **{name: content(name) for name in files},
        **code_of((*functions, *(check.function for check in asked.gate.own))),
    }


def _named_files(value: object) -> list[str]:
    """Return every text of a section that is the path of a file."""
    if isinstance(value, dict):
        return [name for part in value.values() for name in _named_files(part)]
    if isinstance(value, list):
        return [name for part in value for name in _named_files(part)]
    return [value] if isinstance(value, str) and value and Path(value).is_file() else []


def _work(work: Work) -> None:
    from plop_lora.gating import gate

    verdict = gate(
        adapter_in(work),
        _recipe(work.recipe, work.made["acquire"]),
        evidence=work.folder / EVIDENCE,
    )
    verdict.save(work.folder / RESULT)


def _outcome(folder: Path) -> StageOutcome:
    verdict = GateVerdict.load(folder / RESULT)
    return StageOutcome(words=brief(verdict), verdict=_SAYS[verdict.verdict])


GATE = Stage(
    name="gate",
    version=1,
    needs=("acquire", "finetune"),
    deciding=_deciding,
    inputs=_inputs,
    work=_work,
    outcome=_outcome,
    result=RESULT,
)
