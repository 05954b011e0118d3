"""From a placement to a trainer's configuration, from a trained adapter to a server's folder."""

from plop_lora.export.dispatch import export_path
from plop_lora.export.findings import Finding
from plop_lora.export.peft import to_peft
from plop_lora.export.registry import TARGETS, Exported, export
from plop_lora.export.servers import SERVERS
from plop_lora.export.serving import lint
from plop_lora.export.target import Loss, Rendered, Target
from plop_lora.export.vllm import Folded, fold

__all__ = [
    "SERVERS",
    "TARGETS",
    "Exported",
    "Finding",
    "Folded",
    "Loss",
    "Rendered",
    "Target",
    "export",
    "export_path",
    "fold",
    "lint",
    "to_peft",
]
