"""From a placement to a trainer's own configuration, read back from the real library."""

from plop_lora.export.peft import to_peft
from plop_lora.export.registry import TARGETS, Exported, export
from plop_lora.export.target import Loss, Rendered, Target

__all__ = ["TARGETS", "Exported", "Loss", "Rendered", "Target", "export", "to_peft"]
