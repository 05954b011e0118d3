"""The model of a trial without adapters: loaded for its task, on its device. Imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import transformers
from torch import nn
from transformers import AutoConfig, PreTrainedTokenizerBase

from plop_lora.errors import ModelError
from plop_lora.evaluation.precision import HALVES
from plop_lora.launcher import process_count
from plop_lora.models.devices import own_device
from plop_lora.models.folders import model_name
from plop_lora.models.loading import device_named, dtype_for, explained, load_tokenizer
from plop_lora.models.origin import Origin
from plop_lora.models.weights import load_checked
from plop_lora.records import TrainingSettings, TrialSpec
from plop_lora.training.task import Loading, Task
from plop_lora.training.tasks import task_named


class Base(NamedTuple):
    """A model without adapters; `heads` are modules that train, `notes` tell of its weights."""

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    heads: tuple[str, ...]
    notes: tuple[str, ...]


def base_of(spec: TrialSpec) -> Base:
    """Return the model of a trial; see `load_base`."""
    return load_base(
        task_named(spec.task), spec.model, revision=spec.revision, labels=spec.labels,
        settings=spec.training, seed=spec.seed,
    )  # fmt: skip


def load_base(
    task: Task,
    model: str,
    *,
    revision: str | None = None,
    labels: Sequence[str] = (),
    settings: TrainingSettings | None = None,
    seed: int = 0,
) -> Base:
    """Return a model as a task trains it, without adapters, on its device.

    On a CPU, attention in half precision is the plain one: the backward pass of torch's fused one
    takes several times as long there.

    Args:
        task: decides which class of transformers loads it.
        model: hub id or folder.
        revision: of a hub id.
        labels: the classes of a classifier, in the order of their numbers.
        settings: their dtype and device.
        seed: of the weights that the checkpoint lacks, such as the head of a classifier.

    Raises:
        UsageError: a task that the architecture cannot do, an unknown device or dtype.
        ModelError: the model cannot be loaded, or lacks weights of its own.
    """
    settings = settings or TrainingSettings()
    name, origin = model_name(model), Origin(revision)
    tokenizer = load_tokenizer(name, origin)
    give_pad_token(tokenizer, model)
    # They are drawn while the model loads.
    transformers.set_seed(seed)
    device = trial_device(settings.device)
    chosen = dtype_for(name, device, settings.dtype, origin)
    with explained(name, "model"):
        config = AutoConfig.from_pretrained(name, **origin.loading())
        dtype = chosen if chosen == "auto" else getattr(torch, chosen)
        wanted = task.model_class(Loading(task.name, model, config, tokenizer, labels))
        options = dict(wanted.options)
        if device == "cpu" and (config.dtype if dtype == "auto" else dtype) in HALVES:
            options["attn_implementation"] = "eager"
        loaded = load_checked(wanted.kind, name, dtype=dtype, **origin.loading(), **options)
    if wanted.trains_head:
        heads = _heads(loaded.model, loaded.new)
        return Base(loaded.model.to(device), tokenizer, heads, loaded.notes)
    if loaded.new:
        raise ModelError(
            f"{model} is no complete language model: it lacks {loaded.new[0]}. Train it by "
            "the task classify, or give a checkpoint with its output head."
        )
    return Base(loaded.model.to(device), tokenizer, (), loaded.notes)


def trial_device(wanted: str) -> str:
    """Return the device of this process: its own GPU where several processes would share one.

    Raises:
        UsageError: there is no such device here.
    """
    return str(device_named(own_device(wanted, process_count())))


def _heads(model: nn.Module, missing: Sequence[str]) -> tuple[str, ...]:
    """Return the modules that train in full: what stands beside the base, and what is new."""
    prefix = getattr(model, "base_model_prefix", "")
    beside = [
        name
        for name, child in model.named_children()
        if name != prefix and any(True for _ in child.parameters())
    ]
    owners = {name.rpartition(".")[0] for name in missing}
    new = [name for name in sorted(owners) if name.partition(".")[0] not in beside]
    return (*beside, *new)


def give_pad_token(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Let a tokenizer without a pad token pad with its end of sequence.

    Raises:
        ModelError: it has neither.
    """
    if tokenizer.pad_token_id is not None:
        return
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"The tokenizer of {name} has neither a pad token nor an end of sequence. "
            "Set tokenizer.pad_token and save it again with save_pretrained."
        )
    tokenizer.pad_token = tokenizer.eos_token
