"""One loaded model answers for both sides, batch by batch. Imports torch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from peft import PeftModel

from plop_lora.errors import MachineError
from plop_lora.evaluation.generation import by_length
from plop_lora.evaluation.judged import Prepared, Row
from plop_lora.gating.adapter import Judged
from plop_lora.gating.evidence import Evidence, Line
from plop_lora.gating.items import Items
from plop_lora.gating.suite import Derived, Measure, Reading, Suite
from plop_lora.models.loading import quietly
from plop_lora.models.memory import is_out_of_memory
from plop_lora.recipe import GateRecipe
from plop_lora.training.adapters import loading_adapter
from plop_lora.training.base import load_base
from plop_lora.training.task import Task

REFERENCE = "reference"
"""The name under which PEFT keeps the adapter that is compared with, if there is one."""


def load_judged(
    judged: Judged, task: Task, recipe: GateRecipe, reference: Judged | None = None
) -> Prepared:
    """Return the base with the adapter on it, which can be switched off.

    Args:
        judged: Adapter and base.
        task: Task of the recipe.
        recipe: Recipe of the gate.
        reference: Another adapter of the same base, to compare with.

    Raises:
        AdapterError: PEFT cannot load an adapter on this base.
        ModelError: The base cannot be loaded.
    """
    with quietly():
        base = load_base(
            task, judged.base.name, revision=judged.base.revision, settings=recipe.training
        )
    with loading_adapter(judged.folder, judged.base.name):
        model = PeftModel.from_pretrained(base.model, str(judged.folder))
    if reference is not None:
        with loading_adapter(reference.folder, judged.base.name):
            model.load_adapter(str(reference.folder), REFERENCE)
    return Prepared(model.eval(), base.tokenizer, base.notes)


def measure(
    suite: Suite,
    recipe: GateRecipe,
    prepared: Prepared,
    items: Items,
    evidence: Evidence,
    *,
    repeats: bool,
    told: Callable[[], None],
) -> None:
    """Add the readings of all items that the evidence lacks, a batch at a time.

    The batches are the same however often a gate is interrupted, so that the values are too.

    Args:
        suite: Suite that measures.
        recipe: Recipe of the gate.
        prepared: Base with the adapter on it.
        items: Items of the suite.
        evidence: What is known, to which is added.
        repeats: Whether the base is measured a second time, in other batches.
        told: Function that is called after each batch.

    Raises:
        DataError: An item is one that this model cannot be measured on.
        MachineError: A batch does not fit into memory.
        MeasurementError: A loss is not finite.
    """
    assert not isinstance(suite.measure, Derived), "what is derived needs no model"
    suite.demands(recipe, prepared, items.rows)
    for batch in _batches(items, recipe.evaluation.batch_size):
        if all((suite.name, index) in evidence.lines for index in batch):
            continue
        rows = [items.rows[index] for index in batch]
        try:
            base, adapter, again = _sides(
                suite.measure, recipe, prepared, rows, repeats=repeats
            )  # fmt: skip
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise MachineError(_MEMORY) from error
            raise
        evidence.add([
            Line(suite.name, index, items.hashes[index], was, now, once_more)
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
    measure: Measure, recipe: GateRecipe, prepared: Prepared, rows: Sequence[Row], *, repeats: bool
) -> tuple[Sequence[Reading], Sequence[Reading], Sequence[Reading | None]]:
    """Return the readings of base, adapter, and the base again in batches of another size."""
    size = len(rows)
    adapter = measure(recipe, prepared, rows, size)
    with _as_reference(prepared):
        base = measure(recipe, prepared, rows, size)
        if not repeats:
            return base, adapter, [None] * size
        if size > 1:
            return base, adapter, measure(recipe, prepared, rows, size // 2)
        twice = measure(recipe, prepared, [*rows, *rows], 2)
        return base, adapter, twice[:1]


@contextlib.contextmanager
def _as_reference(prepared: Prepared) -> Iterator[None]:
    """Let the model answer as what the adapter is compared with."""
    model = prepared.model
    if REFERENCE not in model.peft_config:
        with model.disable_adapter():
            yield
        return
    model.set_adapter(REFERENCE)
    try:
        yield
    finally:
        model.set_adapter("default")
