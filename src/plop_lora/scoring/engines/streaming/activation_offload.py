"""Offload the hidden states of passes that wait for a block to a file, above a limit of memory.

A pass and its model keep the tensor objects; only their storage is freed, and filled again before
the pass continues. Only tensors that a block has just returned to that pass are offloaded, so no
other pass can be using them.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch

from plop_lora.errors import OutputError

SMALLEST = 1 << 16
"""Size in bytes from which a tensor is offloaded; smaller ones stay in memory."""


class ActivationOffload:
    """Keeps waiting hidden states in memory up to a limit, and in a temporary file beyond it."""

    def __init__(self, limit: int, *, smallest: int = SMALLEST) -> None:
        """Set the limits; the file is created when it is first needed.

        Args:
            limit: Maximum number of bytes of waiting hidden states in memory.
            smallest: Size in bytes below which a tensor is neither counted nor offloaded.
        """
        self.limit = limit
        self.smallest = smallest
        self.held = 0
        self.written = 0
        self._file: Any = None
        self._end = 0
        self._free: dict[int, list[int]] = defaultdict(list)
        self._made: dict[int, set[int]] = {}
        self._waiting: dict[int, list[tuple[torch.UntypedStorage, int, int | None]]] = {}

    def record_output(self, index: int, result: object) -> None:
        """Record the tensors that a block has just returned to a pass; only these are offloaded."""
        self._made[index] = {tensor.untyped_storage()._cdata for tensor in _tensors(result)}

    def offload(self, index: int, arguments: object) -> None:
        """Count the tensors of a waiting pass, and move them to the file above the limit."""
        waiting: list[tuple[torch.UntypedStorage, int, int | None]] = []
        made = self._made.pop(index, set())
        for tensor in _tensors(arguments):
            storage = tensor.untyped_storage()
            size = storage.nbytes()
            if storage._cdata not in made or size < self.smallest or not storage.resizable():
                continue
            made.discard(storage._cdata)
            place = None
            if self.held + size > self.limit and tensor.device.type == "cpu":
                place = self._write(storage)
            else:
                self.held += size
            waiting.append((storage, size, place))
        self._waiting[index] = waiting

    def restore(self, index: int) -> None:
        """Read the tensors of a waiting pass back into memory."""
        for storage, size, place in self._waiting.pop(index, ()):
            if place is None:
                self.held -= size
            else:
                storage.resize_(size)
                done, view = 0, _view(storage)
                while done < size:
                    done += os.preadv(self._file.fileno(), [view[done:]], place + done)
                self._free[size].append(place)

    def close(self) -> None:
        """Delete the file."""
        if self._file is not None:
            self._file.close()

    def _write(self, storage: torch.UntypedStorage) -> int:
        try:
            return self._written(storage)
        except OSError as error:
            needed = (self._end + storage.nbytes()) / 2**20
            raise OutputError(
                f"Memory is too small for the hidden states between blocks, and writing "
                f"{needed:,.0f} MiB of them to {tempfile.gettempdir()} failed "
                f"({error.strerror or error}). Set TMPDIR to another folder, or score fewer texts "
                "(--samples) or shorter ones (--max-length)."
            ) from error

    def _written(self, storage: torch.UntypedStorage) -> int:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="plop-lora-")  # noqa: SIM115
        size = storage.nbytes()
        if self._free[size]:
            place = self._free[size].pop()
        else:
            place, self._end = self._end, self._end + size
        done, view = 0, _view(storage)
        while done < size:
            done += os.pwrite(self._file.fileno(), view[done:], place + done)
        storage.resize_(0)
        self.written += size
        return place


def _view(storage: torch.UntypedStorage) -> memoryview:
    """Return the bytes of a storage as a view; a numpy array would prevent resizing it."""
    array = (ctypes.c_ubyte * storage.nbytes()).from_address(storage.data_ptr())
    return memoryview(array).cast("B")


def _tensors(value: object) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from _tensors(inner)
