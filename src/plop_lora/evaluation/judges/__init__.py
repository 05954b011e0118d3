"""Judges that say whether an answer is unsafe: a user's function, or a model behind an endpoint.

Imports no torch.
"""

from plop_lora.evaluation.judges.choose import judge_of
from plop_lora.evaluation.judges.credentials import NO_KEY, key_of, told_by_server
from plop_lora.evaluation.judges.endpoint import check_url
from plop_lora.evaluation.judges.judge import Item, Judge, Rater
from plop_lora.evaluation.judges.threads import each_answered

__all__ = [
    "NO_KEY",
    "Item",
    "Judge",
    "Rater",
    "check_url",
    "each_answered",
    "judge_of",
    "key_of",
    "told_by_server",
]
