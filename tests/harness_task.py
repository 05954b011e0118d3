"""A task of lm-evaluation-harness in a folder, which needs no network."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest

TASK = """
task: plop_choice
dataset_path: json
dataset_kwargs: {data_files: {test: items.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list:
  - {metric: METRIC, aggregation: AGGREGATION, higher_is_better: true}
"""


def local_task(folder: Path, patch: pytest.MonkeyPatch, items: int = 6) -> Path:
    """Write the task, and make the folder the working directory, from which it reads its items."""
    pytest.importorskip("lm_eval")
    patch.chdir(folder)
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    rows = [
        {"question": f"2 + {number} =", "choices": [f" {number + 2}", " zebra"],
         "answer": number % 2}
        for number in range(items)
    ]  # fmt: skip
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "tasks").mkdir()
    task = TASK.replace("METRIC", "acc").replace("AGGREGATION", "mean")
    (folder / "tasks" / "choice.yaml").write_text(task)
    return folder
