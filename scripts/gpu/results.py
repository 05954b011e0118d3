"""What the parts of a run on a GPU share: their command line, their clock, and their record.

A part writes one JSON file, whole or not at all, and writes it again whenever it knows more: what
stops it in the middle leaves what it had measured by then.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from plop_lora.files import atomic_file

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"


def options_of(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with what every part takes."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--results", type=Path, required=True, help="the folder of the record")
    parser.add_argument("--device", default="cuda")
    return parser


def write(folder: Path, part: str, record: Mapping[str, Any]) -> None:
    """Write the record of a part in place of an older one."""
    with atomic_file(folder / f"{part}.json") as file:
        json.dump(record, file, indent=1)
        file.write("\n")


def seconds_of(work: Callable[[], Any], device: str) -> float:
    """Return the seconds that some work takes until the device is done with it."""
    settle(device)
    started = time.perf_counter()
    work()
    settle(device)
    return time.perf_counter() - started


def settle(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)


def peak_of(work: Callable[[], Any], device: str) -> int | None:
    """Return the bytes that some work takes on the GPU at most, beyond what was there before."""
    if not device.startswith("cuda"):
        work()
        return None
    import torch

    settle(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    settle(device)
    return torch.cuda.max_memory_allocated(device) - before


def spread(values: Iterable[float]) -> dict[str, float] | None:
    """Return the median and the range of some numbers, None where there are none.

    >>> spread([3.0, 1.0, 2.0])
    {'median': 2.0, 'low': 1.0, 'high': 3.0, 'n': 3}
    """
    found = sorted(values)
    if not found:
        return None
    return {
        "median": statistics.median(found),
        "low": found[0],
        "high": found[-1],
        "n": len(found),
    }
