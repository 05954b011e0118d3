"""Keep the log messages that libraries write on import off the user's terminal.

torchao warns about kernels that it cannot load and torch about what torchao registers, neither of
which concerns plop-lora. Imports the standard library only.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

NOISY = ("torchao", "torch.utils._pytree")


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
    """Silence the warnings of `NOISY` inside the block and restore their levels afterwards."""
    loggers = [logging.getLogger(name) for name in NOISY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(max(logger.level, logging.ERROR))
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
