"""Acquiring data: read, part, and clean the rows that every later step uses, with a record of it.

Imports no torch.
"""

from plop_lora.acquisition.run import acquire
from plop_lora.acquisition.writing import EVAL_FILE, RECORD_FILE, TRAIN_FILE

__all__ = ["EVAL_FILE", "RECORD_FILE", "TRAIN_FILE", "acquire"]
