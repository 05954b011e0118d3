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
from plop_lora.options import check_dtype
from plop_lora.records import TrainingSettings
from plop_lora.training.task import Loading, Task


class Base(NamedTuple):
    """A model without adapters; `heads` are the modules that train, `notes` concern its weights."""

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    heads: tuple[str, ...]
    notes: tuple[str, ...]


def load_base(
    task: Task,
    model: str,
    *,
    revision: str | None = None,
    labels: Sequence[str] = (),
    settings: TrainingSettings | None = None,
    seed: int = 0,
) -> Base:
    """Return a model without adapters, loaded for a task, on its device.

    On a CPU, attention in half precision is not fused, because the backward pass of torch's fused
    attention takes several times as long there.

    Args:
        task: Task, which decides the class of transformers that loads the model.
        model: Hub id or folder of the model.
        revision: Revision of a hub id.
        labels: Classes of a classifier, in the order of their numbers.
        settings: Training settings, of which the dtype and the device are used.
        seed: Seed of the weights that the checkpoint lacks, such as the head of a classifier.

    Raises:
        UsageError: The architecture does not support the task, or the device or dtype is unknown.
        ModelError: The model cannot be loaded, or its checkpoint is incomplete.
    """
    settings = settings or TrainingSettings()
    # The weights that the checkpoint lacks are drawn while the model loads.
    transformers.set_seed(seed)
    device = trial_device(settings.device)
    base = read_base(task, model, revision, labels, settings.dtype, device)
    return base._replace(model=base.model.to(device))


def read_base(
    task: Task, model: str, revision: str | None, labels: Sequence[str], dtype: str, device: str
) -> Base:
    """Return the model that `load_base` loads for a device, but in the memory of the processor.

    The accelerator is not touched.

    Raises:
        UsageError: As for `load_base`.
        ModelError: As for `load_base`.
    """
    name, origin = model_name(model), Origin(revision)
    tokenizer = load_tokenizer(name, origin)
    give_pad_token(tokenizer, model)
    check_dtype(dtype)
    # Without a CPU the dtype stays as it is, and the question would start the accelerator.
    chosen = dtype_for(name, device, dtype, origin) if device == "cpu" else dtype
    with explained(name, "model"):
        config = AutoConfig.from_pretrained(name, **origin.loading())
        wanted_dtype = chosen if chosen == "auto" else getattr(torch, chosen)
        wanted = task.model_class(Loading(task.name, model, config, tokenizer, labels))
        options = dict(wanted.options)
        if device == "cpu" and (config.dtype if wanted_dtype == "auto" else wanted_dtype) in HALVES:
            options["attn_implementation"] = "eager"
        loaded = load_checked(wanted.kind, name, dtype=wanted_dtype, **origin.loading(), **options)
    if wanted.trains_head:
        heads = _heads(loaded.model, loaded.new)
        return Base(loaded.model, tokenizer, heads, loaded.notes)
    if loaded.new:
        raise ModelError(
            f"{model} is not a complete language model: it lacks {loaded.new[0]}. Train it with "
            "the task classify, or give a checkpoint with its output head."
        )
    return Base(loaded.model, tokenizer, (), loaded.notes)


def trial_device(wanted: str) -> str:
    """Return the device of this process, which is its own GPU if several processes train.

    Raises:
        UsageError: There is no such device on this machine.
    """
    return str(device_named(own_device(wanted, process_count())))


def _heads(model: nn.Module, missing: Sequence[str]) -> tuple[str, ...]:
    """Return the modules that train in full: those outside the base model and the new ones."""
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
    """Use the end-of-sequence token for padding if a tokenizer has no pad token.

    Raises:
        ModelError: It has neither.
    """
    if tokenizer.pad_token_id is not None:
        return
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"The tokenizer of {name} has neither a pad token nor an end of sequence. "
            "Set tokenizer.pad_token and save it again with save_pretrained."
        )
    tokenizer.pad_token = tokenizer.eos_token
