"""Peak memory, and recognition of out-of-memory errors, for every step.

torch and its allocators report a lack of memory with different classes and messages, and wrappers
such as Ray or accelerate keep only the message. Imports the standard library, and torch only for a
GPU.
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
    """Return whether an error reports a lack of memory, on an accelerator or on the host."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True  # torch's own class, recognised without importing torch
    words = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in words for word in _WORDS)


def peak_memory(device: str = "cpu") -> int:
    """Return the peak memory in bytes.

    Args:
        device: Name of a device of torch.

    Returns:
        For a GPU, the peak of torch's allocations since the last reset; for other devices, the
        peak resident memory of this process since its start. It is 0 if the system does not report
        it, as on Windows.
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
    """Reset the `peak_memory` of a GPU; that of a process cannot be reset."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)
