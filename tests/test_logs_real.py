"""The logs that the installed lm-evaluation-harness writes, of the bundled model and an adapter."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest
import torch
from finetunes import prepared

from plop_lora.demo import MODEL
from plop_lora.errors import DataError
from plop_lora.evaluation.logs import paired, read_log

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:torch.*"),
]

DATA = """
dataset_path: json
dataset_kwargs: {data_files: {test: items.jsonl}}
test_split: test
"""
TASKS = {
    "logs_choice": """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
""",
    "logs_generate": """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: [" "], do_sample: false, max_gen_toks: 4}
filter_list:
  - name: strict-match
    filter: [{function: regex, regex_pattern: "^ (\\\\d)$"}, {function: take_first}]
  - name: flexible-extract
    filter: [{function: regex, regex_pattern: "(\\\\d)"}, {function: take_first}]
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
""",
    "logs_perplexity": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list:
  - {metric: word_perplexity}
""",
}
ITEMS = [
    {"question": f"{a} + {b} =", "choices": [f"{a + b}", f"{a + b + 1}"], "answer": (a + b) % 2}
    for a in range(3)
    for b in range(4)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tasks, their items, and an adapter that changes the model."""
    made = tmp_path_factory.mktemp("suite")
    (made / "items.jsonl").write_text("\n".join(map(json.dumps, ITEMS)))
    (made / "tasks").mkdir()
    for task, text in TASKS.items():
        (made / "tasks" / f"{task}.yaml").write_text(f"task: {task}{DATA}{text}")
    model = prepared("q_proj", "down_proj").model
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    model.save_pretrained(made / "adapter")
    return made


@pytest.fixture
def suite(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Paths of data are read from the working directory, and nothing is left in a user's cache."""
    pytest.importorskip("lm_eval")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    return folder


def run(suite: Path, side: str, *, limit: int | None = None, **arguments: str) -> dict[str, Path]:
    """Run the tasks as the harness's command line does, and return the samples by task."""
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    out = suite / side
    tracker = EvaluationTracker(output_path=str(out))
    found = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(MODEL), "dtype": "float32", **arguments},
        tasks=list(TASKS),
        task_manager=TaskManager(include_path=str(suite / "tasks"), include_defaults=False),
        device="cpu",
        batch_size=4,
        limit=limit,
        bootstrap_iters=0,
        log_samples=True,
        evaluation_tracker=tracker,
    )
    samples = found.pop("samples")
    tracker.save_results_aggregated(results=found, samples=samples)
    for task, logged in samples.items():
        tracker.save_results_samples(task_name=task, samples=logged)
    return {task: next(out.glob(f"*/samples_{task}_*.jsonl")) for task in TASKS}


def test_logs_of_the_harness_itself(suite: Path) -> None:
    """The layout of the files is not documented as stable: a release may change it."""
    base = run(suite, "base")
    adapter = run(suite, "tuned", peft=str(suite / "adapter"))
    logs = [read_log(path["logs_choice"]) for path in (base, adapter)]
    assert [log.metrics for log in logs] == [("acc,none", "acc_norm,none")] * 2
    assert [log.model for log in logs] == [str(MODEL), str(suite / "adapter")]
    pair = paired(*logs, "acc,none")
    assert pair.higher_is_better
    assert len(pair.names) == len(set(pair.clusters)) == len(ITEMS)
    for log, values in zip(logs, (pair.base, pair.adapter), strict=True):
        assert sum(values) / len(values) == pytest.approx(log.reported["acc,none"])
    assert pair.base != pair.adapter, "the adapter changes answers"
    assert pair.notes == ()

    generated = [read_log(path["logs_generate"]) for path in (base, adapter)]
    both = ("exact_match,flexible-extract", "exact_match,strict-match")
    assert generated[0].metrics == both
    assert [len(paired(*generated, metric).base) for metric in both] == [len(ITEMS)] * 2

    perplexity = [read_log(path["logs_perplexity"]) for path in (base, adapter)]
    assert perplexity[0].higher_is_better == {"word_perplexity,none": False}
    with pytest.raises(DataError, match="is a list of 2 and not one number"):
        paired(*perplexity)


def test_a_limit_of_the_harness_itself(suite: Path) -> None:
    limited = read_log(run(suite, "limited", limit=2)["logs_choice"])
    assert limited.limited == "--limit 2"
    assert len(limited.samples) == 2
