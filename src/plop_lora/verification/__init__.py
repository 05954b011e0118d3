"""Equal-budget finetunes of rival placements: does the shortlist hold?

The package is called as its step: `plop.verify(scores, recipe)`. Imports no torch.
"""

from plop_lora.step import callable_as
from plop_lora.verification.run import plan, verify

__all__ = ["plan", "verify"]

callable_as(__name__, verify)
