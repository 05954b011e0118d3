"""A placement as ms-swift's YAML, which `swift sft` turns into command-line arguments.

ms-swift cannot say ranks per module. It is not imported: it hands these fields to
`peft.LoraConfig`, and the check does the same.
"""

from __future__ import annotations

from typing import Any

from plop_lora.exports.document import rendered_yaml
from plop_lora.exports.names import target_modules, target_parameters
from plop_lora.exports.narrow import (
    SELF_CONTAINED_INITS,
    Narrowed,
    narrow,
    no_dropout_on_parameters,
    one_rank,
    only_inits,
)
from plop_lora.exports.target import Rendered, Target
from plop_lora.exports.trainers.peft import plain
from plop_lora.records import Placement

_USAGE = """
Use: add your dataset, output_dir and training options, then: swift sft ms_swift.yaml
use_hf loads the model and the data from the Hugging Face hub instead of ModelScope.
"""
_NOTHING = "no_module"
"""A target that matches nothing: an empty list is no argument, and the default is all linears."""

_TASKS = {"CAUSAL_LM": "causal_lm", "SEQ_CLS": "seq_cls"}


def _narrow(placement: Placement) -> Narrowed:
    return narrow(
        placement, one_rank, only_inits(*SELF_CONTAINED_INITS, "lora_ga"), no_dropout_on_parameters
    )


def _fields(placement: Placement) -> dict[str, Any]:
    settings = placement.settings
    # ms-swift passes every value on as text, so that null would be the word None: what has no
    # value is left out.
    optional = {
        "model_revision": placement.model.revision,
        "task_type": _TASKS.get(placement.model.task_type or ""),
        "target_parameters": target_parameters(placement) or None,
        "lorap_lr_ratio": settings.loraplus_ratio,
    }
    return {
        "model": placement.model.name,
        "use_hf": True,
        "tuner_backend": "peft",
        "tuner_type": "lora",
        "lora_rank": placement.sites[0].rank,
        "lora_alpha": plain(placement.sites[0].alpha),
        "lora_dropout": settings.dropout,
        "lora_bias": "none",
        "use_rslora": settings.rslora,
        "use_dora": False,
        "init_weights": _init(settings.init),
        **_targets(placement),
        **{key: value for key, value in optional.items() if value is not None},
    }


def _init(init: str) -> str:
    return {"default": "true", "lora_ga": "lora-ga"}.get(init, init)


def _targets(placement: Placement) -> dict[str, object]:
    targets = target_modules(placement)
    if isinstance(targets, str):
        return {"target_regex": targets}
    return {"target_modules": targets or [_NOTHING]}


def _render(placement: Placement) -> Rendered:
    narrowed = _narrow(placement)
    fields = _fields(narrowed.placement)
    usage = _USAGE
    if fields.get("target_modules") == [_NOTHING]:
        usage += f"{_NOTHING} matches nothing; without it ms-swift would adapt every linear.\n"
    return rendered_yaml(narrowed, usage, fields)


def _check(placement: Placement, rendered: Rendered) -> None:
    import yaml
    from peft import LoraConfig

    from plop_lora.exports.dryrun import check_with_peft

    fields = yaml.safe_load(rendered.text)
    config = LoraConfig(
        r=fields["lora_rank"],
        lora_alpha=fields["lora_alpha"],
        target_modules=fields.get("target_regex") or fields["target_modules"],
        target_parameters=fields.get("target_parameters"),
        lora_dropout=fields["lora_dropout"],
        use_rslora=fields["use_rslora"],
        task_type=placement.model.task_type,
    )
    check_with_peft(_narrow(placement).placement, config)


TARGET = Target(
    name="ms-swift",
    file_name="ms_swift.yaml",
    render=_render,
    check=_check,
    description="Add your dataset and options, then: swift sft {file}",
    source="https://swift.readthedocs.io/en/latest/Instruction/Command-line-parameters.html",
    read_by="from peft",
)
