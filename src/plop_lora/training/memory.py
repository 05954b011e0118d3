"""When memory does not suffice: how it is freed, what batch to try next."""

from __future__ import annotations

import gc


def smaller_batch(size: int) -> int | None:
    """Return the largest proper divisor of a batch size, None for 1: half of an even one.

    A divisor leaves the effective batch what it was.

    >>> smaller_batch(8), smaller_batch(9), smaller_batch(1)
    (4, 3, None)
    """
    return next((part for part in range(size // 2, 0, -1) if size % part == 0), None)


def release_memory() -> None:
    """Free what no name holds any more, the cache of an accelerator included."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
