"""How much memory was used, and whether an error says that it is full: one rule for every step.

torch and its allocators say the latter by different classes and words, and a wrapper such as Ray or
accelerate keeps the words alone. Imports the standard library only, and torch where a GPU is asked.
"""

from __future__ import annotations

import errno
import sys

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


def peak_memory(device: str = "cpu") -> int:
    """Return the largest use of memory, in bytes.

    Args:
        device: torch's name of a device. For a GPU it is what torch has allocated there since its
            statistics were reset, for any other device the resident memory of this process since
            it started.

    Returns:
        0 where the system does not say, as on Windows.
    """
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak_memory(device: str) -> None:
    """Let `peak_memory` of a GPU start here; that of a process cannot be reset."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)
