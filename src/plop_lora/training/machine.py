"""Which faults of a trial belong to the machine, and which to the trial itself. No torch."""

from __future__ import annotations

from collections.abc import Iterator

from plop_lora.models.memory import is_out_of_memory

_FULL = ("no space left on device", "disk quota exceeded", "read-only file system",
         "input/output error", "too many open files")  # fmt: skip
"""What libraries of other languages say in errors of their own kind."""


def is_of_machine(error: BaseException) -> bool:
    """Whether an error says that the machine lacks something: memory, disk, a library, a file.

    The same trial may well succeed when that is mended, or on another machine. So it is no result
    of the placement. An error counts by what it was raised from as well.
    """
    return any(
        isinstance(one, OSError | ImportError)
        or is_out_of_memory(one)
        or any(word in str(one).lower() for word in _FULL)
        for one in _chain(error)
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from, as its author says."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__
