"""Gates: whether a tuned adapter may ship.

Every check compares the adapter with its base on the same items. The registry of checks is in
`checks`. Imports no torch by itself.
"""

from plop_lora.gating.checkpoints import gate_checkpoints
from plop_lora.gating.run import gate, plan

__all__ = ["gate", "gate_checkpoints", "plan"]
