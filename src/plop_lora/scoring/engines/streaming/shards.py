"""Read single tensors from the safetensors files of a checkpoint, without loading any file whole.

A tensor is memory-mapped: its pages become resident when `fetch` reads them or when they are
accessed, and `release` gives them back. Nothing is copied: a copy would take a core from the matrix
products that run meanwhile, and cost more than the reading.

This file handles files and tensor names; models and blocks are in `checkpoint.py`.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import struct
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers.modeling_utils import str_to_torch_dtype
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file
from transformers.utils.hub import get_checkpoint_shard_files

from plop_lora.errors import ModelError
from plop_lora.models.origin import PLAIN, Origin

_HEADER_LENGTH = 8
READ_BYTES = 1 << 22
"""Bytes per read on systems that cannot load mapped pages on request."""
_CUT = "it ends inside a tensor"
_AROUND = max(1 << 16, mmap.PAGESIZE)
"""Bytes around an accessed page that a kernel also maps if they are in its page cache."""
_POPULATE_READ = 22
"""MADV_POPULATE_READ of linux/mman.h, which the mmap module does not define yet."""
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

Populate = Callable[[int, int], bool]
"""Loads the mapped pages at an address, for a length in bytes; False if that is not supported."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The location of a tensor: its file, offset and size in bytes, dtype and shape."""

    file: str
    start: int
    size: int
    dtype: torch.dtype
    shape: tuple[int, ...]


def shard_files(name: str, origin: Origin = PLAIN) -> list[str] | None:
    """Return the safetensors files of a local folder or hub id, or None if it has none.

    Files of a hub id that are not in the cache yet are downloaded.
    """

    def cached(file: str) -> str | None:
        found = cached_file(
            name, file, _raise_exceptions_for_missing_entries=False, **origin.files()
        )
        return None if found is None else str(found)

    single = cached(SAFE_WEIGHTS_NAME)
    if single is not None:
        return [single]
    index = cached(SAFE_WEIGHTS_INDEX_NAME)
    if index is None:
        return None
    files, _ = get_checkpoint_shard_files(name, index, **origin.files())
    return [str(file) for file in files]


def populate_pages(address: int, length: int) -> bool:
    """Read and map pages as described at `Populate`; supported by Linux 5.14 and later.

    The call goes through ctypes, because Python's own `madvise` holds the GIL during the read.

    Raises:
        OSError: The disk failed, or the file has become shorter.
    """
    if _LIBC is None:
        return False
    start = ctypes.c_void_p(address)
    if _LIBC.madvise(start, ctypes.c_size_t(length), _POPULATE_READ) == 0:
        return True
    number = ctypes.get_errno()
    if number == errno.EINVAL:
        return False
    raise OSError(number, os.strerror(number))


