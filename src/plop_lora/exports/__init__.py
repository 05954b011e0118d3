"""Export a placement as a trainer's configuration, or a trained adapter as a server's folder."""

from plop_lora.exports.caveats import CAVEATS, Caveat, caveats_of
from plop_lora.exports.dispatch import export
from plop_lora.exports.registry import TARGETS, Exported
from plop_lora.exports.serving.checks import lint
from plop_lora.exports.serving.findings import Finding
from plop_lora.exports.serving.servers import SERVERS
from plop_lora.exports.serving.vllm import Folded, fold
from plop_lora.exports.target import Loss, Rendered, Target
from plop_lora.exports.trainers.peft import to_peft

__all__ = [
    "CAVEATS",
    "SERVERS",
    "TARGETS",
    "Caveat",
    "Exported",
    "Finding",
    "Folded",
    "Loss",
    "Rendered",
    "Target",
    "caveats_of",
    "export",
    "fold",
    "lint",
    "to_peft",
]
