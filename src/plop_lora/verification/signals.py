"""The signals that some arms follow, measured once a run on the model as it will be trained.

They are kept in the folder: a gradient norm may differ in its last digit from one process to the
next, and an arm must not get other ranks, and so other trials, when a run goes on.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from plop_lora.errors import RecordError
from plop_lora.files import atomic_file
from plop_lora.indicators.signal import Signal, measure_signal
from plop_lora.study.study import Study
from plop_lora.verification.arms import eligible_hosts, signals_for

FILE = "signals.json"
ROWS = 64
"""Training rows that a signal may look at; the shortlist's scores take about as many."""


def measured_arms(names: Sequence[str]) -> tuple[str, ...]:
    """Return the arms whose types follow from a signal that has to be measured."""
    return tuple(name for name in names if signals_for((name,)))


def measure_on_model(study: Study, names: Sequence[str]) -> dict[str, Signal]:
    """Load the model of the task once and measure every signal on it."""
    from plop_lora.models.loading import quietly
    from plop_lora.training.base import load_base
    from plop_lora.verification.batches import batches_of

    settings, labels = study.training, study.splits.labels
    with quietly():
        model, tokenizer, *_ = load_base(
            study.task, study.model.name, revision=study.model.revision, labels=labels,
            settings=settings, seed=study.seed,
        )  # fmt: skip
    batches = batches_of(
        study.splits.train[:ROWS],
        tokenizer,
        labels=labels,
        batch_size=settings.batch_size,
        max_length=settings.max_length,
        device=next(model.parameters()).device,
    )
    hosts = eligible_hosts(study.scores)
    return {name: measure_signal(name, model, batches, hosts, rank=study.rank) for name in names}


MeasureSignals = Callable[[Study, Sequence[str]], dict[str, Signal]]
"""Signals of a study by the names of their indicators."""


def measure_signals(
    study: Study, names: Sequence[str], *, measure: MeasureSignals = measure_on_model
) -> dict[str, Signal]:
    """Return the signals that arms need, from the folder of the study or from its model.

    Args:
        study: its model, as the task trains it, and its training rows are looked at.
        names: of the arms.
        measure: Measures the signals that the folder lacks.

    Raises:
        ModelError, DataError, MeasurementError: an indicator that cannot read this model or data.
        RecordError: the file in the folder is damaged.
    """
    wanted = signals_for(names)
    path = study.folder / FILE
    known = _read(path) if wanted and path.exists() else {}
    missing = [name for name in wanted if name not in known]
    if missing:
        known |= measure(study, missing)
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
