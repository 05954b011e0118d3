"""A placement as LLaMA-Factory's YAML.

LLaMA-Factory cannot say ranks per module, experts held as one parameter, or any initialisation
but PiSSA, and it always trains a language model. It is not imported: it hands these fields to
`peft.LoraConfig`, and the check does the same.
"""

from __future__ import annotations

from typing import Any

from plop_lora.errors import ExportError
from plop_lora.exports.document import rendered_yaml
from plop_lora.exports.names import is_multimodal, listed_modules
from plop_lora.exports.narrow import (
    Narrowed,
    narrow,
    no_dropout_on_parameters,
    no_parameters,
    one_rank,
    only_inits,
)
from plop_lora.exports.target import Rendered, Target
from plop_lora.exports.trainers.peft import plain
from plop_lora.records import Placement

_USAGE = """
Use: add your dataset, template, output_dir and training options, then:
llamafactory-cli train llama_factory.yaml
"""
_HEADS = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")
_WHOLE_PISSA = -1


def _narrow(placement: Placement) -> Narrowed:
    return narrow(
        placement,
        _language_model,
        no_parameters,
        one_rank,
        only_inits("pissa", "pissa_niter_N"),
        no_dropout_on_parameters,
    )


def _language_model(narrowed: Narrowed) -> Narrowed:
    task = narrowed.placement.model.task_type
    if task not in _HEADS:
        return narrowed
    return narrowed.give_up(
        f"the task {task}",
        "LLaMA-Factory trains the model as a language model, without this head",
        narrowed.placement,
    )


def _fields(placement: Placement) -> dict[str, Any]:
    settings = placement.settings
    fields: dict[str, Any] = {"model_name_or_path": placement.model.name}
    if placement.model.revision is not None:
        fields["model_revision"] = placement.model.revision
    fields |= {
        "finetuning_type": "lora",
        "lora_rank": placement.sites[0].rank,
        "lora_alpha": plain(placement.sites[0].alpha),
        "lora_dropout": settings.dropout,
        "lora_target": ",".join(_targets(placement)),
        "use_rslora": settings.rslora,
        "use_dora": False,
        "loraplus_lr_ratio": settings.loraplus_ratio,
        **_pissa(settings.init),
    }
    return {**fields, **_frozen(placement)} if is_multimodal(placement) else fields


def _targets(placement: Placement) -> list[str]:
    """Return names that LLaMA-Factory's own matching takes for the sites and nothing else.

    In a model with a tower it looks for each target anywhere in a name, elsewhere PEFT looks at
    the end.
    """
    targets = listed_modules(placement, hits=_contains if is_multimodal(placement) else None)
    for target in targets:
        if "," in target:
            raise ExportError(
                f"LLaMA-Factory separates names with commas, so {target!r} would be read as "
                "several. Export to another trainer: --to peft."
            )
    return targets


def _contains(name: str, target: str) -> bool:
    return target in name


def _pissa(init: str) -> dict[str, object]:
    if init == "default":
        return {"pissa_init": False}
    iterations = init.removeprefix("pissa_niter_")
    return {
        "pissa_init": True,
        "pissa_iter": int(iterations) if iterations.isdigit() else _WHOLE_PISSA,
    }


def _frozen(placement: Placement) -> dict[str, bool]:
    """Say which parts LLaMA-Factory may drop from the targets: all that the placement leaves."""
    inside = all(site.type.startswith("lm.") for site in placement.sites)
    return {
        "freeze_vision_tower": inside,
        "freeze_multi_modal_projector": inside,
        "freeze_language_model": False,
    }


def _render(placement: Placement) -> Rendered:
    narrowed = _narrow(placement)
    return rendered_yaml(narrowed, _USAGE, _fields(narrowed.placement))


def _check(placement: Placement, rendered: Rendered) -> None:
    import yaml
    from peft import LoraConfig

    from plop_lora.exports.dryrun import check_with_peft, skeleton

    fields = yaml.safe_load(rendered.text)
    targets = fields["lora_target"].split(",")
    if is_multimodal(placement):
        names = [name for name, _ in skeleton(placement.model).named_modules()]
        targets = [name for name in names if any(target in name for target in targets)]
    config = LoraConfig(
        r=fields["lora_rank"],
        lora_alpha=fields["lora_alpha"],
        target_modules=targets,
        lora_dropout=fields["lora_dropout"],
        use_rslora=fields["use_rslora"],
        task_type=placement.model.task_type,
    )
    check_with_peft(_narrow(placement).placement, config)


TARGET = Target(
    name="llama-factory",
    file_name="llama_factory.yaml",
    render=_render,
    check=_check,
    description="Add your dataset and options, then: llamafactory-cli train {file}",
    source="https://llamafactory.readthedocs.io/en/latest/advanced/arguments.html",
    read_by="from peft",
)
