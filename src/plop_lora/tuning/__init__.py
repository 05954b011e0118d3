"""The search over placement, rank, initialisation and learning rate under a budget.

Three stages: a ladder of learning rates centres the search, a tree-structured Parzen estimator
goes through the space on the selection split, and fresh seeds on the report split say whether
what it found holds. Imports neither torch nor optuna before it runs.
"""

from plop_lora.tuning.run import plan, tune

__all__ = ["plan", "tune"]
