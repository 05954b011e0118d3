"""The signals that some arms follow, measured once a run on the model as it will be trained.

They are kept in the folder: a gradient norm may differ in its last digit from one process to the
next, and an arm must not get other ranks, and so other trials, when a run goes on.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plop_lora.errors import RecordError
from plop_lora.files import atomic_file
from plop_lora.indicators.signal import Signal, measure_signal
from plop_lora.recipe import VerifyRecipe
from plop_lora.verify.arms import eligible_hosts, signals_for
from plop_lora.verify.plan import SHORTLIST, Study, arm_names, confirm_specs

FILE = "signals.json"
ROWS = 64
"""Training rows that a signal may look at; the shortlist's scores take about as many."""


def measured_arms(recipe: VerifyRecipe) -> tuple[str, ...]:
    """Return the arms of a recipe whose types follow from a signal that has to be measured."""
    return tuple(name for name in arm_names(recipe) if signals_for((name,)))


def measure_signals(study: Study, folder: Path) -> dict[str, Signal]:
    """Return the signals that the arms of a study need, from the folder or from the model.

    Raises:
        ModelError, DataError, MeasurementError: an indicator that cannot read this model or data.
        RecordError: the file in the folder is damaged.
    """
    wanted = signals_for(measured_arms(study.recipe))
    path = folder / FILE
    known = _read(path) if wanted and path.exists() else {}
    missing = [name for name in wanted if name not in known]
    if missing:
        known |= _measured(study, missing)
        with atomic_file(path) as file:
            json.dump({name: dataclasses.asdict(signal) for name, signal in known.items()}, file)
    return {name: known[name] for name in wanted}


def _read(path: Path) -> dict[str, Signal]:
    try:
        document: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {
            name: Signal(**{**fields, "notes": tuple(fields["notes"])})
            for name, fields in document.items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RecordError(
            f"{path} is damaged ({error}). Remove it; the signals are measured anew."
        ) from error


def _measured(study: Study, names: Sequence[str]) -> dict[str, Signal]:
    """Load the model of the task, once for all signals, and let each look at it."""
    from plop_lora.scoring.loading import quietly
    from plop_lora.training.adapters import load_base
    from plop_lora.verify.batches import batches_of

    recipe, splits = study.recipe, study.splits
    (spec, *_) = confirm_specs(study, {SHORTLIST: study.rates[0]})
    with quietly():
        model, tokenizer, *_ = load_base(spec)
    batches = batches_of(
        splits.train[:ROWS],
        tokenizer,
        labels=splits.labels,
        batch_size=recipe.training.batch_size,
        max_length=recipe.training.max_length,
        device=next(model.parameters()).device,
    )
    hosts = eligible_hosts(study.scores)
    return {name: measure_signal(name, model, batches, hosts, rank=recipe.rank) for name in names}
