"""The bundled model with adapters, its word problems as rows, and specs for tiny finetunes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import placements
import torch
from builders import trial_data, trial_spec
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from plop_lora.demo import DATA, MODEL
from plop_lora.evaluation.judged import Prepared, Row
from plop_lora.evaluation.losses import judgeable, labelled
from plop_lora.models.loading import load_model, load_tokenizer
from plop_lora.records import EvaluationSettings, TrainingSettings, TrialSpec
from plop_lora.training.task import Session

PROBLEMS = [
    json.loads(line) for line in (DATA / "problems.jsonl").read_text(encoding="utf-8").splitlines()
]
ROWS = [
    {"prompt": f"Question: {row['question']}\nAnswer:", "completion": f" {row['answer']}"}
    for row in PROBLEMS
]
NEW = [
    {
        "prompt": f"Question: {row['question']}\nAnswer:",
        "completion": f" So many it is: {row['answer'].rpartition('#### ')[2]}",
    }
    for row in PROBLEMS
]
"""A way of answering that the bundled model has not learnt; it knows that of `ROWS` well."""
CHATS = [
    {
        "messages": [
            {"role": "user", "content": row["question"]},
            {"role": "assistant", "content": row["answer"]},
        ]
    }
    for row in PROBLEMS
]
PLACEMENT = placements.placed("llama", {"self_attn.q_proj": 4})


def prepared(*targets: str, dtype: str = "float32", **settings: Any) -> Prepared:
    """Return the bundled model with seeded adapters of rank 4 on some leaves, q_proj by default."""
    model = load_model(str(MODEL), device="cpu", dtype=dtype, progress=False)
    torch.manual_seed(0)
    config = LoraConfig(
        r=4, target_modules=list(targets or ("q_proj",)), task_type="CAUSAL_LM", **settings
    )
    return Prepared(get_peft_model(model, config), load_tokenizer(str(MODEL)))


def train_on(
    ready: Prepared, rows: Sequence[Row], *, steps: int, rows_a_step: int, rate: float, length: int
) -> None:
    """Train the adapters on rows, in their order and again from the start."""
    weights = [parameter for parameter in ready.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=rate)
    for step in range(steps):
        places = range(step * rows_a_step, (step + 1) * rows_a_step)
        group = [judgeable(rows[place % len(rows)], ready.tokenizer, length) for place in places]
        inputs, labels = labelled(group, ready)
        ready.model(**inputs, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def save_for_bundled(ready: Prepared, folder: Path) -> Path:
    """Save the adapters as those of the bundled model, and return the folder."""
    ready.model.peft_config["default"].base_model_name_or_path = str(MODEL)
    ready.model.save_pretrained(folder)
    return folder


def copy_with_factors(
    source: Path, folder: Path, change: Callable[[torch.Tensor], torch.Tensor]
) -> Path:
    """Copy an adapter with other factors B, and return the folder of the copy."""
    shutil.copytree(source, folder)
    path = folder / "adapter_model.safetensors"
    tensors = {
        name: change(tensor) if "lora_B" in name else tensor
        for name, tensor in load_file(path).items()
    }
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


def spec(task: str = "sft", *, seed: int = 3, rate: float = 5e-3, **settings: Any) -> TrialSpec:
    """Return a spec; settings of the training and the evaluation by their names."""
    judging = {"metric", "max_new_tokens", "include_path"} & settings.keys()
    evaluation = {name: settings.pop(name) for name in judging}
    evaluation["batch_size"] = settings.pop("eval_batch_size", 4)
    training = {"steps": 3, "batch_size": 4, "max_length": 128, **settings}
    return trial_spec(
        "shortlist",
        seed,
        task=task,
        model=str(MODEL),
        placement=PLACEMENT,
        learning_rate=rate,
        data=trial_data(train="train.jsonl", evaluation="eval.jsonl"),
        training=TrainingSettings(**training),
        evaluation=EvaluationSettings(**evaluation),
    )


def session(folder: Path, *, batch_size: int = 4) -> tuple[Session, list[Mapping[str, Any]]]:
    """Return a session, and the list that its curve grows in."""
    curve: list[Mapping[str, Any]] = []
    return Session(folder, curve.append, batch_size), curve


def weights(model: Any, *, adapters: bool) -> dict[str, torch.Tensor]:
    """Return copies of the weights of the adapters, or of all others, by their names."""
    return {
        name: parameter.detach().clone()
        for name, parameter in model.named_parameters()
        if ("lora_" in name) is adapters
    }
