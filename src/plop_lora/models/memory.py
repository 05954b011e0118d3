"""Whether an error says that memory is full: one rule for scoring, trials and evaluation.

torch and its allocators say it by different classes and words, and a wrapper such as Ray or
accelerate keeps the words alone. Imports the standard library only.
"""

from __future__ import annotations

import errno

_WORDS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "cublas_status_alloc_failed",
    "failed to allocate",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice, on an accelerator or on the host."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True  # torch's own, told without importing torch
    words = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in words for word in _WORDS)
