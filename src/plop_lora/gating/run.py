"""The step `gate`: adapter and recipe → verdict, and what a gate could decide beforehand. No torch.

Everything that can be wrong with adapter, base, data and thresholds is told before a model is
loaded. A gate that decides from a file of evidence loads none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from plop_lora._version import __version__
from plop_lora.errors import DataError, RecordError, UsageError
from plop_lora.gating.adapter import Judged, check_fits, read_judged
from plop_lora.gating.bounds import LEVEL
from plop_lora.gating.check import Check, Rule
from plop_lora.gating.checks import find_checks, gated_task
from plop_lora.gating.decide import after
from plop_lora.gating.evidence import Evidence, Line, Measurement, kept_evidence, read_evidence
from plop_lora.gating.items import Items
from plop_lora.gating.suite import Derived, Suite
from plop_lora.gating.worst_items import with_worst_items
from plop_lora.recipe import GateRecipe
from plop_lora.records import CheckResult, GatePlan, GateVerdict
from plop_lora.statistics import POWER
from plop_lora.training.task import Task


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """One check of a gate with its rule and the items of its suite that it reads."""

    check: Check[Any]
    rule: Rule
    items: Items


@dataclass(frozen=True, slots=True, eq=False)
class _Gate:
    """A gate with everything that is known before a model is loaded."""

    recipe: GateRecipe
    task: Task
    judged: Judged
    reference: Judged | None
    asked: tuple[_Asked, ...]
    suites: Mapping[str, Suite]
    items: Mapping[str, Items]
    measurement: Measurement

    @property
    def hashes(self) -> dict[str, Sequence[str]]:
        return {suite: items.hashes for suite, items in self.items.items()}


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
        watch: Function that is called with the name of the suite, the number of items that are
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
        reference=None if made.reference is None else str(made.reference.folder),
        checks=tuple(one.check.plan(one.check, one.rule, one.items) for one in made.asked),
    )


def _ignore(suite: str, done: int, all_items: int) -> None:
    """Watch nothing."""


# --------------------------------------------------------------------------- before


def _prepare(adapter: str | Path, recipe: GateRecipe) -> _Gate:
    task = gated_task(recipe.task)
    checks = find_checks(recipe)
    rules = [check.rule(recipe, task) for check in checks]
    judged = read_judged(Path(adapter), recipe.gate.base)
    reference = _read_reference(recipe, judged)
    suites = _suites_of(checks)
    items = {name: suite.items(recipe, task) for name, suite in suites.items()}
    asked = tuple(
        _Asked(check, rule, items[check.suite.name].where(check.reads))
        for check, rule in zip(checks, rules, strict=True)
    )
    for one in asked:
        if not one.items.rows:
            raise DataError(
                f"{one.items.source} has no items for the check {one.check.name}, which needs "
                f"{one.check.needs}. Add some, or leave the check out with --checks."
            )
        one.check.fits(one.rule, one.items)
    measurement = _measurement(recipe, task, judged, reference, suites, items)
    return _Gate(recipe, task, judged, reference, asked, suites, items, measurement)


def _suites_of(checks: Sequence[Check[Any]]) -> dict[str, Suite]:
    """Return the suites of checks, each after the one whose answers it reads."""
    found: dict[str, Suite] = {}
    for check in checks:
        measure = check.suite.measure
        if isinstance(measure, Derived) and measure.answers_of is not None:
            found[measure.answers_of.name] = measure.answers_of
        found[check.suite.name] = check.suite
    return found


def _read_reference(recipe: GateRecipe, judged: Judged) -> Judged | None:
    """Read the adapter that takes the place of the base, if one does.

    Raises:
        UsageError: It is of another base, or is the adapter itself.
    """
    if recipe.gate.against is None:
        return None
    base = recipe.gate.base or judged.base.name
    reference = read_judged(Path(recipe.gate.against), base)
    if reference.digest == judged.digest:
        raise UsageError(
            f"{reference.folder} is the adapter that is judged, so that nothing would differ. Give "
            "the folder of another one with --against."
        )
    return reference


def _measurement(
    recipe: GateRecipe,
    task: Task,
    judged: Judged,
    reference: Judged | None,
    suites: Mapping[str, Suite],
    items: Mapping[str, Items],
) -> Measurement:
    """Return what the values depend on; margins and thresholds are not part of it."""
    training, evaluation = recipe.training, recipe.evaluation
    compared = {} if reference is None else {"reference": reference.digest}
    return Measurement(
        adapter=judged.digest,
        # A folder goes by its content, so that a copy of it elsewhere is the same base.
        base="a folder" if judged.base.weights else judged.base.name,
        weights=judged.base.weights or judged.base.revision,
        suites={name: _digest(found.hashes) for name, found in items.items()},
        settings={
            **compared,
            "task": recipe.task,
            "max_length": training.max_length,
            "dtype": training.dtype,
            "device": training.device,
            **{key: value for key, value in asdict(evaluation).items() if key != "metric"},
            "suites": {name: dict(suite.settings(recipe, task)) for name, suite in suites.items()},
        },
    )


def _digest(hashes: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


# --------------------------------------------------------------------------- measuring, deciding


def _measure(made: _Gate, known: Evidence, watch: Callable[[str, int, int], None]) -> None:
    """Measure what the evidence lacks; no model is loaded if none is needed."""
    lacking = [
        suite for name, suite in made.suites.items()
        if known.of(name, len(made.items[name].rows)) is None
    ]  # fmt: skip
    for suite in lacking:
        suite.ready(made.recipe)
    _measure_by_model(
        made, known, [suite for suite in lacking if not isinstance(suite.measure, Derived)], watch
    )
    for suite in lacking:
        if isinstance(suite.measure, Derived):
            _derive(made, known, suite, suite.measure, watch)


def _measure_by_model(
    made: _Gate, known: Evidence, suites: Sequence[Suite], watch: Callable[[str, int, int], None]
) -> None:
    if not suites:
        return
    for judged in filter(None, (made.judged, made.reference)):
        check_fits(judged)
    from plop_lora.gating.measure import load_judged, measure

    prepared = load_judged(made.judged, made.task, made.recipe, made.reference)
    for suite in suites:
        items = made.items[suite.name]

        def told(name: str = suite.name, count: int = len(items.rows)) -> None:
            watch(name, known.count(name), count)

        measure(
            suite, made.recipe, prepared, items, known,
            repeats=suite.repeats(made.recipe, made.task), told=told,
        )  # fmt: skip


def _derive(
    made: _Gate,
    known: Evidence,
    suite: Suite,
    derived: Derived,
    watch: Callable[[str, int, int], None],
) -> None:
    """Add the readings of a suite that needs no model."""
    items, answers = made.items[suite.name], []
    if derived.answers_of is not None:
        source = derived.answers_of.name
        lines = known.of(source, len(made.items[source].rows)) or []
        answers = [(line.base.answer or "", line.adapter.answer or "") for line in lines]
    readings = derived.readings(made.recipe, items.rows, answers)
    known.add([
        Line(suite.name, index, items.hashes[index], base, adapter)
        for index, (base, adapter) in enumerate(readings)
    ])  # fmt: skip
    watch(suite.name, len(items.rows), len(items.rows))


def _verdict(made: _Gate, known: Evidence, evidence: str | None) -> GateVerdict:
    results: dict[str, CheckResult] = {}
    for one in made.asked:
        name = one.check.suite.name
        rows = made.items[name].rows
        lines = known.of(name, len(rows))
        if lines is None:
            raise RecordError(
                f"The evidence {evidence} has {known.count(name)} of {len(rows)} items of the "
                f"suite {name}. Run plop gate without --from and with the same -o to measure the "
                "rest."
            )
        read = [line for line, row in zip(lines, rows, strict=True) if one.check.reads(row)]
        decided = one.check.decide(one.check, one.rule, one.items, read)
        result = with_worst_items(one.check, one.rule, one.items, read, decided)
        before = results.get(one.check.after or "")
        results[one.check.name] = result if before is None else after(before, result)
    return GateVerdict(
        adapter=str(made.judged.folder),
        adapter_digest=made.judged.digest,
        base=made.judged.base.name,
        base_digest=made.judged.base.weights or made.judged.base.revision,
        reference=None if made.reference is None else str(made.reference.folder),
        reference_digest=None if made.reference is None else made.reference.digest,
        task=made.task.name,
        checks=tuple(results.values()),
        measurement=known.measurement.digest,
        evidence=evidence,
        plop_version=__version__,
    )
