"""Handling of out-of-memory errors: releasing memory, and the next batch size to try."""

from __future__ import annotations

import gc


def smaller_batch(size: int) -> int | None:
    """Return the largest proper divisor of a batch size, or None for 1.

    With a divisor, accumulation can keep the effective batch size the same.

    >>> smaller_batch(8), smaller_batch(9), smaller_batch(1)
    (4, 3, None)
    """
    return next((part for part in range(size // 2, 0, -1) if size % part == 0), None)


def release_memory() -> None:
    """Release unreferenced memory, including the cache of an accelerator."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
