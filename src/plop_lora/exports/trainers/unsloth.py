"""A placement as a small Python file for Unsloth, which has no configuration file.

It says everything that PEFT's configuration can say; LoRA+ is the user's to add. Unsloth is not
imported: it hands these arguments to `peft.LoraConfig`, and the check does the same.
"""

from __future__ import annotations

import ast
import pprint
import textwrap
from collections.abc import Mapping
from typing import Any

from plop_lora.errors import ExportError
from plop_lora.exports.document import comment_lines
from plop_lora.exports.names import (
    is_multimodal,
    listed_modules,
    target_parameters,
)
from plop_lora.exports.narrow import (
    Narrowed,
    narrow,
    no_dropout_on_parameters,
    no_loraplus,
    no_tables,
    only_inits,
)
from plop_lora.exports.target import Rendered, Target
from plop_lora.exports.trainers.peft import init_weights, plain, rank_patterns
from plop_lora.placement import alpha_of
from plop_lora.records import Placement

_USAGE = """
Use: from unsloth_adapters import MODEL, add_adapters
     model, tokenizer = {loader}.from_pretrained(**MODEL, max_seq_length=…)
     model = add_adapters(model)
The file must not be called unsloth.py, or Python would import it instead of Unsloth.
"""
_BODY = '''
MODEL = {model}

ADAPTERS = {adapters}


def add_adapters(model, **others):
    """Return the model with the placed adapters; `others` are further options of Unsloth."""
    from unsloth import {loader}

    return {loader}.get_peft_model(model, **ADAPTERS, **others)
'''


def _narrow(placement: Placement) -> Narrowed:
    return narrow(
        placement,
        no_tables("embed_tokens", "lm_head"),
        only_inits("gaussian", "loftq"),
        no_loraplus(
            "A and B train at one rate unless you make the optimizer with "
            "peft.optimizers.create_loraplus_optimizer"
        ),
        no_dropout_on_parameters,
    )


def _loader(placement: Placement) -> str:
    """Return the class that loads such a model: the fast one is for plain language models."""
    plain_text = placement.model.task_type == "CAUSAL_LM" and not is_multimodal(placement)
    return "FastLanguageModel" if plain_text else "FastModel"


def _adapters(placement: Placement) -> dict[str, object]:
    """Return the arguments of `get_peft_model`.

    The targets are a list, since the fast class reads a pattern letter by letter; the parameters
    are one even where it is empty, since with None Unsloth adds experts by itself.
    """
    settings = placement.settings
    largest = max(site.rank for site in placement.sites)
    ranks, alphas = rank_patterns(placement)
    adapters: dict[str, Any] = {
        "r": largest,
        "lora_alpha": plain(alpha_of(largest, placement.scaling, settings)),
        "lora_dropout": settings.dropout,
        "bias": "none",
        "target_modules": listed_modules(placement),
        "target_parameters": target_parameters(placement),
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "use_rslora": settings.rslora,
        "init_lora_weights": init_weights(settings),
        "layers_to_transform": None,
        "modules_to_save": None,
    }
    return {**adapters, **_scope(placement)} if _loader(placement) == "FastModel" else adapters


def _scope(placement: Placement) -> dict[str, object]:
    """Return what keeps `FastModel` from filtering the list: every part of the model allowed."""
    return {
        "finetune_vision_layers": True,
        "finetune_language_layers": True,
        "finetune_attention_modules": True,
        "finetune_mlp_modules": True,
        "finetune_audio_layers": False,
        "task_type": placement.model.task_type,
    }


def _render(placement: Placement) -> Rendered:
    narrowed = _narrow(placement)
    placement = narrowed.placement
    loader = _loader(placement)
    model = {"model_name": placement.model.name, "revision": placement.model.revision}
    body = _BODY.format(
        model=_python_dict(model),
        adapters=_python_dict(_adapters(placement)),
        loader=loader,
    )
    text = comment_lines(narrowed, _USAGE.format(loader=loader)) + body
    return Rendered(text, placement.trainable_parameters, narrowed.losses)


def _python_dict(values: Mapping[str, object]) -> str:
    """Return a dictionary as source code, one entry a line."""
    entries = "".join(
        f"{key!r}: {pprint.pformat(value, sort_dicts=False, width=88)},\n"
        for key, value in values.items()
    )
    return "{\n" + textwrap.indent(entries, "    ") + "}"


def _check(placement: Placement, rendered: Rendered) -> None:
    from peft import LoraConfig

    from plop_lora.exports.dryrun import check_with_peft

    adapters = read_constant(rendered.text, "ADAPTERS")
    known = {name: adapters[name] for name in adapters if not name.startswith("finetune_")}
    config = LoraConfig(**{**known, "init_lora_weights": True})
    config.task_type = placement.model.task_type
    check_with_peft(_narrow(placement).placement, config)


def read_constant(source: str, name: str) -> Any:
    """Return the literal that a Python file assigns to a name; nothing of the file is run."""
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == name:
            return ast.literal_eval(statement.value)
    raise ExportError(f"The file assigns nothing to {name}.")


TARGET = Target(
    name="unsloth",
    file_name="unsloth_adapters.py",
    render=_render,
    check=_check,
    description="Import it beside your Unsloth script: model = add_adapters(model).",
    source="https://docs.unsloth.ai/get-started/fine-tuning-llms-guide/lora-hyperparameters-guide",
    read_by="from peft",
)
