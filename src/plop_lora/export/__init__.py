"""From a placement to a trainer's own configuration, read back from the real library."""

from plop_lora.export.peft import export, peft_fields, target_modules, to_peft

__all__ = ["export", "peft_fields", "target_modules", "to_peft"]
