"""Small logs of lm-evaluation-harness and of Inspect, in the layouts that the suites write."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DATE = "2026-11-27T06-37-41.754663"
Line = dict[str, Any]
Epochs = Sequence[Line]


def line(index: int, filtered: str = "none", **metrics: Any) -> Line:
    """Return one line of a samples file: one document under one filter."""
    return {
        "doc_id": index,
        "doc": {"question": f"{index} + 1 ="},
        "target": str(index + 1),
        "filter": filtered,
        "metrics": list(metrics),
        "doc_hash": f"document {index}",
        "prompt_hash": f"prompt {index}",
        "target_hash": f"target {index}",
        **metrics,
    }


def results(
    task: str, *, model: str, limit: float | None = None, **higher_is_better: bool
) -> dict[str, Any]:
    """Return the part of a results file that tells of a task."""
    return {
        "results": {task: {"name": task, "alias": task}},
        "higher_is_better": {task: higher_is_better},
        "n-samples": {task: {"original": 2, "effective": 2}},
        "config": {"model": "hf", "model_args": {"pretrained": model}, "limit": limit},
        "model_name": model,
    }


def harness_log(
    folder: Path,
    lines: Sequence[Line],
    beside: Mapping[str, Any] | None = None,
    *,
    task: str = "sums",
) -> Path:
    """Write the samples of a task, and the results beside them where they are given."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"samples_{task}_{DATE}.jsonl"
    path.write_text("".join(f"{json.dumps(entry)}\n" for entry in lines), encoding="utf-8")
    if beside is not None:
        (folder / f"results_{DATE}.json").write_text(json.dumps(beside), encoding="utf-8")
    return path


def sample(name: int | str, epoch: int = 1, **scores: Any) -> Line:
    """Return one sample of an Inspect log."""
    return {
        "id": name,
        "epoch": epoch,
        "input": [{"id": f"{name} {epoch}", "role": "user", "content": f"{name} + 1"}],
        "target": "2",
        "scores": {scorer: {"value": value, "history": []} for scorer, value in scores.items()},
    }


def header(*, model: str = "hf/base", **fields: Any) -> dict[str, Any]:
    """Return the header of an Inspect log."""
    config = {"epochs": 1, **fields.pop("config", {})}
    evaluation = {
        "task": fields.pop("task", "sums"),
        "model": model,
        "model_args": {},
        "created": "2026-11-27T06:40:02+00:00",
        "config": config,
    }
    return {"version": 2, "status": "success", "eval": evaluation, **fields}


def inspect_log(
    path: Path,
    samples: Sequence[Line],
    head: Mapping[str, Any],
    *,
    compression: int = zipfile.ZIP_DEFLATED,
) -> Path:
    """Write a log of Inspect, as an archive or as one document by the suffix of the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text(json.dumps({**head, "samples": samples}), encoding="utf-8")
        return path
    start = {"version": head["version"], "eval": head["eval"], "plan": {}}
    summaries = [{key: entry[key] for key in ("id", "epoch", "target")} for entry in samples]
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("_journal/start.json", json.dumps(start))
        for entry in samples:
            name = f"samples/{entry['id']}_epoch_{entry['epoch']}.json"
            archive.writestr(name, json.dumps(entry))
        archive.writestr("_journal/summaries/1.json", json.dumps(summaries))
        archive.writestr("summaries.json", json.dumps(summaries))
        archive.writestr("header.json", json.dumps(head))
    return path
