"""A placement as TRL's YAML: the fields of its `ModelConfig`, for `trl sft` and its siblings.

TRL cannot say ranks per module, the initialisation or LoRA+. The text is made without TRL; the
check parses it with TRL's own parser.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from plop_lora.errors import require
from plop_lora.exports.document import rendered_yaml
from plop_lora.exports.names import target_modules, target_parameters
from plop_lora.exports.narrow import (
    Narrowed,
    narrow,
    no_dropout_on_parameters,
    no_loraplus,
    one_rank,
    only_inits,
)
from plop_lora.exports.target import Rendered, Target
from plop_lora.exports.trainers.peft import plain
from plop_lora.records import Placement

_USAGE = """
Use: trl sft --config trl.yaml --dataset_name YOUR/DATA --output_dir OUT (grpo, dpo … alike).
The rest of your configuration goes below or on the command line.
"""


def _narrow(placement: Placement) -> Narrowed:
    return narrow(
        placement,
        one_rank,
        only_inits(),
        no_loraplus("A and B train at one rate; TRL has no LoRA+"),
        no_dropout_on_parameters,
    )


def _fields(placement: Placement) -> dict[str, Any]:
    model = {"model_name_or_path": placement.model.name}
    if placement.model.revision is not None:
        model["model_revision"] = placement.model.revision
    fields: dict[str, Any] = {
        **model,
        "use_peft": True,
        "lora_task_type": placement.model.task_type,
        "lora_r": placement.sites[0].rank,
        "lora_alpha": plain(placement.sites[0].alpha),
        "lora_dropout": placement.settings.dropout,
        "use_rslora": placement.settings.rslora,
        "use_dora": False,
        "lora_target_modules": _targets(placement),
    }
    parameters = target_parameters(placement)
    # Left out rather than null, since TRL releases before target_parameters refuse the key.
    return {**fields, "lora_target_parameters": parameters} if parameters else fields


def _targets(placement: Placement) -> list[str] | str:
    """Return the targets; a single name stands there twice.

    TRL turns a list of one item into a string, which PEFT matches as a pattern against the whole
    name, so that `o_proj` alone matches nothing.
    """
    targets = target_modules(placement)
    return targets * 2 if isinstance(targets, list) and len(targets) == 1 else targets


def _render(placement: Placement) -> Rendered:
    narrowed = _narrow(placement)
    usage = _USAGE
    fields = _fields(narrowed.placement)
    if len(set(fields["lora_target_modules"])) == 1:
        usage += "The one target stands there twice: TRL reads a list of one as a full pattern.\n"
    return rendered_yaml(narrowed, usage, fields)


def _check(placement: Placement, rendered: Rendered) -> None:
    from plop_lora.exports.dryrun import check_with_peft

    trl = require("trl")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, TARGET.file_name)
        path.write_text(rendered.text, encoding="utf-8")
        parser = trl.TrlParser([trl.ModelConfig])
        (model_config,) = parser.parse_args_and_config(["--config", str(path)])
    check_with_peft(_narrow(placement).placement, trl.get_peft_config(model_config))


TARGET = Target(
    name="trl",
    file_name="trl.yaml",
    render=_render,
    check=_check,
    description="Give it to TRL: trl sft --config {file}, with your data and training options.",
    source="https://huggingface.co/docs/trl/clis",
)
