"""Load a model and its tokenizer by name, and describe a loaded model for the record."""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel
from transformers.models.auto import modeling_auto

from plop_lora.errors import ModelError, PlopError, UsageError, nearest
from plop_lora.options import check_dtype, check_name, folders_beside
from plop_lora.records import ModelReference
from plop_lora.scoring.devices import is_slow
from plop_lora.status import status

_LONGEST_REASON = 300


def load_model(
    name: str, *, device: str = "auto", dtype: str = "auto", progress: bool = True
) -> nn.Module:
    """Load the architecture that a checkpoint declares, so that module names are the user's.

    Args:
        name: hub id or local folder.
        device: `auto` (an accelerator if there is one), `cpu`, `cuda`, `cuda:1`, `mps`.
        dtype: `auto` (the checkpoint's), `float32`, `bfloat16`, `float16`.
        progress: let transformers draw its bar.

    Raises:
        ModelError: no such model, or it cannot be loaded.
        UsageError: an unknown device or dtype.
    """
    check_dtype(dtype)
    target = device_named(device)
    check_name(name)
    with explained(name, "model"), _loading_bar(name, progress):
        config = AutoConfig.from_pretrained(name)
        declared = getattr(transformers, (config.architectures or [""])[0], AutoModel)
        wanted = dtype if dtype == "auto" else getattr(torch, dtype)
        model: nn.Module = declared.from_pretrained(name, dtype=wanted)
    return model.to(target)


def dtype_for(name: str, device: str, dtype: str) -> str:
    """Return what `auto` means for scoring a model on a device; other dtypes stay as they are.

    It is the checkpoint's own, except on a CPU that is slow in that: there float32, whose scores
    differ in the fourth digit. A quantised model keeps what it was made for.

    Raises:
        ModelError: no such model.
        UsageError: an unknown device or dtype.
    """
    check_dtype(dtype)
    if dtype != "auto" or device_named(device).type != "cpu":
        return dtype
    check_name(name)
    with explained(name, "model"):
        config = AutoConfig.from_pretrained(name)
    if getattr(config, "quantization_config", None) is not None or not is_slow(config.dtype):
        return dtype
    return "float32"


def load_skeleton(name: str) -> nn.Module:
    """Build the architecture that a checkpoint declares on the meta device, without weights.

    Args:
        name: hub id or local folder; only its config.json is read.

    Raises:
        ModelError: no such model, or transformers does not know it.
    """
    check_name(name)
    with explained(name, "model"):
        config = AutoConfig.from_pretrained(name)
        declared = getattr(transformers, (config.architectures or [""])[0], None)
        with torch.device("meta"):
            model: nn.Module = declared(config) if declared else AutoModel.from_config(config)
    return model


def load_tokenizer(name: str) -> Any:
    """Load the tokenizer that belongs to a model.

    Raises:
        ModelError: there is none at that name.
    """
    with explained(name, "tokenizer"):
        return AutoTokenizer.from_pretrained(name)


@contextlib.contextmanager
def explained(name: str, what: str) -> Iterator[None]:
    """Turn what transformers raises about a model or tokenizer into a `ModelError` that helps."""
    try:
        yield
    except PlopError:
        raise
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        path = Path(name)
        reason = " ".join(str(error).split()).rstrip(". ") or type(error).__name__
        if len(reason) > _LONGEST_REASON:
            reason = reason[:_LONGEST_REASON] + " …"
        if path.is_dir():
            raise ModelError(
                f"Cannot load the {what} in {name}: {reason}. Give a folder that transformers "
                "itself can load; plop --debug score … shows where it stops."
            ) from error
        raise ModelError(
            f"No {what} {name!r}: it is not a folder here, and the hub did not give one "
            f"({reason}).{nearest(path.name, folders_beside(path))} "
            "Give a folder with config.json or a hub id such as Qwen/Qwen3-0.6B."
        ) from error


@contextlib.contextmanager
def _loading_bar(name: str, wanted: bool) -> Iterator[None]:
    """Let transformers draw its bar, or one line where its bars are off; put its setting back."""
    logging = transformers.utils.logging
    before = logging.is_progress_bar_enabled()
    if not wanted:
        logging.disable_progress_bar()
    try:
        with status(f"loading {name}", wanted=wanted and not before):
            yield
    finally:
        if before:
            logging.enable_progress_bar()


def device_named(name: str) -> torch.device:
    """Return a device by its name; `auto` is an accelerator if there is one.

    Raises:
        UsageError: there is no such device here.
    """
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator()
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        unknown = "Expected one of" in str(error)
        reason = "torch has no such kind of device" if unknown else str(error).splitlines()[0]
        raise UsageError(
            f"The device {name!r} is not available here: {reason.rstrip('.')}. "
            "Use auto, cpu, cuda, cuda:1 or mps."
        ) from error
    return device


def describe(model: nn.Module, name: str | None = None) -> ModelReference:
    """Return the reference of a loaded model; `name` is what the user called it."""
    config = getattr(model, "config", None) if isinstance(model, PreTrainedModel) else None
    parameters = sum(parameter.numel() for parameter in model.parameters())
    architecture = type(model).__name__
    if config is None:
        return ModelReference(name or architecture, None, architecture, None, parameters)
    saved = config.to_dict()
    saved.pop("_name_or_path", None)
    document = json.dumps(saved, sort_keys=True, default=str)
    return ModelReference(
        name=name or config._name_or_path or architecture,
        revision=getattr(config, "_commit_hash", None),
        architecture=architecture,
        task_type=_task_type(architecture),
        parameters=parameters,
        config_hash=hashlib.sha256(document.encode()).hexdigest()[:16],
        config=json.loads(document),
    )


_TASKS = (
    ("CAUSAL_LM", modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
    ("SEQ_2_SEQ_LM", modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES),
    ("SEQ_CLS", modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES),
    ("TOKEN_CLS", modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES),
    ("QUESTION_ANS", modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES),
)


def _task_type(architecture: str) -> str | None:
    """Return PEFT's task type of an architecture; None lets PEFT wrap it as it is."""
    for task, names in _TASKS:
        if architecture in names.values():
            return task
    return None


def quiet_loading() -> None:
    """Turn off transformers' own bars and warnings on stderr; errors are ours to tell."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
