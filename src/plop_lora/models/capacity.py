"""The memory that the system has free for a model.

Supports Linux with control groups of both versions, and systems that report their physical pages.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch

PROC = Path("/proc")
GROUPS = Path("/sys/fs/cgroup")
_NO_LIMIT = 1 << 60
"""Control groups of version 1 report a number above this one if there is no limit."""


def available_memory(*, proc: Path = PROC, groups: Path = GROUPS) -> int | None:
    """Return the bytes of RAM that this process can still use, or None if that is not known.

    This is the minimum of the free memory of the system and of each control group of the process.
    The file pages of a group count as free, because the kernel can reclaim them.

    Args:
        proc: Mount point of procfs.
        groups: Mount point of the control groups.
    """
    known = [*_system(proc), *_groups(proc, groups)]
    return max(0, min(known)) if known else None


def device_memory(device: torch.device) -> int | None:
    """Return the free bytes of a CUDA device, or None for other devices."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return None


def _system(proc: Path) -> Iterator[int]:
    try:
        for line in (proc / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                yield int(line.split()[1]) * 1024
    except OSError:
        if "SC_PHYS_PAGES" in os.sysconf_names:
            yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _groups(proc: Path, root: Path) -> Iterator[int]:
    """Yield the free bytes of each control group of this process, from its own to the root."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield from _left(root, path, "memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
            yield from _left(root / "memory", path, *names)


def _left(root: Path, path: str, limit_file: str, usage_file: str) -> Iterator[int]:
    group = root / path.lstrip("/")
    # Inside a container the path is often that of the host, and the root is the container's group.
    for folder in (group, *group.parents):
        if not folder.is_relative_to(root):
            return
        limit, usage = _number(folder / limit_file), _number(folder / usage_file)
        if limit is not None and usage is not None and limit < _NO_LIMIT:
            yield limit - usage + _file_pages(folder)


def _number(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _file_pages(folder: Path) -> int:
    try:
        rows = [line.split() for line in (folder / "memory.stat").read_text().splitlines()]
    except OSError:
        return 0
    return sum(int(row[1]) for row in rows if row[0] in ("inactive_file", "active_file"))
