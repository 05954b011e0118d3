"""Whether an error of a trial is due to the machine or to the trial itself. No torch."""

from __future__ import annotations

from collections.abc import Iterator

from plop_lora.models.memory import is_out_of_memory

_FULL = ("no space left on device", "disk quota exceeded", "read-only file system",
         "input/output error", "too many open files")  # fmt: skip
"""Messages of such errors in libraries of other languages, which have their own error classes."""


def is_of_machine(error: BaseException) -> bool:
    """Whether an error is due to the machine: its memory, disk, libraries or files.

    The same trial may succeed once that is repaired, or on another machine, so such an error is
    not a result of the placement. The causes of an error are considered as well.
    """
    return any(
        isinstance(one, OSError | ImportError)
        or is_out_of_memory(one)
        or any(word in str(one).lower() for word in _FULL)
        for one in _chain(error)
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its explicit causes."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__
