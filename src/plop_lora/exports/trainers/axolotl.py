"""A placement as a fragment of Axolotl's YAML: everything that PEFT's configuration can say.

Ranks per module and LoRA+ are said as well; every alpha must be a whole number. Axolotl is not
imported: it hands these fields to `peft.LoraConfig`, and the check does the same.
"""

from __future__ import annotations

import math
from typing import Any

from plop_lora.exports.document import rendered_yaml
from plop_lora.exports.names import target_modules, target_parameters
from plop_lora.exports.narrow import (
    SELF_CONTAINED_INITS,
    Narrowed,
    narrow,
    no_dropout_on_parameters,
    only_inits,
    with_scaling,
)
from plop_lora.exports.target import Rendered, Target
from plop_lora.exports.trainers.peft import LOFTQ, init_weights, plain, rank_patterns
from plop_lora.placement import alpha_of
from plop_lora.records import Placement

_USAGE = """
Use: put these keys into your Axolotl configuration, then: axolotl train CONFIG.yaml
They replace its own base_model, adapter and lora_… keys; for QLoRA set adapter: qlora.
"""


def _narrow(placement: Placement) -> Narrowed:
    return narrow(
        placement,
        _whole_alphas,
        only_inits(*SELF_CONTAINED_INITS, "loftq"),
        no_dropout_on_parameters,
    )


def _whole_alphas(narrowed: Narrowed) -> Narrowed:
    """Make every alpha a whole number, as Axolotl's schema demands.

    With alpha = scaling·rank instead of rslora's scaling·√rank the factor in front of B·A is the
    same, so often nothing is lost; otherwise the nearest scaling that works is taken.
    """
    placement = narrowed.placement
    if all(float(site.alpha).is_integer() for site in placement.sites):
        return narrowed
    step = math.gcd(*(site.rank for site in placement.sites))
    scaling = max(1, round(placement.scaling * step)) / step
    whole = with_scaling(placement, scaling, rslora=False)
    if math.isclose(scaling, placement.scaling):
        return Narrowed(whole, narrowed.losses)
    return narrowed.give_up(
        f"the scaling {placement.scaling:g}",
        f"it is {scaling:g}, since every alpha must be a whole number",
        whole,
    )


def _fields(placement: Placement) -> dict[str, Any]:
    settings = placement.settings
    largest = max(site.rank for site in placement.sites)
    ranks, alphas = rank_patterns(placement)
    optional = {
        "revision_of_model": placement.model.revision,
        "lora_target_parameters": target_parameters(placement),
        "lora_rank_pattern": ranks,
        "lora_alpha_pattern": alphas,
        "peft": {"loftq_config": {"loftq_bits": LOFTQ["loftq_bits"]}}
        if settings.init == "loftq"
        else None,
    }
    return {
        "base_model": placement.model.name,
        "adapter": "lora",
        "lora_r": largest,
        "lora_alpha": plain(alpha_of(largest, placement.scaling, settings)),
        "lora_dropout": settings.dropout,
        "lora_target_linear": False,
        "lora_target_modules": target_modules(placement),
        "peft_use_rslora": settings.rslora,
        "peft_use_dora": False,
        "peft_init_lora_weights": init_weights(settings),
        "loraplus_lr_ratio": settings.loraplus_ratio,
        **{key: value for key, value in optional.items() if value},
    }


def _render(placement: Placement) -> Rendered:
    narrowed = _narrow(placement)
    return rendered_yaml(narrowed, _USAGE, _fields(narrowed.placement))


def _check(placement: Placement, rendered: Rendered) -> None:
    import yaml
    from peft import LoraConfig

    from plop_lora.exports.dryrun import check_with_peft

    fields = yaml.safe_load(rendered.text)
    config = LoraConfig(
        r=fields["lora_r"],
        lora_alpha=fields["lora_alpha"],
        target_modules=fields["lora_target_modules"],
        target_parameters=fields.get("lora_target_parameters", []),
        rank_pattern=fields.get("lora_rank_pattern", {}),
        alpha_pattern=fields.get("lora_alpha_pattern", {}),
        lora_dropout=fields["lora_dropout"],
        use_rslora=fields["peft_use_rslora"],
        task_type=placement.model.task_type,
    )
    check_with_peft(_narrow(placement).placement, config)


TARGET = Target(
    name="axolotl",
    file_name="axolotl.yaml",
    render=_render,
    check=_check,
    description="Put its keys into your Axolotl configuration, then: axolotl train CONFIG.yaml.",
    source="https://docs.axolotl.ai/docs/config-reference.html",
    read_by="from peft",
)
