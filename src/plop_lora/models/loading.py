"""Load a model and its tokenizer by name, and describe a loaded model for the record."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto import modeling_auto
from transformers.utils import cached_file

from plop_lora.errors import ModelError, PlopError, UsageError
from plop_lora.models.devices import is_slow
from plop_lora.models.folders import (
    check_tokenizer,
    has_tokenizer,
    model_name,
    not_given,
    own_code,
)
from plop_lora.models.gguf import (
    OLDEST_TRANSFORMERS,
    loading_failure,
    path_of,
    read_header,
    tokenizer_failure,
)
from plop_lora.models.hub import hub_or_cache, why_not
from plop_lora.models.origin import PLAIN, Origin
from plop_lora.models.weights import Loaded, load_checked
from plop_lora.options import check_dtype
from plop_lora.records import ModelReference
from plop_lora.status import status

_LONGEST_REASON = 300
_ASKS_FOR_CODE = "trust_remote_code"
_NEWER = ("any variant of untagged enum", "unknown variant")
"""Messages of the tokenizers library for a file with a component that it does not know."""


def load_model(
    name: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    progress: bool = True,
    origin: Origin = PLAIN,
) -> nn.Module:
    """Load a model as `load_weights` does, and return only the module."""
    model: nn.Module = load_weights(
        name, device=device, dtype=dtype, progress=progress, origin=origin
    ).model
    return model


def load_weights(
    name: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    progress: bool = True,
    origin: Origin = PLAIN,
) -> Loaded:
    """Load the architecture that a checkpoint declares, so that module names match the user's.

    The weights of a GGUF file are dequantised.

    Args:
        name: Hub id or local folder.
        device: `auto` (an accelerator if there is one), `cpu`, `cuda`, `cuda:1` or `mps`.
        dtype: `auto` (the checkpoint's), `float32`, `bfloat16` or `float16`.
        progress: Whether transformers draws its progress bar.
        origin: Revision, token, GGUF file, and whether code beside the weights may run.

    Raises:
        ModelError: The model does not exist or cannot be loaded, or its weights are not those of
            the model that its config.json describes.
        UsageError: The device or dtype is unknown.
    """
    check_dtype(dtype)
    target = device_named(device)
    name = model_name(name, gguf=origin.gguf)
    with explained(name, "model", origin), _loading_bar(name, progress):
        wanted = dtype if dtype == "auto" else getattr(torch, dtype)
        if origin.gguf is not None:
            loaded = _dequantised(path_of(name, origin), wanted, origin)
        else:
            config = AutoConfig.from_pretrained(name, **origin.loading())
            loaded = load_checked(declared_class(config), name, dtype=wanted, **origin.loading())
    return dataclasses.replace(loaded, model=loaded.model.to(target))


def _dequantised(path: Path, dtype: Any, origin: Origin) -> Loaded:
    """Load the language model of a GGUF file, after checking the file.

    Raises:
        ModelError: The file is not sound, or the installed transformers is too old.
    """
    read_header(path)
    if not hasattr(transformers, "GgufConfig"):
        raise ModelError(
            f"transformers {transformers.__version__} is too old to read GGUF files. Install a "
            f"newer one: pip install 'transformers>={OLDEST_TRANSFORMERS}'."
        )
    options = _in_gguf(path, origin)
    config = AutoConfig.from_pretrained(path.parent, **options)
    dense = transformers.GgufConfig(dequantize=True)
    return load_checked(
        _language_model(config), str(path.parent), dtype=dtype, quantization_config=dense, **options
    )


def _in_gguf(path: Path, origin: Origin) -> dict[str, Any]:
    """Return the keywords of `from_pretrained` for the folder of a GGUF file.

    The path is absolute, because transformers prefers a file of that name in the working directory
    to the one in the folder.
    """
    return origin.elsewhere().loading() | {"gguf_file": str(path.absolute())}


def architecture_of(config: PretrainedConfig) -> type[PreTrainedModel] | None:
    """Return the class of transformers that a config.json declares, or None.

    The name comes from a file, so anything in transformers that is not a model class is rejected.
    """
    declared = getattr(transformers, (config.architectures or [""])[0], None)
    is_model = isinstance(declared, type) and issubclass(declared, PreTrainedModel)
    return declared if is_model else None


def declared_class(config: PretrainedConfig) -> Any:
    """Return the class that a config.json declares, or an Auto class that loads its own code."""
    declared = architecture_of(config)
    if declared is not None:
        return declared
    mapped = getattr(config, "auto_map", None) or {}
    return transformers.AutoModelForCausalLM if "AutoModelForCausalLM" in mapped else AutoModel


def _language_model(config: PretrainedConfig) -> Any:
    """Return the class of a GGUF file, most of which declare only a type: its language model."""
    declared = architecture_of(config)
    if declared is not None:
        return declared
    names = (
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    )
    found = [known[config.model_type] for known in names if config.model_type in known]
    return getattr(transformers, found[0]) if found else AutoModel


def dtype_for(name: str, device: str, dtype: str, origin: Origin = PLAIN) -> str:
    """Return the dtype in which to score a model on a device.

    `auto` becomes float32 on a CPU that is slow in the checkpoint's dtype; the scores then differ
    in the fourth digit. So does `auto` for a GGUF file, on every device: quantised weights have no
    dtype of their own. Otherwise, and for a quantised model, `auto` is kept.

    Raises:
        ModelError: The model does not exist.
        UsageError: The device or dtype is unknown.
    """
    check_dtype(dtype)
    kind = device_named(device).type
    if dtype == "auto" and origin.gguf is not None:
        return "float32"
    if dtype != "auto" or kind != "cpu":
        return dtype
    name = model_name(name)
    with explained(name, "model", origin):
        config = AutoConfig.from_pretrained(name, **origin.loading())
    if getattr(config, "quantization_config", None) is not None or not is_slow(config.dtype):
        return dtype
    return "float32"


def load_skeleton(name: str, origin: Origin = PLAIN) -> nn.Module:
    """Build the architecture that a checkpoint declares on the meta device, without weights.

    Args:
        name: Hub id or local folder, of which only config.json is read.
        origin: Revision, token, and whether code beside the weights may run.

    Raises:
        ModelError: The model does not exist, or transformers does not know it.
    """
    name = model_name(name, weights=False)
    with explained(name, "model", origin):
        config = AutoConfig.from_pretrained(name, **origin.loading())
        declared = architecture_of(config)
        trusted = {"trust_remote_code": origin.trust_remote_code}
        with torch.device("meta"):
            model: nn.Module = (
                declared(config)
                if declared
                else declared_class(config).from_config(config, **trusted)
            )
    return model


def load_tokenizer(name: str, origin: Origin = PLAIN) -> PreTrainedTokenizerBase:
    """Load a tokenizer by its name or that of its model.

    That of a GGUF file is the one beside it, or else is built from its fields.

    Raises:
        ModelError: There is no tokenizer of that name.
    """
    if origin.gguf is not None:
        if not has_tokenizer(name):
            return _tokenizer_in_gguf(name, origin)
        origin = dataclasses.replace(origin, gguf=None)
    check_tokenizer(name)
    with explained(name, "tokenizer", origin):
        tokenizer = AutoTokenizer.from_pretrained(name, **origin.loading())
        if not getattr(tokenizer, "chat_template", None):
            tokenizer.chat_template = _processor_template(name, origin)
    return tokenizer


def _tokenizer_in_gguf(name: str, origin: Origin) -> PreTrainedTokenizerBase:
    with explained(name, "tokenizer", origin):
        path = path_of(name, origin)
        if read_header(path).tokenizer is None:
            raise ModelError(tokenizer_failure(path, "it holds none"))
        tokenizer = AutoTokenizer.from_pretrained(path.parent, **_in_gguf(path, origin))
        tokenizer.name_or_path = name
    return tokenizer


def _processor_template(name: str, origin: Origin) -> str | None:
    """Return the chat template that older releases stored with the processor only, or None."""
    for file in ("chat_template.json", "processor_config.json"):
        path = cached_file(
            name, file, _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False, **origin.files(),
        )  # fmt: skip
        if path is not None:
            template = json.loads(Path(path).read_text(encoding="utf-8")).get("chat_template")
            if template:
                return str(template)
    return None


@contextlib.contextmanager
def explained(name: str, what: str, origin: Origin = PLAIN) -> Iterator[None]:
    """Turn the errors of transformers on a model or tokenizer into a `ModelError` with advice.

    Inside the `with` block, an unreachable hub is tried only once, not once per file.
    """
    with hub_or_cache(name):
        try:
            yield
        except (PlopError, MemoryError):
            raise
        except Exception as error:  # includes errors of json, tokenizers and configuration checks
            raise ModelError(_explanation(name, what, origin, error)) from error


def _explanation(name: str, what: str, origin: Origin, error: BaseException) -> str:
    folder = Path(name)
    if _ASKS_FOR_CODE in str(error) and not origin.trust_remote_code:
        return _wants_code(name, what)
    reason = origin.without_token(" ".join(str(error).split())).rstrip(". ")
    reason = reason or type(error).__name__
    if len(reason) > _LONGEST_REASON:
        reason = reason[:_LONGEST_REASON] + " …"
    if origin.gguf is not None and folder.is_dir():
        path = folder / origin.gguf
        if what == "tokenizer":
            return tokenizer_failure(path, reason)
        return loading_failure(path, read_header(path), reason)
    if any(sign in reason for sign in _NEWER):
        return (
            f"Cannot load the {what} {name}: it was written by a newer release than the installed "
            f"one ({reason}). Install one: pip install --upgrade transformers tokenizers."
        )
    if folder.is_dir():
        return (
            f"Cannot load the {what} in {name}: {reason}. Give a folder that transformers "
            "itself can load; plop --debug score … shows where it stops."
        )
    return not_given(name, what, why_not(error) or reason, origin.revision)


def _wants_code(name: str, what: str) -> str:
    files = own_code(name)
    return (
        f"The {what} {name} is not part of transformers and brings Python code of its own"
        f"{' (' + ', '.join(files) + ')' if files else ''}, which has the rights of your account "
        "when it runs. Read it, and if you trust it give --trust-remote-code."
    )


@contextlib.contextmanager
def _loading_bar(name: str, wanted: bool) -> Iterator[None]:
    """Let transformers draw its bar, or show one line if bars are disabled; restore the setting."""
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
        UsageError: There is no such device on this machine.
    """
    if name == "auto":
        return _accelerator() or torch.device("cpu")
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


def _accelerator() -> torch.device | None:
    """Return the accelerator of this machine, or None.

    torch reports the one it was built for even if the machine has none: PyPI's build for Linux
    reports `cuda` without a GPU or its driver.
    """
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None


def describe(
    model: nn.Module, name: str | None = None, revision: str | None = None
) -> ModelReference:
    """Return the reference of a loaded model for a record.

    Args:
        model: The model.
        name: The name by which the user gave it.
        revision: Its commit on the hub, where it is known.
    """
    config = getattr(model, "config", None) if isinstance(model, PreTrainedModel) else None
    parameters = sum(parameter.numel() for parameter in model.parameters())
    architecture = type(model).__name__
    if config is None:
        return ModelReference(name or architecture, revision, architecture, None, parameters)
    saved = config.to_dict()
    saved.pop("_name_or_path", None)
    document = json.dumps(saved, sort_keys=True, default=str)
    return ModelReference(
        name=name or config._name_or_path or architecture,
        # Older versions of transformers keep the commit, newer ones do not.
        revision=revision or getattr(config, "_commit_hash", None),
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
    """Return PEFT's task type of an architecture, or None for PEFT's generic wrapper."""
    for task, names in _TASKS:
        if architecture in names.values():
            return task
    return None


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Apply `quiet_loading` inside the `with` block, then restore the user's settings."""
    logging = transformers.utils.logging
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    with warnings.catch_warnings():
        quiet_loading()
        try:
            yield
        finally:
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()


def quiet_loading() -> None:
    """Turn off the progress bars and warnings of transformers; errors are still raised."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
