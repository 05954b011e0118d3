"""Keep what libraries log while they are imported off the user's terminal.

torchao warns of kernels that it cannot load here and torch of what torchao registers; neither
concerns what plop-lora does. Imports the standard library only.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

NOISY = ("torchao", "torch.utils._pytree")


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
    """Silence warnings of `NOISY` while the block imports; their levels come back after it."""
    loggers = [logging.getLogger(name) for name in NOISY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(max(logger.level, logging.ERROR))
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
