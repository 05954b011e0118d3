"""The final finetune: the adapter that ships, trained as the trials were, with checkpoints."""

from plop_lora.finetuning.run import finetune, plan

__all__ = ["finetune", "plan"]
