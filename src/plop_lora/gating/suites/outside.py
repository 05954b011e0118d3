"""Suites that others keep: tasks of lm-evaluation-harness, and logs of runs made elsewhere.

Imports neither torch nor the harness; what measures imports them when it is called.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from plop_lora.evaluation import lm_eval
from plop_lora.evaluation.judged import Prepared, Row
from plop_lora.evaluation.logs import PairedLog, paired, read_log
from plop_lora.gating.items import Items, item_name, spread_evenly
from plop_lora.gating.suite import Answers, Derived, Reading, Sides, Suite
from plop_lora.recipe import GateRecipe
from plop_lora.recipe.limits import LogPair
from plop_lora.training.task import Task

# --------------------------------------------------------------------------- the harness


def harness_suite(name: str) -> Suite:
    """Return the suite of a task of lm-evaluation-harness, which is run on the loaded model.

    Args:
        name: Name of the task.
    """
    loaded = functools.cache(functools.partial(lm_eval.load_task, name))

    def items(recipe: GateRecipe, task: Task) -> Items:
        rows: list[Row] = [
            {"place": place, "document": document}
            for place, document in enumerate(loaded(recipe.evaluation.include_path).documents)
        ]
        kept = spread_evenly(rows, recipe.gate.harness.most or len(rows))
        return Items.of(
            kept,
            [str(row["document"]) for row in kept],
            f"{lm_eval.PREFIX}{name}",
            names=[f"document {row['place'] + 1}" for row in kept],
        )

    def readings(
        recipe: GateRecipe, prepared: Prepared, rows: Sequence[Row], batch_size: int
    ) -> list[Reading]:
        settings = replace(recipe.evaluation, batch_size=batch_size)
        # The harness takes documents in the order of the task.
        places = sorted(row["place"] for row in rows)
        found = lm_eval.outcomes(settings, prepared, loaded(settings.include_path), places)
        values = dict(zip(places, found, strict=True))
        return [Reading({name: values[row["place"]]}) for row in rows]

    return Suite(
        name=f"{lm_eval.PREFIX}{name}",
        items=items,
        measure=readings,
        repeats=lambda recipe, task: True,
        settings=lambda recipe, task: {"include_path": recipe.evaluation.include_path},
    )


# --------------------------------------------------------------------------- logs


def read_pair(pair: LogPair) -> PairedLog:
    """Read two logs and pair them by sample.

    Raises:
        DataError: A log cannot be read, or the two cannot be compared.
        UsageError: The metric has to be named, is unknown, or has no known direction.
    """
    return paired(
        read_log(Path(pair.base)),
        read_log(Path(pair.adapter)),
        pair.metric,
        higher_is_better=pair.higher_is_better,
    )


def log_suite(pair: LogPair, found: PairedLog) -> Suite:
    """Return the suite of two logs, whose values are known without a model.

    Args:
        pair: What the recipe says of them.
        found: What they hold.
    """
    rows = [
        {"sample": name, "cluster": cluster, "base": base, "adapter": adapter}
        for name, cluster, base, adapter in zip(
            found.names, found.clusters, found.base, found.adapter, strict=True
        )
    ]

    def items(recipe: GateRecipe, task: Task) -> Items:
        source = f"{pair.base} and {pair.adapter}"
        names = [item_name(row["sample"], place) for place, row in enumerate(rows, start=1)]
        return Items.of(rows, [str(row["cluster"]) for row in rows], source, names=names)

    def readings(recipe: GateRecipe, rows: Sequence[Row], answers: Answers) -> list[Sides]:
        return [
            (Reading({found.metric: row["base"]}), Reading({found.metric: row["adapter"]}))
            for row in rows
        ]

    return Suite(name=f"log:{found.task}:{found.metric}", items=items, measure=Derived(readings))
