"""One loaded model answers for adapter and base, batch by batch. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from peft import PeftModel

from plop_lora.errors import AdapterError, MachineError
from plop_lora.evaluation.generation import by_length
from plop_lora.evaluation.judged import Prepared, Row
from plop_lora.gating.adapter import Judged
from plop_lora.gating.check import Check
from plop_lora.gating.evidence import Evidence, Line
from plop_lora.gating.items import Items
from plop_lora.models.loading import quietly
from plop_lora.models.memory import is_out_of_memory
from plop_lora.recipe import GateRecipe
from plop_lora.training.base import load_base
from plop_lora.training.task import Task


def load_judged(judged: Judged, task: Task, recipe: GateRecipe) -> Prepared:
    """Return the base with the adapter on it, which can be switched off.

    Raises:
        AdapterError: PEFT cannot load the adapter on this base.
        ModelError: The base cannot be loaded.
    """
    with quietly():
        base = load_base(
            task, judged.base.name, revision=judged.base.revision, settings=recipe.training
        )
    try:
        with quietly():
            model = PeftModel.from_pretrained(base.model, str(judged.folder))
    except (ValueError, RuntimeError, KeyError) as error:
        if is_out_of_memory(error):
            raise MachineError(_MEMORY) from error
        first = (str(error).strip().splitlines() or ["no message"])[0]
        raise AdapterError(
            f"PEFT cannot load {judged.folder} on {judged.base.name}: {first} Give the base that "
            "it was trained on with --base."
        ) from error
    return Prepared(model.eval(), base.tokenizer, base.notes)


def measure(
    check: Check,
    recipe: GateRecipe,
    prepared: Prepared,
    items: Items,
    evidence: Evidence,
    *,
    repeats: bool,
    told: Callable[[], None],
) -> None:
    """Add the values of all items that the evidence lacks, a batch at a time.

    The batches are the same however often a gate is interrupted, so that the values are too.

    Args:
        check: Check that measures.
        recipe: Recipe of the gate.
        prepared: Base with the adapter on it.
        items: Items of the check.
        evidence: What is known, to which is added.
        repeats: Whether the base is measured a second time, in other batches.
        told: Function that is called after each batch.

    Raises:
        MachineError: A batch does not fit into memory.
        MeasurementError: A loss is not finite.
    """
    for batch in _batches(items, recipe.evaluation.batch_size):
        if all((check.name, index) in evidence.lines for index in batch):
            continue
        rows = [items.rows[index] for index in batch]
        try:
            base, adapter, again = _sides(check, recipe, prepared, rows, repeats=repeats)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise MachineError(_MEMORY) from error
            raise
        evidence.add([
            Line(check.name, index, items.hashes[index], was, now, once_more)
            for index, was, now, once_more in zip(batch, base, adapter, again, strict=True)
        ])  # fmt: skip
        told()


_MEMORY = (
    "A batch does not fit into memory. Give a smaller one with --set evaluation.batch_size=N, and "
    "another path for the evidence, which depends on the batches."
)


def _batches(items: Items, batch_size: int) -> Iterator[list[int]]:
    yield from by_length([len(str(row)) for row in items.rows], batch_size)


def _sides(
    check: Check, recipe: GateRecipe, prepared: Prepared, rows: Sequence[Row], *, repeats: bool
) -> tuple[Sequence[float], Sequence[float], Sequence[float | None]]:
    """Return the values of base, adapter, and the base again in batches of another size."""
    size = len(rows)
    adapter = check.measure(recipe, prepared, rows, size)
    with prepared.model.disable_adapter():
        base = check.measure(recipe, prepared, rows, size)
        if not repeats:
            return base, adapter, [None] * size
        if size > 1:
            return base, adapter, check.measure(recipe, prepared, rows, size // 2)
        twice = check.measure(recipe, prepared, [*rows, *rows], 2)
        return base, adapter, twice[:1]
