"""A placement as PEFT's configuration: exact target names, ranks by pattern, one scaling.

Building the fields needs neither torch nor peft; `to_peft` and the check import them.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plop_lora.errors import ExportError, UsageError
from plop_lora.exports.names import (
    endings_of,
    layer_patterns,
    matched_names,
    shared_ending,
    target_modules,
    target_parameters,
)
from plop_lora.exports.narrow import Narrowed, narrow, no_dropout_on_parameters, no_loraplus
from plop_lora.exports.target import Loss, Rendered, Target, check_placed
from plop_lora.placement import alpha_of
from plop_lora.quiet import quiet_imports
from plop_lora.records import AdapterSettings, PlacedSite, Placement

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from torch import nn

LOFTQ = {"loftq_bits": 4, "loftq_iter": 1}
"""PEFT's own defaults, which it wants to see written where the initialisation is `loftq`."""


def to_peft(
    placement: Placement,
    model: nn.Module | None = None,
    *,
    dry_run: bool = True,
    allow_loss: bool = False,
) -> LoraConfig:
    """Return a placement as `peft.LoraConfig`, checked by applying it.

    Args:
        placement: Result of `place`.
        model: Model against which the configuration is checked; its weights are neither copied
            nor changed. By default it is built on the meta device from the configuration in the
            record.
        dry_run: Whether the configuration is applied with PEFT and modules and ranks are compared.
        allow_loss: Whether settings that PEFT's configuration cannot express may be dropped.

    Raises:
        ExportError: PEFT would adapt other modules or ranks, the model cannot be built, or a
            setting would be lost.
    """
    with quiet_imports():
        from peft import LoraConfig

    check_placed(placement)
    losses = peft_losses(placement)
    if losses and not allow_loss:
        raise ExportError(
            f"PEFT's configuration cannot express {losses[0].what}: {losses[0].effect}. "
            "Pass allow_loss=True to drop it."
        )
    fields = peft_fields(placement)
    if dry_run:
        from plop_lora.exports.dryrun import check_with_peft, with_every_module

        fields = peft_fields(with_every_module(placement, model))
        check_with_peft(placement, LoraConfig(**fields), model)
    return LoraConfig(**fields)


def apply(
    model: nn.Module, placement: Placement | str | Path, *, allow_loss: bool = False
) -> PeftModel:
    """Add the adapters of a placement to a loaded model and check the result.

    Args:
        model: A `transformers` model or another module, which PEFT changes in place.
        placement: Result of `place`, or a file of one.
        allow_loss: Whether settings that PEFT's configuration cannot express may be dropped.

    Returns:
        The `peft.PeftModel`, in which every adapter has the rank and scaling of the placement.

    Raises:
        ExportError: PEFT would adapt other modules or ranks. The model is then unchanged.
        UsageError: An argument is not a placement or not a model.
    """
    placement = Placement.of(placement)
    if not callable(getattr(model, "named_modules", None)):
        raise UsageError(
            f"plop.apply needs a loaded model, not an object of the class {type(model).__name__}. "
            "Write plop.apply(model, placement)."
        )
    config = to_peft(placement, model, allow_loss=allow_loss)
    with quiet_imports():
        from peft import get_peft_model

        from plop_lora.exports.dryrun import adapters_of, compare_adapters
    # PEFT takes the name from the model and warns where the two differ; without one ours is kept.
    config.base_model_name_or_path = None
    adapted = get_peft_model(model, config)
    config.base_model_name_or_path = config.base_model_name_or_path or placement.model.name
    compare_adapters(placement, adapters_of(adapted.base_model.model))
    return adapted


def peft_fields(placement: Placement) -> dict[str, Any]:
    """Return the fields of `adapter_config.json`.

    The largest rank is `r`. Other ranks are given by `rank_pattern`, with an `alpha_pattern` that
    keeps the scaling the same for every module.
    """
    largest = max(site.rank for site in placement.sites)
    ranks, alphas = rank_patterns(placement)
    settings = _narrow(placement).placement.settings
    fields = {
        "peft_type": "LORA",
        "task_type": placement.model.task_type,
        "base_model_name_or_path": placement.model.name,
        "revision": placement.model.revision,
        "r": largest,
        "lora_alpha": plain(alpha_of(largest, placement.scaling, placement.settings)),
        "lora_dropout": settings.dropout,
        "bias": "none",
        "target_modules": target_modules(placement),
        "target_parameters": target_parameters(placement) or None,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "use_rslora": settings.rslora,
        "init_lora_weights": init_weights(settings),
    }
    if settings.init == "loftq":
        fields["loftq_config"] = LOFTQ
    return fields


def init_weights(settings: AdapterSettings) -> bool | str:
    """Return the value of PEFT's `init_lora_weights`."""
    return True if settings.init == "default" else settings.init


def peft_losses(placement: Placement) -> tuple[Loss, ...]:
    """Return the parts of a placement that PEFT's configuration cannot express."""
    return _narrow(placement).losses


def _narrow(placement: Placement) -> Narrowed:
    return narrow(
        placement,
        no_loraplus(
            "A and B train at one rate unless you make the optimizer with "
            "peft.optimizers.create_loraplus_optimizer"
        ),
        no_dropout_on_parameters,
    )


def rank_patterns(placement: Placement) -> tuple[dict[str, int], dict[str, float]]:
    """Return PEFT's `rank_pattern` and `alpha_pattern`: regular expressions for other ranks.

    PEFT takes the first key that matches the end of a name, so the keys are made to match exactly
    their own sites, whatever the order.
    """
    largest = max(site.rank for site in placement.sites)
    names = matched_names(placement)
    every = Counter(ending for name in names.values() for ending in endings_of(name))
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    groups: dict[int, list[PlacedSite]] = defaultdict(list)
    for site in placement.sites:
        groups[site.rank].append(site)
    for rank in sorted(groups.keys() - {largest}):
        for key in _pattern_keys(groups[rank], names, every):
            ranks[key] = rank
            alphas[key] = plain(alpha_of(rank, placement.scaling, placement.settings))
    return ranks, alphas


def _pattern_keys(
    sites: Sequence[PlacedSite], matched: Mapping[str, str], every: Counter[str]
) -> list[str]:
    """Return keys that match exactly these sites among the placed ones.

    Args:
        sites: Those of one rank.
        matched: What PEFT matches, by the name of the site.
        every: How many of all placed names have an ending.
    """
    own = Counter(ending for site in sites for ending in endings_of(matched[site.name]))
    groups: dict[str, list[str]] = defaultdict(list)
    for site in sites:
        groups[site.type].append(matched[site.name])
    keys = []
    for names in groups.values():
        ending = shared_ending(names, lambda ending: own[ending] == every[ending])
        keys += [re.escape(ending)] if ending is not None else layer_patterns(names)
    return keys


def plain(number: float) -> float | int:
    """Return a whole number as an integer, which reads better in a configuration."""
    return int(number) if float(number).is_integer() else number


def _render(placement: Placement) -> Rendered:
    text = json.dumps(peft_fields(placement), indent=2, sort_keys=True) + "\n"
    return Rendered(text, placement.trainable_parameters, peft_losses(placement))


def _check(placement: Placement, rendered: Rendered) -> None:
    from peft import LoraConfig

    from plop_lora.exports.dryrun import check_with_peft

    check_with_peft(placement, LoraConfig(**json.loads(rendered.text)))


TARGET = Target(
    name="peft",
    file_name="adapter_config.json",
    render=_render,
    check=_check,
    description="Load it with peft.LoraConfig.from_pretrained({folder!r}).",
    source="https://huggingface.co/docs/peft/package_reference/lora",
)
