"""Two logs of one task, paired sample by sample: the base and its adapter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from plop_lora.errors import DataError, UsageError, nearest
from plop_lora.evaluation.logs.log import Log, Sample, listed

LOWER = frozenset(
    {"perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "loss", "brier_score"}
)
"""Metrics that are better when lower wherever they occur."""
HIGHER = frozenset({"acc", "acc_norm", "accuracy", "exact_match", "f1", "mcc", "bleu", "chrf"})
"""Metrics that are better when higher wherever they occur."""
_TOLERANCE = 1e-6
"""Largest relative difference of a reported mean and that of the samples."""

_Key = tuple[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class PairedLog:
    """The values of one metric for the base and for the adapter, in the order of the base's log.

    Attributes:
        task: Name of the task.
        metric: Name of the metric.
        higher_is_better: Direction of the metric.
        names: Name of every sample.
        clusters: Name of the cluster of every sample: those of one document, such as the epochs
            of one sample, are not independent.
        base: Value of every sample for the base.
        adapter: Value of every sample for the adapter.
        notes: What the logs do not tell, as full sentences.
    """

    task: str
    metric: str
    higher_is_better: bool
    names: tuple[str, ...]
    clusters: tuple[str, ...]
    base: tuple[float, ...]
    adapter: tuple[float, ...]
    notes: tuple[str, ...] = ()


def paired(
    base: Log,
    adapter: Log,
    metric: str | None = None,
    *,
    higher_is_better: bool | None = None,
    allow_limited: bool = False,
) -> PairedLog:
    """Pair two logs of one task by sample.

    Args:
        base: Log of the base.
        adapter: Log of the adapter, or of the base with the adapter merged.
        metric: Name of the metric; None takes the only one.
        higher_is_better: Direction of a metric whose direction neither the logs nor its name tell.
        allow_limited: Whether logs of a part of the task are paired, too.

    Raises:
        DataError: The logs are of different tasks or documents, of one model, of one file or of a
            part of the task; samples are absent on one side; or the metric is not one finite
            number for each sample.
        UsageError: The metric has to be named, is unknown, or has an unknown or another direction.
    """
    _check_runs(base, adapter, allow_limited=allow_limited)
    first, second = _by_key(base), _by_key(adapter)
    _check_samples(base, adapter, first, second)
    chosen = _metric(base, adapter, metric)
    for log in (base, adapter):
        _check_mean(log, chosen)
    return PairedLog(
        task=base.task,
        metric=chosen,
        higher_is_better=_direction(base, adapter, chosen, higher_is_better),
        names=tuple(sample.name for sample in first.values()),
        clusters=tuple(sample.document for sample in first.values()),
        base=tuple(sample.values[chosen] for sample in first.values()),
        adapter=tuple(second[key].values[chosen] for key in first),
        notes=tuple(f"{log.path}: {note}" for log in (base, adapter) for note in log.notes),
    )


def _check_runs(base: Log, adapter: Log, *, allow_limited: bool) -> None:
    """Refuse two logs that no comparison of a base with its adapter can come from."""
    both = f"{base.path} and {adapter.path}"
    one_model = _identity(base) == _identity(adapter)
    if base.digest == adapter.digest and (one_model or None in (base.model, adapter.model)):
        raise DataError(
            f"{both} are the same file. Give one log of the base and one of the adapter, and leave "
            "the results file of lm-eval beside each."
        )
    if (base.format, base.task) != (adapter.format, adapter.task):
        raise DataError(
            f"{both} are of different tasks: {base.task!r} of {base.format} and "
            f"{adapter.task!r} of {adapter.format}. Give two logs of one task."
        )
    if one_model and base.model is not None:
        raise DataError(
            f"{both} are of one model, {base.model!r}. Run the suite once with the base and once "
            "with the adapter; a server has to name the two differently."
        )
    for log in (base, adapter):
        if log.limited is not None and not allow_limited:
            raise DataError(
                f"{log.path} is of a part of its task ({log.limited}). Run the whole task, or give "
                "allow_limited=True."
            )


def _identity(log: Log) -> tuple[str | None, Mapping[str, object]]:
    return log.model, log.model_arguments


def _by_key(log: Log) -> Mapping[_Key, Sample]:
    return {(sample.id, sample.epoch): sample for sample in log.samples}


def _check_samples(
    base: Log, adapter: Log, first: Mapping[_Key, Sample], second: Mapping[_Key, Sample]
) -> None:
    """Refuse sides that do not hold the same samples with the same documents and prompts."""
    for log, own, other in ((adapter, second, first), (base, first, second)):
        absent = [sample.name for key, sample in other.items() if key not in own]
        if absent:
            raise DataError(
                f"{log.path} lacks {len(absent)} of the samples of the other log, which has "
                f"{len(other)}: {listed(absent)}. Run both sides on the whole task."
            )
    documents = [s.name for key, s in first.items() if s.document != second[key].document]
    if documents:
        raise DataError(
            f"{len(documents)} samples have another document or target in {adapter.path} than in "
            f"{base.path}: {listed(documents)}. Run both sides on one version of the task."
        )
    prompts = [s.name for key, s in first.items() if s.prompt != second[key].prompt]
    if prompts:
        raise DataError(
            f"{len(prompts)} samples were asked with another prompt in {adapter.path} than in "
            f"{base.path}: {listed(prompts)}. Run both sides with the same few-shot examples, "
            "system instruction and chat template."
        )


def _metric(base: Log, adapter: Log, metric: str | None) -> str:
    """Return the metric to compare, which both logs hold for each sample."""
    every = sorted({*base.metrics, *base.unusable})
    if metric is None and len(every) != 1:
        refused = "".join(f" {name} {reason}." for name, reason in base.unusable.items())
        raise UsageError(
            f"{base.path} has {len(every)} metrics. Name one with metric: "
            f"{_quoted(base.metrics)}.{refused}"
        )
    chosen = every[0] if metric is None else metric
    for log in (base, adapter):
        if chosen in log.unusable:
            raise DataError(
                f"The metric {chosen!r} of {log.path} {log.unusable[chosen]}, so samples cannot be "
                f"compared by it. Metrics that can be used: {_quoted(log.metrics)}."
            )
        if chosen not in log.metrics:
            raise UsageError(
                f"{log.path} has no metric {chosen!r}.{nearest(chosen, log.metrics)} "
                f"Allowed: {_quoted(log.metrics)}."
            )
    return chosen


def _quoted(names: Sequence[str]) -> str:
    """Return names of metrics for an error, in quotes because they may hold commas."""
    return ", ".join(map(repr, names)) or "none can be used"


def _check_mean(log: Log, metric: str) -> None:
    """Refuse a metric that the suite does not report as the mean of its samples."""
    if metric not in log.reported:
        return
    mean = math.fsum(sample.values[metric] for sample in log.samples) / len(log.samples)
    reported = log.reported[metric]
    if not math.isclose(reported, mean, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE):
        raise DataError(
            f"The results of {log.path} report {reported:.6g} for {metric!r}, and the mean of its "
            f"samples is {mean:.6g}. Either the files are of different runs, or the metric is no "
            "mean over samples; use one that is, such as acc or exact_match."
        )


def _direction(base: Log, adapter: Log, metric: str, given: bool | None) -> bool:
    """Return the direction of a metric: from the logs, else from its name, else as given."""
    told = {
        log.higher_is_better[metric] for log in (base, adapter) if metric in log.higher_is_better
    }
    bare = metric.partition(",")[0].rpartition("/")[2]
    if not told and bare in LOWER | HIGHER:
        told = {bare in HIGHER}
    if given is not None:
        told.add(given)
    if len(told) > 1:
        raise UsageError(
            f"The direction of {metric!r} is contradictory: {base.path}, {adapter.path} and "
            "higher_is_better have to agree. Leave higher_is_better out where the logs tell it."
        )
    if not told:
        raise UsageError(
            f"Neither {base.path} nor the name of the metric {metric!r} tells whether higher is "
            "better. Give higher_is_better: true or false."
        )
    return told.pop()