class Shards:
    """The tensors of a set of safetensors files by name."""

    def __init__(
        self,
        files: list[str],
        *,
        populate: Populate = populate_pages,
        read_bytes: int = READ_BYTES,
    ) -> None:
        """Read the headers of all files.

        Args:
            files: The paths of the safetensors files.
            populate: Function that loads mapped pages. If it returns False, the file is read into
                the page cache of the system instead.
            read_bytes: Bytes per read in that case.

        Raises:
            ModelError: A file is missing, truncated or damaged, or holds a dtype that torch lacks.
        """
        self._entries = {name: entry for file in files for name, entry in _entries(file)}
        self._maps = {file: _Map(file, populate) for file in files}
        self._read_bytes = read_bytes
        self._descriptors: dict[str, int] = {}

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of all tensors."""
        return iter(self._entries)

    def __getitem__(self, name: str) -> Entry:
        """Return the location of a tensor."""
        return self._entries[name]

    @property
    def size(self) -> int:
        """Size of all stored tensors in bytes."""
        return sum(entry.size for entry in self._entries.values())

    def read_rows(self, name: str, rows: list[int]) -> torch.Tensor:
        """Read some rows of a matrix.

        Raises:
            ModelError: The file ends before the tensor does, or cannot be read.
        """
        entry = self._entries[name]
        width = entry.size // entry.shape[0]
        target = torch.empty(len(rows), width, dtype=torch.uint8)
        for place, row in enumerate(rows):
            self._fill(entry.file, target[place], entry.start + row * width)
        return target.view(entry.dtype)

    def _fill(self, file: str, target: torch.Tensor, start: int) -> None:
        """Read bytes from a position in a file."""
        view, done = target.numpy().data, 0
        while done < len(view):
            try:
                count = os.preadv(self._descriptor(file), [view[done:]], start + done)
            except OSError as error:
                raise _damaged(file, str(error)) from error
            if not count:
                raise _damaged(file, _CUT)
            done += count

    def mapped(self, name: str) -> torch.Tensor:
        """Return a tensor that is a view of the mapped file and must never be written to."""
        entry = self._entries[name]
        piece = self._maps[entry.file].bytes_[entry.start : entry.start + entry.size]
        if entry.start % entry.dtype.itemsize:
            piece = piece.clone()
        return piece.view(entry.dtype).view(entry.shape)

    def fetch(self, names: Iterable[str]) -> None:
        """Load the pages of tensors into memory.

        A disk error raises here; on access to a page it would kill the process.

        Raises:
            ModelError: The file ends before the tensor does, or cannot be read.
        """
        entries = [self._entries[name] for name in names]
        for entry in entries:
            descriptor = self._descriptor(entry.file)
            if os.fstat(descriptor).st_size < entry.start + entry.size:
                raise _damaged(entry.file, _CUT)
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(descriptor, entry.start, entry.size, os.POSIX_FADV_WILLNEED)
        for entry in entries:
            if not self._maps[entry.file].populate(entry):
                self._read_through(entry)

    def _read_through(self, entry: Entry) -> None:
        """Read a tensor only to fill the page cache of the system."""
        scratch = torch.empty(min(self._read_bytes, entry.size), dtype=torch.uint8)
        for done in range(0, entry.size, self._read_bytes):
            left = scratch[: entry.size - done]
            self._fill(entry.file, left, entry.start + done)

    def release(self, names: Iterable[str]) -> None:
        """Release the resident pages of tensors; they are read again on access."""
        for name in names:
            entry = self._entries[name]
            self._maps[entry.file].release(entry)

    def close(self) -> None:
        """Close the files until the next read; a map stays open as long as a tensor uses it."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def _descriptor(self, file: str) -> int:
        if file not in self._descriptors:
            self._descriptors[file] = os.open(file, os.O_RDONLY)
        return self._descriptors[file]


class _Map:
    """A file as read-only memory, and the tensor of its bytes."""

    def __init__(self, file: str, populate: Populate) -> None:
        self._file = file
        self._populate = populate
        with Path(file).open("rb") as opened:
            self._pages = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        with warnings.catch_warnings():
            # torch warns that the memory is read-only, which is intended.
            warnings.simplefilter("ignore", UserWarning)
            self.bytes_ = torch.frombuffer(self._pages, dtype=torch.uint8)

    def populate(self, entry: Entry) -> bool:
        """Read and map the pages of a tensor; False if the system does not support it.

        Raises:
            ModelError: The disk failed, or the file has become shorter.
        """
        first, length = _pages_of(entry)
        try:
            return self._populate(self.bytes_.data_ptr() + first, length)
        except OSError as error:
            raise _damaged(self._file, error.strerror or str(error)) from error

    def release(self, entry: Entry) -> None:
        """Release the pages of a tensor, and those that were mapped along with them."""
        if hasattr(mmap, "MADV_DONTNEED"):
            first, length = _pages_of(entry, _AROUND)
            self._pages.madvise(mmap.MADV_DONTNEED, first, min(length, len(self._pages) - first))


def _pages_of(entry: Entry, size: int = mmap.PAGESIZE) -> tuple[int, int]:
    """Return the offset of a tensor's pages in its file, and their length in bytes."""
    first = entry.start // size * size
    return first, -(-(entry.start + entry.size) // size) * size - first


def _entries(file: str) -> Iterator[tuple[str, Entry]]:
    """Yield the entries in the header of a file, which safetensors has checked for consistency."""
    try:
        with safe_open(file, framework="pt"):
            pass
        with Path(file).open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(_HEADER_LENGTH))
            header = json.loads(opened.read(length))
    except (SafetensorError, OSError, ValueError, struct.error) as error:
        raise _damaged(file, str(error)) from error
    header.pop("__metadata__", None)
    for name, entry in header.items():
        dtype = str_to_torch_dtype.get(entry["dtype"])
        if dtype is None:
            raise ModelError(
                f"{name} in {file} is stored as {entry['dtype']}, which cannot be streamed. "
                "Use --engine memory."
            )
        first, last = entry["data_offsets"]
        start = _HEADER_LENGTH + length + first
        yield name, Entry(file, start, last - first, dtype, tuple(entry["shape"]))


def _damaged(file: str, reason: str) -> ModelError:
    return ModelError(
        f"The weights file {file} is missing, cut off or damaged ({reason}). "
        "Download or copy it again."
    )
