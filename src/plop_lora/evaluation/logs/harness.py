"""Logs of lm-evaluation-harness: `samples_TASK_DATE.jsonl`, beside `results_DATE.json`.

A line of the samples is one document under one filter, so a document has as many lines as the task
has filters. The names of metrics here are those of the results, `METRIC,FILTER`. Does not import
the harness.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plop_lora.data.lines import DataFile
from plop_lora.errors import DataError
from plop_lora.evaluation.logs.documents import digest_of, parsed, read_document
from plop_lora.evaluation.logs.log import (
    Log,
    Sample,
    clean,
    hash_of,
    number,
    unusable_metrics,
)

FORMAT = "lm-eval"
_NAME = re.compile(r"samples_(?P<task>.+)_(?P<date>\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(\.\d+)?)\.jsonl")
_WEIGHTLESS = ("batch_size", "device", "dtype", "max_batch_size")
"""Arguments of a model that do not say whose weights answer."""
_ALONE = (
    "No results file lies beside it, so that a --limit of the run, the name of the model and the "
    "direction of its metrics are not known."
)


@dataclass(slots=True, eq=False)
class _Document:
    """What the lines of one document hold, gathered over the filters."""

    document: str
    prompt: str | None
    filters: set[str] = field(default_factory=set)
    values: dict[str, float] = field(default_factory=dict)


def read_harness(path: Path) -> Log:
    """Read the samples of a task, and of the results beside it what belongs to the task.

    Args:
        path: Path of the file `samples_TASK_DATE.jsonl`.

    Raises:
        DataError: The file has another name, is damaged, or repeats a document.
    """
    named = _NAME.fullmatch(path.name)
    if named is None:
        raise DataError(
            f"{path} is not named samples_TASK_DATE.jsonl, as lm-eval names the samples of a task. "
            "Keep the name: it holds the task, and leads to the results file beside it."
        )
    task = named["task"]
    samples, refused = _samples(path)
    results = _results(path, named["date"], task)
    return Log(
        format=FORMAT,
        path=str(path),
        digest=digest_of(path),
        task=clean(task),
        model=clean(results["model_name"]) if results.get("model_name") else None,
        model_arguments=_identifying(_section(results, "config").get("model_args")),
        date=named["date"],
        samples=samples,
        unusable=unusable_metrics(samples, refused),
        reported=_reported(results, task),
        higher_is_better=_directions(results, task, samples, refused),
        limited=_limited(results, task),
        notes=() if results else (_ALONE,),
    )


def _samples(path: Path) -> tuple[tuple[Sample, ...], dict[str, str]]:
    """Return the samples of a file, and the reasons for metrics whose values are no numbers."""
    found: dict[str, _Document] = {}
    refused: dict[str, str] = {}
    for where, line in _lines(path):
        try:
            key, chosen = clean(line["doc_id"]), clean(line["filter"])
            names = [str(name) for name in line["metrics"]]
            values = {f"{clean(name)},{chosen}": line[name] for name in names}
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{where} lacks {clean(error)}: it is no sample of lm-eval --log_samples."
            ) from error
        document = found.setdefault(key, _Document(_hash(line), line.get("prompt_hash")))
        if chosen in document.filters or document.document != _hash(line):
            raise DataError(
                f"{where} has document {key} once more. Two runs wrote into one file, or ids "
                "repeat: run the task again into an empty --output_path."
            )
        document.filters.add(chosen)
        for name, raw in values.items():
            value = number(raw)
            if value is None:
                refused.setdefault(name, f"is {_kind(raw)} and not one number")
            else:
                document.values[name] = value
    if not found:
        raise DataError(f"{path} holds no samples. Run lm-eval again with --log_samples.")
    samples = (Sample(k, 1, d.document, d.prompt, d.values) for k, d in found.items())
    return tuple(samples), refused


def _lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the place and the object of every line."""
    for index, line in DataFile(str(path)).lines():
        if line.strip():
            where = f"{path}, line {index},"
            yield where, parsed(line, where)


def _hash(line: Mapping[str, Any]) -> str:
    """Return the hash of a document and its target."""
    return hash_of([line.get("doc_hash") or line.get("doc"), line.get("target_hash")])


def _kind(raw: object) -> str:
    """Return in words what a value that is no number is."""
    return f"a list of {len(raw)}" if isinstance(raw, list) else f"a {type(raw).__name__}"


# --------------------------------------------------------------------------- results


def _results(path: Path, date: str, task: str) -> Mapping[str, Any]:
    """Return the results of the same run; empty where no such file lies beside the samples."""
    for beside in sorted(path.parent.glob(f"*_{date}.json")):
        document = read_document(beside)
        if task in _section(document, "results"):
            return document
    return {}


def _section(results: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """Return an object inside the results; empty where it is absent or no object."""
    found: Any = results
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _identifying(arguments: object) -> Mapping[str, object]:
    """Return the arguments of the model that say whose weights answer."""
    if isinstance(arguments, str):  # older releases keep what the command line was given
        arguments = dict(part.partition("=")[::2] for part in arguments.split(","))
    if not isinstance(arguments, dict):
        return {}
    return {name: value for name, value in arguments.items() if name not in _WEIGHTLESS}


def _reported(results: Mapping[str, Any], task: str) -> dict[str, float]:
    section = _section(results, "results", task)
    numbers = {clean(name): number(raw) for name, raw in section.items() if "," in name}
    return {name: value for name, value in numbers.items() if value is not None}


def _directions(
    results: Mapping[str, Any], task: str, samples: tuple[Sample, ...], refused: Mapping[str, str]
) -> dict[str, bool]:
    """Return the direction of every logged metric, which the results give without a filter."""
    section = _section(results, "higher_is_better", task)
    known = {clean(name): raw for name, raw in section.items() if isinstance(raw, bool)}
    logged = {name for sample in samples for name in sample.values} | refused.keys()
    bare = {name: name.rpartition(",")[0] for name in logged}
    return {name: known[metric] for name, metric in bare.items() if metric in known}


def _limited(results: Mapping[str, Any], task: str) -> str | None:
    limit = _section(results, "config").get("limit")
    if limit is not None:
        return f"--limit {clean(limit)}"
    counts = _section(results, "n-samples", task)
    if counts and counts.get("effective") != counts.get("original"):
        return f"{clean(counts.get('effective'))} of {clean(counts.get('original'))} documents"
    return None
