"""plop-lora: where should LoRA adapters go?

    import plop_lora as plop

    scores = plop.score(model, tokenizer, texts)
    placement = plop.place(scores, top=3)
    config = placement.to_peft()

Names are loaded when they are first used, so that importing the package imports neither torch
nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from plop_lora._version import __version__
from plop_lora.quiet import quiet_imports

if TYPE_CHECKING:
    from plop_lora.comparison import compare
    from plop_lora.data.documents import load_documents
    from plop_lora.errors import PlopError
    from plop_lora.exports.dispatch import export
    from plop_lora.exports.imported import import_adapter
    from plop_lora.exports.trainers.peft import apply
    from plop_lora.finetuning import finetune
    from plop_lora.gating import gate
    from plop_lora.pipeline import run
    from plop_lora.placement import place
    from plop_lora.records import Placement, Scores, Verification
    from plop_lora.scoring import score
    from plop_lora.shortcuts import find_target_modules, lora_config
    from plop_lora.tuning import tune
    from plop_lora.variants.run import robustness
    from plop_lora.verification import verify

_HOMES = {
    "Placement": "records",
    "PlopError": "errors",
    "Scores": "records",
    "Verification": "records",
    "apply": "exports.trainers.peft",
    "compare": "comparison",
    "export": "exports.dispatch",
    "find_target_modules": "shortcuts",
    "finetune": "finetuning",
    "gate": "gating",
    "import_adapter": "exports.imported",
    "load_documents": "data.documents",
    "lora_config": "shortcuts",
    "place": "placement",
    "robustness": "variants.run",
    "run": "pipeline",
    "score": "scoring",
    "tune": "tuning",
    "verify": "verification",
}

__all__ = [
    "Placement",
    "PlopError",
    "Scores",
    "Verification",
    "__version__",
    "apply",
    "compare",
    "export",
    "find_target_modules",
    "finetune",
    "gate",
    "import_adapter",
    "load_documents",
    "lora_config",
    "place",
    "robustness",
    "run",
    "score",
    "tune",
    "verify",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'plop_lora' has no attribute {name!r}")
    with quiet_imports():
        module = importlib.import_module(f"plop_lora.{_HOMES[name]}")
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
