"""Equal-budget finetunes of rival placements: does the shortlist hold? Imports no torch."""

from plop_lora.verification.run import plan, verify

__all__ = ["plan", "verify"]
