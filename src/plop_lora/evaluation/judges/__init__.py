"""Judges that say whether an answer is unsafe: a user's function, or a model behind an endpoint.

Imports no torch.
"""

from plop_lora.evaluation.judges.choose import judge_of
from plop_lora.evaluation.judges.judge import Item, Judge, Rater

__all__ = ["Item", "Judge", "Rater", "judge_of"]
