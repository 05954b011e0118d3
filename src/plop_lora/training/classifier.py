"""Text classification: training by transformers' Trainer, judging by accuracy, loss, macro-F1."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import transformers
from torch.nn import functional
from transformers import (
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from plop_lora.errors import DataError
from plop_lora.evaluation.judged import Judged, Prepared, Row
from plop_lora.evaluation.precision import half_of, precision
from plop_lora.launcher import process_count
from plop_lora.records import TrialSpec
from plop_lora.training.adapters import optimizer_of
from plop_lora.training.resuming import (
    Resumable,
    saving_arguments,
    saving_callbacks,
    start,
)
from plop_lora.training.rows import label_numbers
from plop_lora.training.task import Session, Trained
from plop_lora.training.trainers import SimilarLengths, WarmedUp

_LOGGED = 0.05
"""Share of the steps between two rows of the curve."""


class _Trainer(Resumable, WarmedUp, SimilarLengths, Trainer):  # type: ignore[misc]
    """transformers' trainer as every arm uses it."""


def train(spec: TrialSpec, prepared: Prepared, rows: Sequence[Row], session: Session) -> Trained:
    """Train a classifier's adapters and head on rows with `text` and `label`.

    A row longer than `max_length` is cut. The order of the rows is a function of the seed.

    Raises:
        DataError: A row has no text, or a label that is none of the spec's.
    """
    tokenizer, model = prepared.tokenizer, prepared.model
    numbers = label_numbers(rows, spec.labels)
    examples = [
        {**encoded, "labels": number}
        for encoded, number in zip(_encoded(spec, tokenizer, rows), numbers, strict=True)
    ]
    if spec.training.checkpointing:
        model.enable_input_require_grads()
    trainer = _Trainer(
        model=model,
        args=_arguments(spec, model, session),
        train_dataset=examples,
        # Asked for where there are evaluations; `Resumable` judges the rows of the session.
        eval_dataset=examples[:1] if session.checkpoints else None,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_loss_func=_mean_loss,
        callbacks=[_Log(session.log), *saving_callbacks(session.checkpoints)],
        optimizers=(optimizer_of(spec, model), None),
    )
    trainer.remove_callback(transformers.PrinterCallback)
    best_step = start(trainer, session)
    history = [row for row in trainer.state.log_history if "loss" in row]
    return Trained(
        tokens=int(trainer.state.num_input_tokens_seen),
        steps=int(trainer.state.global_step),
        last_log=history[-1] if history else {},
        rows_cut=_cut(rows, examples, tokenizer, spec.training.max_length),
        best_step=best_step,
    )


def _cut(
    rows: Sequence[Row], examples: Sequence[Any], tokenizer: PreTrainedTokenizerBase, most: int
) -> int:
    """Return how many rows lost their end; only those of full length are tokenised again."""
    full = [row for row, made in zip(rows, examples, strict=True) if len(made["input_ids"]) >= most]
    return sum(len(tokenizer(str(row["text"]), verbose=False)["input_ids"]) > most for row in full)


def _mean_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """Return this batch's part of the mean loss of an optimizer step.

    The trainer takes a PEFT model for one that divides by the rows of all accumulated batches,
    which classifiers do not: their loss would grow with the accumulation.
    """
    total = functional.cross_entropy(outputs.logits.float(), labels, reduction="sum")
    return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)


def _arguments(spec: TrialSpec, model: PreTrainedModel, session: Session) -> TrainingArguments:
    settings = spec.training
    on_cpu = next(model.parameters()).device.type == "cpu"
    half = half_of(model)
    fields: dict[str, Any] = {
        "max_steps": settings.steps or -1,
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": session.batch_size,
        "gradient_accumulation_steps": settings.accumulation,
        "learning_rate": spec.learning_rate,
        "lr_scheduler_type": settings.schedule,
        "warmup_steps": settings.warmup,
        "weight_decay": settings.weight_decay,
        "seed": spec.seed,
        "data_seed": spec.seed,
        "bf16": half == torch.bfloat16,
        "fp16": half == torch.float16,
        "use_cpu": on_cpu,
        "dataloader_pin_memory": not on_cpu,
        "logging_steps": _LOGGED,
        "logging_first_step": True,
        # The filter would put the mean of the window in the place of NaN, and hide it.
        "logging_nan_inf_filter": False,
        "include_num_input_tokens_seen": "non_padding",
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "report_to": list(session.report_to) or "none",
        "run_name": f"{spec.arm}-{spec.phase}-{spec.seed}",
        "output_dir": str(session.folder),
        **saving_arguments(session.checkpoints),
    }
    if on_cpu and process_count() > 1:
        fields["ddp_backend"] = "gloo"
    if settings.checkpointing:
        fields[_checkpointing_name()] = True
    return TrainingArguments(**fields)


