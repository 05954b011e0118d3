"""A model without weights: the declared architecture on the meta device, and its dtypes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from transformers import AutoConfig, PreTrainedModel
from transformers.core_model_loading import build_glob_alternation
from transformers.utils.generic import ContextManagers

from plop_lora.errors import PlopError
from plop_lora.models.loading import architecture_of
from plop_lora.models.origin import Origin

_PRIVATE = (
    "_get_dtype_plan",
    "_initialize_missing_keys",
    "_move_missing_keys_from_meta_to_device",
)
"""Private methods of transformers' models, which may change without notice."""


class UnstreamableError(PlopError):
    """Raised if a model cannot be streamed; the engine catches it and loads the model whole."""


def _dtype_rule() -> Any:
    """Return the private function of transformers that chooses the dtype of a model.

    Raises:
        UnstreamableError: This version of transformers lacks a private function used here.
    """
    moved = [name for name in _PRIVATE if not hasattr(PreTrainedModel, name)]
    try:
        from transformers.modeling_utils import _get_dtype
    except ImportError:
        moved.append("_get_dtype")
    if moved:
        raise UnstreamableError(
            f"transformers {transformers.__version__} has no {', '.join(moved)}, on which "
            "streaming depends"
        )
    return _get_dtype


def skeleton_of(
    name: str, files: list[str], dtype: str, origin: Origin
) -> tuple[PreTrainedModel, Callable[[str], torch.dtype]]:
    """Build the declared architecture on the meta device.

    Returns:
        The model, and a function that returns the dtype of a tensor by its name.

    Raises:
        UnstreamableError: The model is quantised, or config.json declares no architecture.
    """
    config = AutoConfig.from_pretrained(name, **origin.loading())
    if getattr(config, "quantization_config", None) is not None:
        raise UnstreamableError("it is quantised")
    declared = architecture_of(config)
    if declared is None:
        raise UnstreamableError("its config.json names no architecture of transformers")
    config, main = _dtype_rule()(dtype, files, config, None, None, True)
    with ContextManagers(declared.get_init_context(main, False, False, None)):
        model: PreTrainedModel = declared(config)
    plan: dict[str, torch.dtype] = model._get_dtype_plan(main)
    built: dict[str, torch.dtype] = {k: t.dtype for k, t in model.state_dict().items()}
    pattern, by_group, _ = build_glob_alternation(list(plan)) if plan else (None, {}, None)

    def dtype_of(key: str) -> torch.dtype:
        found = pattern.search(key) if pattern is not None else None
        return built[key] if found is None else plan[by_group[found.lastgroup]]

    return model.eval(), dtype_of
