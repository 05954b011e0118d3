"""What each trainer makes of its file: the rule by which it builds a LoraConfig.

Written down from the trainers' sources, apart from the code under test: TRL 1.16
(trainer/model_config.py, trainer/utils.py), axolotl 0.19 (loaders/adapter.py), LLaMA-Factory
0.9.5 (model/adapter.py, model/model_utils/visual.py), Unsloth of August 2026 (models/llama.py),
ms-swift 4.6 (cli/main.py, pipelines/train/tuner.py).
"""

from __future__ import annotations

import json
import sys
import types
from typing import Any

import pytest
import yaml
from peft import LoraConfig


def _peft(text: str, model: Any) -> LoraConfig:
    return LoraConfig(**json.loads(text))


def trl_rule(text: str, model: Any) -> LoraConfig:
    """`ModelConfig.__post_init__` and `get_peft_config`: one item becomes a pattern."""
    fields = yaml.safe_load(text)
    targets = fields["lora_target_modules"]
    return LoraConfig(
        task_type=fields["lora_task_type"],
        r=fields["lora_r"],
        lora_alpha=fields["lora_alpha"],
        lora_dropout=fields["lora_dropout"],
        use_rslora=fields["use_rslora"],
        target_modules=targets[0] if len(targets) == 1 else targets,
        target_parameters=fields.get("lora_target_parameters"),
    )


def _axolotl(text: str, model: Any) -> LoraConfig:
    fields = yaml.safe_load(text)
    assert not fields["lora_target_linear"]
    given = ("use_rslora", "use_dora", "init_lora_weights")
    kept = {key: fields[f"peft_{key}"] for key in given if fields[f"peft_{key}"]}
    for key in ("rank_pattern", "alpha_pattern"):
        if fields.get(f"lora_{key}"):
            kept[key] = fields[f"lora_{key}"]
    if fields.get("peft", {}).get("loftq_config"):
        kept["loftq_config"] = fields["peft"]["loftq_config"]
    if fields.get("lora_target_parameters"):
        assert not fields["lora_dropout"], "Axolotl's schema refuses dropout beside parameters"
    alphas = [fields["lora_alpha"], *fields.get("lora_alpha_pattern", {}).values()]
    assert all(type(alpha) is int for alpha in alphas), "Axolotl's schema wants whole alphas"
    return LoraConfig(
        r=fields["lora_r"],
        lora_alpha=fields["lora_alpha"],
        lora_dropout=fields["lora_dropout"],
        target_modules=fields["lora_target_modules"] or [],
        target_parameters=fields.get("lora_target_parameters") or [],
        bias="none",
        **kept,
    )


TOWERS = {"qwen2_5_vl": (["visual.patch_embed", "visual.blocks"], "visual.merger"),
          "gemma3": (["vision_tower"], "multi_modal_projector")}  # fmt: skip


def _llama_factory(text: str, model: Any) -> LoraConfig:
    """In a composite model a target is looked for anywhere in the names that are not frozen."""
    fields = yaml.safe_load(text)
    targets = [target.strip() for target in fields["lora_target"].split(",")]
    if model.config.model_type in TOWERS:
        tower, projector = TOWERS[model.config.model_type]
        forbidden = tower if fields["freeze_vision_tower"] else []
        forbidden = [*forbidden, *([projector] if fields["freeze_multi_modal_projector"] else [])]
        targets = [
            name
            for name, _ in model.named_modules()
            if any(target in name for target in targets)
            and not any(word in name for word in forbidden)
        ]
    return LoraConfig(
        r=fields["lora_rank"],
        lora_alpha=fields["lora_alpha"] or 2 * fields["lora_rank"],
        lora_dropout=fields["lora_dropout"],
        use_rslora=fields["use_rslora"],
        target_modules=targets,
    )


def _ms_swift(text: str, model: Any) -> LoraConfig:
    """Every value is a word on a command line, so null and an empty list cannot be said."""
    fields = yaml.safe_load(text)
    assert all(value is not None and value != [] for value in fields.values())
    return LoraConfig(
        r=int(str(fields["lora_rank"])),
        lora_alpha=float(str(fields["lora_alpha"])),
        lora_dropout=float(str(fields["lora_dropout"])),
        use_rslora={"True": True, "False": False}[str(fields["use_rslora"])],
        target_modules=fields.get("target_regex") or fields.get("target_modules", ["all-linear"]),
        target_parameters=fields.get("target_parameters"),
    )


def _unsloth(text: str, model: Any) -> LoraConfig:
    adapters = run_unsloth(text)[1]
    known = set(LoraConfig.__dataclass_fields__)
    targets, parameters = adapters["target_modules"], adapters["target_parameters"]
    assert isinstance(targets, list), "FastLanguageModel reads a string letter by letter"
    assert isinstance(parameters, list), "with None Unsloth adds experts by itself"
    broad = {"gate_proj", "up_proj", "down_proj", "gate_up_proj"}
    experts = any("experts" in name for name, _ in model.named_parameters())
    assert not (experts and broad & set(targets)), "Unsloth adds experts for these leaves"
    config = LoraConfig(**{key: value for key, value in adapters.items() if key in known})
    config.task_type = None
    return config


def run_unsloth(text: str) -> tuple[str, dict[str, Any]]:
    """Run the written file with stand-ins that record the call; return class and arguments."""
    calls: list[tuple[str, dict[str, Any]]] = []

    def loader(name: str) -> type:
        def get_peft_model(model: Any, **options: Any) -> Any:
            calls.append((name, options))
            return model

        return type(name, (), {"get_peft_model": staticmethod(get_peft_model)})

    module = types.ModuleType("unsloth")
    for name in ("FastLanguageModel", "FastModel"):
        setattr(module, name, loader(name))
    written: dict[str, Any] = {}
    exec(text, written)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "unsloth", module)
        assert written["add_adapters"]("a model") == "a model"
    return calls[0]


RULES = {
    "peft": _peft,
    "axolotl": _axolotl,
    "llama-factory": _llama_factory,
    "ms-swift": _ms_swift,
    "trl": trl_rule,
    "unsloth": _unsloth,
}
