"""The step `gate`: adapter and recipe → verdict, and what a gate could decide beforehand. No torch.

Everything that can be wrong with adapter, base, data and thresholds is told before a model is
loaded. A gate that decides from a file of evidence loads none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from plop_lora._version import __version__
from plop_lora.errors import RecordError
from plop_lora.gating.adapter import Judged, check_fits, read_judged
from plop_lora.gating.check import Check, Rule
from plop_lora.gating.checks import find_checks, gated_task
from plop_lora.gating.decide import LEVEL
from plop_lora.gating.evidence import Evidence, Measurement, kept_evidence, read_evidence
from plop_lora.gating.items import Items
from plop_lora.recipe import GateRecipe
from plop_lora.records import GatePlan, GateVerdict
from plop_lora.statistics import POWER
from plop_lora.training.task import Task


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """One check of a gate with its rule and its items."""

    check: Check
    rule: Rule
    items: Items


@dataclass(frozen=True, slots=True, eq=False)
class _Gate:
    """A gate with everything that is known before a model is loaded."""

    recipe: GateRecipe
    task: Task
    judged: Judged
    asked: tuple[_Asked, ...]
    measurement: Measurement

    @property
    def hashes(self) -> dict[str, Sequence[str]]:
        return {one.check.name: one.items.hashes for one in self.asked}


def gate(
    adapter: str | Path,
    recipe: GateRecipe | str | Path | None = None,
    *,
    evidence: str | Path | None = None,
    measured: str | Path | None = None,
    watch: Callable[[str, int, int], None] | None = None,
    **settings: object,
) -> GateVerdict:
    """Decide whether a tuned LoRA adapter may ship.

    Adapter and base are answered for by one loaded model, on the same items in the same batches.

    Args:
        adapter: Folder that PEFT's `save_pretrained` wrote.
        recipe: Evaluation rows, checks and margins, or the YAML file that has them.
        evidence: File that receives the values of every item. A gate that was interrupted goes on
            from it. By default nothing is kept.
        measured: File of evidence of an earlier gate, from which to decide without loading a model.
        watch: Function that is called with the name of the check, the number of items that are
            measured and the number of all, after each batch.
        settings: Keys of the recipe, such as `eval="eval.jsonl"`; they take precedence.

    Returns:
        The checks with differences, intervals and verdicts; its `exit_code` is 0 where all pass, 3
        where one fails, 4 where one could not be decided.

    Raises:
        AdapterError: The folder is none of an adapter, or of an adapter of another base.
        DataError: Rows or texts that are missing or cannot be read.
        ModelError: The base cannot be found or loaded.
        RecordError: A file of evidence is damaged or incomplete.
        UsageError: A key or a threshold that cannot work, or evidence of something else.
        OutputError: The evidence cannot be written.
    """
    made = _prepare(adapter, GateRecipe.of(recipe, settings))
    if measured is not None:
        return _verdict(made, read_evidence(Path(measured), made.measurement, made.hashes),
                        str(measured))  # fmt: skip
    path = None if evidence is None else Path(evidence)
    with kept_evidence(path, made.measurement, made.hashes) as known:
        _measure(made, known, watch or _ignore)
        return _verdict(made, known, None if evidence is None else str(evidence))


def plan(
    adapter: str | Path, recipe: GateRecipe | str | Path | None = None, **settings: object
) -> GatePlan:
    """Return what a gate could decide with its numbers of items, without loading a model.

    Args:
        adapter: Folder that PEFT's `save_pretrained` wrote.
        recipe: Recipe of the gate, or its YAML file.
        settings: Keys of the recipe; they take precedence.

    Raises:
        AdapterError: The folder is none of an adapter.
        DataError: Rows or texts that are missing or cannot be read.
        UsageError: A key or a threshold that cannot work.
    """
    made = _prepare(adapter, GateRecipe.of(recipe, settings))
    return GatePlan(
        adapter=str(made.judged.folder),
        base=made.judged.base.name,
        task=made.task.name,
        level=LEVEL,
        power=POWER,
        checks=tuple(one.check.plan(one.check, one.rule, one.items) for one in made.asked),
    )


def _ignore(check: str, done: int, all_items: int) -> None:
    """Watch nothing."""


# --------------------------------------------------------------------------- before


def _prepare(adapter: str | Path, recipe: GateRecipe) -> _Gate:
    task = gated_task(recipe.task)
    checks = find_checks(recipe.gate.checks)
    rules = [check.rule(recipe, task) for check in checks]
    judged = read_judged(Path(adapter), recipe.gate.base)
    asked = tuple(
        _Asked(check, rule, check.items(recipe, task))
        for check, rule in zip(checks, rules, strict=True)
    )
    return _Gate(recipe, task, judged, asked, _measurement(recipe, judged, asked))


def _measurement(recipe: GateRecipe, judged: Judged, asked: Sequence[_Asked]) -> Measurement:
    """Return what the values depend on; margins and thresholds are not part of it."""
    training, evaluation = recipe.training, recipe.evaluation
    return Measurement(
        adapter=judged.digest,
        # A folder goes by its content, so that a copy of it elsewhere is the same base.
        base="a folder" if judged.base.weights else judged.base.name,
        weights=judged.base.weights or judged.base.revision,
        checks={one.check.name: _digest(one.items.hashes) for one in asked},
        settings={
            "task": recipe.task,
            "metrics": [one.rule.metric for one in asked],
            "max_length": training.max_length,
            "dtype": training.dtype,
            "device": training.device,
            "rewards": list(training.rewards),
            **{key: value for key, value in asdict(evaluation).items() if key != "metric"},
        },
    )


def _digest(hashes: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


# --------------------------------------------------------------------------- measuring, deciding


def _measure(made: _Gate, known: Evidence, watch: Callable[[str, int, int], None]) -> None:
    """Measure what the evidence lacks; no model is loaded if it lacks nothing."""
    if all(known.values(name, hashes) is not None for name, hashes in made.hashes.items()):
        return
    check_fits(made.judged)
    from plop_lora.gating.measure import load_judged, measure

    prepared = load_judged(made.judged, made.task, made.recipe)
    for one in made.asked:
        name, count = one.check.name, len(one.items.rows)

        def told(name: str = name, count: int = count) -> None:
            watch(name, sum(check == name for check, _ in known.lines), count)

        measure(
            one.check, made.recipe, prepared, one.items, known,
            repeats=one.check.repeats(one.rule), told=told,
        )  # fmt: skip


def _verdict(made: _Gate, known: Evidence, evidence: str | None) -> GateVerdict:
    results = []
    for one in made.asked:
        values = known.values(one.check.name, one.items.hashes)
        if values is None:
            found = sum(check == one.check.name for check, _ in known.lines)
            raise RecordError(
                f"The evidence {evidence} has {found} of {len(one.items.rows)} items of the check "
                f"{one.check.name}. Run plop gate without --from and with the same -o to measure "
                "the rest."
            )
        results.append(one.check.decide(one.check, one.rule, one.items, values))
    return GateVerdict(
        adapter=str(made.judged.folder),
        adapter_digest=made.judged.digest,
        base=made.judged.base.name,
        base_digest=made.judged.base.weights or made.judged.base.revision,
        task=made.task.name,
        checks=tuple(results),
        measurement=known.measurement.digest,
        evidence=evidence,
        plop_version=__version__,
    )
