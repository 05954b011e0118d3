"""Read single tensors from the safetensors files of a checkpoint, without loading any file whole.

A tensor is either read into memory that the caller owns, or mapped: then only the pages that are
touched become resident, and `release_pages` gives those back.

Knows files and tensor names; models and blocks stand in `checkpoint.py`.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers.modeling_utils import str_to_torch_dtype
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file
from transformers.utils.hub import get_checkpoint_shard_files

from plop_lora.errors import ModelError

_HEADER_LENGTH = 8


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a tensor lies: its file, its first byte there, and what it is."""

    file: str
    start: int
    size: int
    dtype: torch.dtype
    shape: tuple[int, ...]


def shard_files(name: str) -> list[str] | None:
    """Return the safetensors files of a local folder or hub id, or None if it has none.

    Files of a hub id that are not in the cache yet are downloaded.
    """
    single = cached_file(name, SAFE_WEIGHTS_NAME, _raise_exceptions_for_missing_entries=False)
    if single is not None:
        return [str(single)]
    index = cached_file(name, SAFE_WEIGHTS_INDEX_NAME, _raise_exceptions_for_missing_entries=False)
    if index is None:
        return None
    files, _ = get_checkpoint_shard_files(name, index)
    return [str(file) for file in files]


class Shards:
    """The tensors of a set of safetensors files by name."""

    def __init__(self, files: list[str]) -> None:
        """Read the headers of all files.

        Raises:
            ModelError: a file is missing, cut off or damaged, or holds a dtype torch has not.
        """
        self._entries = {name: entry for file in files for name, entry in _entries(file)}
        self._maps = {file: _Map(file) for file in files}
        self._descriptors: dict[str, int] = {}

    def __iter__(self) -> Iterator[str]:
        """Go through the names of all tensors."""
        return iter(self._entries)

    def __getitem__(self, name: str) -> Entry:
        """Return where a tensor lies."""
        return self._entries[name]

    @property
    def size(self) -> int:
        """Bytes of all tensors as they are stored."""
        return sum(entry.size for entry in self._entries.values())

    def read_into(self, name: str, target: torch.Tensor) -> torch.Tensor:
        """Read a tensor into bytes of the caller's and return them as that tensor.

        Args:
            name: of the tensor.
            target: uint8 on the CPU, as long as the tensor, aligned for its dtype.

        Raises:
            ModelError: the file ends before the tensor does, or cannot be read.
        """
        entry = self._entries[name]
        self._fill(name, target, entry.start)
        return target.view(entry.dtype).view(entry.shape)

    def read_rows(self, name: str, rows: list[int]) -> torch.Tensor:
        """Read some rows of a matrix.

        Raises:
            ModelError: the file ends before the tensor does, or cannot be read.
        """
        entry = self._entries[name]
        width = entry.size // entry.shape[0]
        target = torch.empty(len(rows), width, dtype=torch.uint8)
        for place, row in enumerate(rows):
            self._fill(name, target[place], entry.start + row * width)
        return target.view(entry.dtype)

    def _fill(self, name: str, target: torch.Tensor, start: int) -> None:
        """Read bytes of a tensor from a position in its file."""
        file = self._entries[name].file
        view, done = target.numpy().data, 0
        while done < len(view):
            try:
                count = os.preadv(self._descriptor(file), [view[done:]], start + done)
            except OSError as error:
                raise _damaged(file, str(error)) from error
            if not count:
                raise _damaged(file, f"it ends inside {name}")
            done += count

    def mapped(self, name: str) -> torch.Tensor:
        """Return a tensor whose pages are those of the file; it must never be written to."""
        entry = self._entries[name]
        piece = self._maps[entry.file].bytes_[entry.start : entry.start + entry.size]
        if entry.start % entry.dtype.itemsize:
            piece = piece.clone()
        return piece.view(entry.dtype).view(entry.shape)

    def release_pages(self) -> None:
        """Give back the resident pages of all maps; they are read again when touched."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for map_ in self._maps.values():
                map_.pages.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Close the files until the next read; maps live as long as a tensor of theirs does."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def _descriptor(self, file: str) -> int:
        if file not in self._descriptors:
            self._descriptors[file] = os.open(file, os.O_RDONLY)
        return self._descriptors[file]


class _Map:
    """A file as read-only memory, and the tensor of its bytes."""

    def __init__(self, file: str) -> None:
        with Path(file).open("rb") as opened:
            self.pages = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        with warnings.catch_warnings():
            # torch warns that the memory cannot be written, which is the point of it.
            warnings.simplefilter("ignore", UserWarning)
            self.bytes_ = torch.frombuffer(self.pages, dtype=torch.uint8)


def _entries(file: str) -> Iterator[tuple[str, Entry]]:
    """Go through the header of a file, which safetensors has checked against its length."""
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