def _checkpointing_name() -> str:
    """Return what this transformers calls the recomputing of activations."""
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    new = "activation_checkpointing"
    return new if new in known else "gradient_checkpointing"


class _Log(TrainerCallback):  # type: ignore[misc]
    """Hands every logged row on, with its step."""

    def __init__(self, log: Callable[[Mapping[str, object]], None]) -> None:
        self.log = log

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        self.log({"step": state.global_step, **(logs or {})})


def _encoded(
    spec: TrialSpec, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]
) -> list[dict[str, object]]:
    missing = next((n for n, row in enumerate(rows, start=1) if "text" not in row), None)
    if missing is not None:
        raise DataError(f"Row {missing} has no text. A row of classify has: text, label.")
    texts = [str(row["text"]) for row in rows]
    # On the left, padding would move a row's positions with the longest row of its batch.
    tokenizer.padding_side = "right"
    encoded = tokenizer(texts, truncation=True, max_length=spec.training.max_length)
    return [{name: column[n] for name, column in encoded.items()} for n in range(len(texts))]


def judge(spec: TrialSpec, prepared: Prepared, rows: Sequence[Row]) -> Judged:
    """Judge a classifier row by row.

    Returns:
        Items `accuracy` (0 or 1 a row) and `loss` (nats a row); their means, and `macro-f1`, the
        unweighted mean F1 of the labels that occur among truths or predictions.

    Raises:
        DataError: There is no row, or as for `train`.
    """
    if not rows:
        raise DataError("There are no evaluation rows.")
    truths = label_numbers(rows, spec.labels)
    logits_BL = _logits(spec, prepared, rows)
    targets_B = torch.tensor(truths)
    losses = functional.cross_entropy(logits_BL, targets_B, reduction="none").tolist()
    guesses = logits_BL.argmax(dim=-1).tolist()
    hits = tuple(float(a == b) for a, b in zip(truths, guesses, strict=True))
    metrics = {
        "accuracy": sum(hits) / len(hits),
        "loss": sum(losses) / len(losses),
        "macro-f1": macro_f1(truths, guesses),
    }
    return Judged({"accuracy": hits, "loss": tuple(losses)}, metrics)


def _logits(spec: TrialSpec, prepared: Prepared, rows: Sequence[Row]) -> torch.Tensor:
    """Return the logits [B, L] of all rows in float32 on the CPU."""
    model, tokenizer = prepared.model, prepared.tokenizer
    device = next(model.parameters()).device
    encoded = _encoded(spec, tokenizer, rows)
    size = spec.evaluation.batch_size
    parts = []
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), precision(model):
            for start in range(0, len(rows), size):
                batch = tokenizer.pad(encoded[start : start + size], return_tensors="pt")
                parts.append(model(**batch.to(device)).logits.float().cpu())
    finally:
        model.train(was_training)
    return torch.cat(parts)


def macro_f1(truths: Sequence[int], guesses: Sequence[int]) -> float:
    """Return the unweighted mean F1 of the labels that occur among truths or guesses.

    >>> macro_f1([0, 0, 1], [0, 1, 1])
    0.6666666666666666
    """
    scores = []
    for label in sorted({*truths, *guesses}):
        both = sum(a == b == label for a, b in zip(truths, guesses, strict=True))
        scores.append(2 * both / (truths.count(label) + guesses.count(label)))
    return sum(scores) / len(scores)
