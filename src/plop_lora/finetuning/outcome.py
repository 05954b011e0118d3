"""From the finished trials to the record: the adapter against the base, row by row. No torch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from plop_lora._version import __version__
from plop_lora.cost import ledger
from plop_lora.errors import MeasurementError
from plop_lora.finetuning.opening import BASE, Opened
from plop_lora.gating.adapter import adapter_digest
from plop_lora.records import Finetune, HeldOut, TrialResult
from plop_lora.records.finetune import IMPROVED, INCONCLUSIVE, WORSE, FinetuneVerdict
from plop_lora.records.trial import FINAL, GENERAL_LOSS, higher_is_better
from plop_lora.statistics.estimates import mean_estimate, paired_difference
from plop_lora.training.checkpoints import find_last
from plop_lora.training.folder import ADAPTER, CHECKPOINTS


def conclude(
    opened: Opened, base: TrialResult, final: TrialResult, notes: tuple[str, ...]
) -> Finetune:
    """Return the record of a finetune whose trials are finished.

    Raises:
        MeasurementError: One of them failed. The text says what is kept.
    """
    study = opened.study
    _demand(opened, base, final)
    outcomes = held_out(base, final, study.task.criterion_of(study.evaluation), study.metric)
    splits = study.splits
    return Finetune(
        model=study.scored.model,
        task=study.task.name,
        criterion=outcomes[0].metric,
        verdict=verdict_of(outcomes[0], nothing_learned=bool(final.nothing_learned)),
        choice=opened.choice,
        placement=opened.chosen.placement,
        seed=opened.seed,
        train_rows=len(splits.train),
        selection_rows=len(splits.selection),
        report_rows=len(splits.report),
        steps=final.steps,
        planned_steps=opened.passes.steps,
        best_step=final.best_step,
        outcomes=outcomes,
        adapter_digest=adapter_digest(study.folder / ADAPTER),
        cost=ledger({BASE: [base], FINAL: [final]}, study.price.hourly, study.price.currency),
        versions=final.versions,
        plop_version=__version__,
        nothing_learned=final.nothing_learned,
        notes=tuple(dict.fromkeys((*splits.notes, *notes, *final.notes))),
        curve=final.curve,
    )


def _demand(opened: Opened, base: TrialResult, final: TrialResult) -> None:
    folder = opened.study.folder
    if not base.done:
        raise MeasurementError(
            f"The base model could not be evaluated, so that nothing was trained: "
            f"{(base.cause or '').rstrip('.')}. Mend it and run the same command again."
        )
    if final.done:
        return
    last = find_last(folder / CHECKPOINTS).last
    kept = f"The last good checkpoint is {last}." if last else "There is no checkpoint yet."
    if final.mendable:
        raise MeasurementError(
            f"The training was stopped by the machine: {(final.cause or '').rstrip('.')}. {kept} "
            "Run the same command again to resume."
        )
    raise MeasurementError(
        f"The training failed: {(final.cause or '').rstrip('.')}. {kept} Train in another folder "
        f"with a smaller --learning-rate than {final.learning_rate:g}, or gate the checkpoints "
        f"with plop gate --checkpoints {folder / CHECKPOINTS}."
    )


def held_out(
    base: TrialResult, final: TrialResult, criterion: str, metric: str
) -> tuple[HeldOut, ...]:
    """Return every outcome that both have: what decides first, then the metric, then the others.

    Args:
        base: Result of the model without training.
        final: Result of the adapter.
        criterion: Outcome that decides.
        metric: Metric of the recipe.
    """
    shared = base.metrics.keys() & final.metrics.keys()
    order = dict.fromkeys((criterion, metric, *sorted(shared - {GENERAL_LOSS}), GENERAL_LOSS))
    return tuple(_outcome(name, base, final) for name in order if name in shared)


def _outcome(name: str, base: TrialResult, final: TrialResult) -> HeldOut:
    sign = 1.0 if higher_is_better(name) else -1.0
    value = sign * (final.metrics[name] - base.metrics[name])
    low = high = None
    items = _items(name, base.items), _items(name, final.items)
    if items[0].size == items[1].size > 1:
        found = paired_difference(mean_estimate(sign * items[1]), mean_estimate(sign * items[0]))
        low, high = found.low, found.high
    return HeldOut(
        metric=name,
        base=base.metrics[name],
        adapter=final.metrics[name],
        difference=value,
        low=low,
        high=high,
    )


def _items(name: str, items: Mapping[str, tuple[float, ...]]) -> np.ndarray:
    return np.asarray(items.get(name, ()), dtype=np.float64)


def verdict_of(outcome: HeldOut, *, nothing_learned: bool) -> FinetuneVerdict:
    """Return whether the adapter is better than the base by what decides.

    Without an interval nothing can be told apart, nor where the training changed nothing.
    """
    if nothing_learned or outcome.low is None or outcome.high is None:
        return INCONCLUSIVE
    if outcome.low > 0:
        return IMPROVED
    return WORSE if outcome.high < 0 else INCONCLUSIVE
