"""Metrics of lm-evaluation-harness, on the model in memory.

Needs the extra `eval`. A folder of local tasks makes it independent of the hub; the paths of data
files in its YAML are read from the working directory, as the harness does.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from plop_lora.errors import DataError, UsageError, nearest, require
from plop_lora.evaluation.judged import Judged, Prepared
from plop_lora.records import EvaluationSettings

PREFIX = "lm-eval:"
FEW_SHOT_SEED = 1234
"""Seed of the harness's command line, so that every trial is shown the same examples."""
_SHOWN = 12
"""Most names of tasks that an error lists."""


def judge(settings: EvaluationSettings, prepared: Prepared, metric: str) -> Judged:
    """Run one task of the harness and keep the outcome of every item.

    The first metric of the task decides. It is measured on the task's own items, in their order,
    and without a chat template.

    Args:
        settings: The folder of local tasks and the batch size.
        prepared: The model, with its adapters at work, and its tokenizer.
        metric: The metric's name, `lm-eval:TASK`.

    Raises:
        DataError: The task cannot be loaded.
        MissingExtraError: The harness is not installed.
        UsageError: There is no such task, it is a group of several, or its first metric is no mean
            over items or is better when lower.
    """
    task = load_task(metric.removeprefix(PREFIX), settings.include_path)
    items = tuple(outcomes(settings, prepared, task))
    return Judged({metric: items}, {metric: sum(items) / len(items)})


class HarnessTask(NamedTuple):
    """A task of the harness, loaded with its documents.

    Attributes:
        name: Name of the task.
        loaded: What the harness evaluates.
        task: The task in it.
    """

    name: str
    loaded: Mapping[str, Any]
    task: Any

    @property
    def documents(self) -> list[Mapping[str, Any]]:
        """The documents that the outcomes are of."""
        return [dict(document) for document in self.task.eval_docs]


def load_task(name: str, folder: str | None) -> HarnessTask:
    """Load a task with its documents; with the harness's own tasks this takes seconds.

    Args:
        name: Name of the task.
        folder: Folder of local tasks; None takes those of the harness.

    Raises:
        DataError: The task cannot be loaded.
        MissingExtraError: The harness is not installed.
        UsageError: There is no such task, or it is a group of several.
    """
    require("lm_eval")
    from lm_eval.tasks import TaskManager

    with _quiet():
        manager = TaskManager(include_path=folder, include_defaults=folder is None)
        loaded = _load(manager, name, folder)
    task = loaded["tasks"][name]
    # What its command line does before it evaluates.
    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=FEW_SHOT_SEED)
    return HarnessTask(name, loaded, task)


def outcomes(
    settings: EvaluationSettings,
    prepared: Prepared,
    harness: HarnessTask,
    places: Sequence[int] | None = None,
) -> list[float]:
    """Return the first metric of a task for every document.

    Args:
        settings: The batch size.
        prepared: The model, with its adapters at work, and its tokenizer.
        harness: The task.
        places: Indices of documents, without which all are taken.

    Raises:
        UsageError: The first metric is no mean over documents, or is better when lower.
    """
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    from plop_lora.evaluation.chats import Ends
    from plop_lora.evaluation.generation import greedy

    with _quiet(), greedy(prepared, Ends()):
        language_model = HFLM(
            pretrained=prepared.model,
            tokenizer=prepared.tokenizer,
            batch_size=settings.batch_size,
            backend="causal",
        )
        results = evaluate(
            language_model, task_dict=harness.loaded, bootstrap_iters=0, log_samples=True,
            samples=None if places is None else {harness.name: list(places)},
        )  # fmt: skip
    samples = results["samples"][harness.name]
    first, metric = samples[0]["metrics"][0], f"{PREFIX}{harness.name}"
    if harness.task.higher_is_better().get(first) is False:
        raise UsageError(
            f"The metric {first!r} of {metric!r} is better when lower, which trials cannot judge "
            "by. Use the metric loss, or a task whose first metric is better when higher."
        )
    items = _items(samples, first, metric)
    _check_mean(items, results["results"][harness.name], first, metric)
    return list(items)


def _load(manager: Any, name: str, folder: str | None) -> Mapping[str, Any]:
    if name not in manager.all_subtasks:
        known = manager.all_subtasks
        where = f"in {folder}" if folder else "in the harness"
        listed = ", ".join(known[:_SHOWN]) + (" …" if len(known) > _SHOWN else "")
        several = name in manager.all_tasks
        raise UsageError(
            (f"{name!r} is a group of several tasks {where}." if several else
             f"There is no task {name!r} {where}.{nearest(name, known)}")
            + f" Name one task: {listed or 'none is there'}."
        )  # fmt: skip
    try:
        loaded: Mapping[str, Any] = manager.load([name])
    except Exception as error:
        raise DataError(
            f"The task {name!r} of lm-evaluation-harness cannot be loaded: "
            f"{type(error).__name__}: {error}. Paths of its data files are read from the working "
            "directory."
        ) from error
    return loaded


def _items(samples: Sequence[Mapping[str, Any]], first: str, metric: str) -> tuple[float, ...]:
    """Return the outcomes of a metric under the first filter, in the order of the items."""
    chosen = [sample for sample in samples if sample["filter"] == samples[0]["filter"]]
    values = [sample[first] for sample in sorted(chosen, key=lambda sample: sample["doc_id"])]
    try:
        return tuple(float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"The metric {first!r} of {metric!r} is no number for each item but {values[0]!r}. "
            "Use a task whose first metric is a mean over items, such as acc or exact_match."
        ) from error


def _check_mean(
    items: Sequence[float], results: Mapping[str, Any], first: str, metric: str
) -> None:
    reported = next(value for key, value in results.items() if key.split(",")[0] == first)
    mean = sum(items) / len(items)
    if abs(float(reported) - mean) > 1e-6 * max(1.0, abs(mean)):
        raise UsageError(
            f"The metric {first!r} of {metric!r} is {float(reported):.6g} and not the mean of its "
            f"items, {mean:.6g}, so trials cannot be compared item by item. Use a task whose first "
            "metric is a mean, such as acc or exact_match."
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the harness's bars and log off the terminal, and put its level back."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    silence = io.StringIO()
    try:
        with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
            yield
    finally:
        logger.setLevel(level)
