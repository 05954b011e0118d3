"""Logs that other evaluation suites have written, read without importing those suites.

A log holds one task measured on one model, sample by sample. Imports no torch.
"""

from plop_lora.evaluation.logs.log import Log, Sample
from plop_lora.evaluation.logs.paired import PairedLog, paired
from plop_lora.evaluation.logs.read import read_log

__all__ = ["Log", "PairedLog", "Sample", "paired", "read_log"]
