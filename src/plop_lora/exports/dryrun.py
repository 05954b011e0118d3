"""Check an export with the real library: apply it to the model's architecture and compare.

PEFT silently accepts names that match nothing, and names that match more modules than intended.
So every export is applied by PEFT to the model's skeleton on the meta device (no weights, no
memory), and the adapted modules, their ranks and scalings are compared with the placement.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

from plop_lora.errors import ExportError
from plop_lora.records import ModelReference, Placement

if TYPE_CHECKING:
    from peft import LoraConfig


def check_with_peft(
    placement: Placement, config: LoraConfig, model: nn.Module | None = None
) -> None:
    """Apply a `LoraConfig` to a skeleton and compare what PEFT did with the placement.

    An initialisation that reads the weights (pissa, olora …) is left out here: the skeleton has
    none, and it changes neither modules nor ranks.

    Raises:
        ExportError: A module is missing or extra, or has another rank or scaling.
    """
    from peft import get_peft_model

    base = skeleton(placement.model) if model is None else on_meta(model)
    config = copy.deepcopy(config)
    config.init_lora_weights = True
    try:
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            adapted = get_peft_model(base, config, autocast_adapter_dtype=False)
    except (ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
        raise ExportError(f"PEFT rejects this configuration: {error}") from error
    compare_adapters(placement, adapters_of(adapted.base_model.model))


def with_every_module(placement: Placement, model: nn.Module | None = None) -> Placement:
    """Return the placement with every other module of the model among the untouched names.

    The name of a container, which no score lists, may end like that of a chosen weight (a tower's
    `q_proj` around its `q_proj.linear`). Targets made from the result match no such container.

    Args:
        placement: Placement to export.
        model: Model to which it belongs; by default built without weights from the configuration
            in the record.

    Raises:
        ExportError: The model cannot be built; see `skeleton`.
    """
    base = skeleton(placement.model) if model is None else model
    placed = {site.name for site in placement.sites}
    every = dict.fromkeys([*placement.untouched, *(name for name, _ in base.named_modules())])
    return replace(
        placement, untouched=tuple(name for name in every if name and name not in placed)
    )


def compare_adapters(placement: Placement, found: dict[str, tuple[int, float]]) -> None:
    """Compare the rank and scaling of every adapter with a placement.

    Raises:
        ExportError: There is a difference. The text lists the names.
    """
    wanted = {site.name: (site.rank, placement.scaling) for site in placement.sites}
    problems = [f"{name} gets no adapter" for name in wanted if name not in found]
    problems += [f"{name} gets an adapter it should not have" for name in found.keys() - wanted]
    problems += [
        f"{name} gets rank {found[name][0]} and scaling {found[name][1]:g}, "
        f"not {rank} and {scaling:g}"
        for name, (rank, scaling) in wanted.items()
        if name in found and not _same(found[name], (rank, scaling))
    ]
    refuse(problems)


def refuse(problems: Sequence[str]) -> None:
    """Raise an error if there are problems with an export.

    Raises:
        ExportError: There is at least one problem. The text lists the first ones.
    """
    if problems:
        shown = "; ".join(sorted(problems)[:8])
        more = f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise ExportError(
            f"The trainer would not do what the placement says: {shown}{more}. "
            "Nothing was written. Place whole types, or report this model's architecture."
        )


def skeleton(reference: ModelReference) -> nn.Module:
    """Build a model without weights from the configuration in a record.

    Raises:
        ExportError: The record has no configuration, or transformers does not know it or cannot
            build the model from it.
    """
    if reference.config is None:
        raise ExportError(
            f"{reference.name} has no transformers configuration, so its skeleton cannot be "
            "built. Pass the module: placement.to_peft(model)."
        )
    model_class = getattr(transformers, reference.architecture, None)
    if not (isinstance(model_class, type) and issubclass(model_class, PreTrainedModel)):
        raise ExportError(
            f"This transformers ({transformers.__version__}) has no model "
            f"{reference.architecture!r}; pass the module: placement.to_peft(model)."
        )
    settings = _structure(reference.config)
    model_type = settings.pop("model_type")
    try:
        config = transformers.AutoConfig.for_model(model_type, **settings)
        with torch.device("meta"):
            model: nn.Module = model_class(config)
    except Exception as error:
        # Each family checks its configuration in a way of its own, with errors of its own.
        raise ExportError(
            f"transformers cannot build {reference.architecture} from the configuration in the "
            f"record: {' '.join(str(error).split())[:200]} Pass the module: "
            "placement.to_peft(model), or export with --no-dry-run."
        ) from error
    return model


_CODE = ("auto_map", "attn_implementation", "experts_implementation", "quantization_config")
"""Suffixes of the keys that name code to download and run. None of them affects a shape."""


def _structure(settings: object) -> Any:
    """Return a configuration without keys that make transformers download or run code."""
    if isinstance(settings, dict):
        return {
            key: _structure(value) for key, value in settings.items() if not key.endswith(_CODE)
        }
    return [_structure(value) for value in settings] if isinstance(settings, list) else settings


def on_meta(model: nn.Module) -> nn.Module:
    """Copy a module onto the meta device; deepcopy's memo maps its tensors to meta tensors."""
    tensors = [*model.parameters(), *model.buffers()]
    memo: dict[int, object] = {}
    for tensor in tensors:
        empty = torch.empty_like(tensor, device="meta")
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
    return copy.deepcopy(model, memo)


def adapters_of(model: nn.Module) -> dict[str, tuple[int, float]]:
    """Return (rank, scaling) of every adapted weight of a PEFT model, by its name in the base.

    A weight that is adapted as a parameter has the module's name if it is the module's `weight`,
    and otherwise the parameter's name.
    """
    return {
        name: (layer.r["default"], layer.scaling["default"]) for name, layer in lora_layers(model)
    }


def lora_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield PEFT's LoRA layers by the name of the weight they adapt, as in `adapters_of`."""
    from peft.tuners.lora import LoraLayer
    from peft.tuners.lora.layer import ParamWrapper

    for name, module in model.named_modules():
        if not isinstance(module, LoraLayer) or "default" not in module.r:
            continue
        plain = ".".join(part for part in name.split(".") if part != "base_layer")
        if isinstance(module, ParamWrapper) and module.parameter_name != "weight":
            plain = f"{plain}.{module.parameter_name}"
        yield plain, module


def _same(found: tuple[int, float], wanted: tuple[int, float]) -> bool:
    return found[0] == wanted[0] and abs(found[1] - wanted[1]) < 1e-6 * wanted[1]
