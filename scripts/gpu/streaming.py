"""What it costs to score a checkpoint that stays in the host's memory, block by block on a GPU.

A Llama shape of about 8 B parameters, drawn on the device and written to a file system in memory,
is scored by the engine that holds it on the GPU and by the one that streams it, interleaved. The
scores must be equal; time and the largest memory on the GPU are what differs.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import BENCHMARKS, options_of, peak_of, seconds_of, spread, write

sys.path.insert(0, str(BENCHMARKS))
import stream as benchmark

from plop_lora.data.batches import Batch
from plop_lora.models.loading import load_model, quiet_loading
from plop_lora.scoring.engines import in_memory as memory
from plop_lora.scoring.engines.streaming import engine as stream
from plop_lora.scoring.engines.streaming.checkpoint import Checkpoint
from plop_lora.scoring.measurement.collect import Measured
from plop_lora.scoring.measurement.expected_norm_cache import ExpectedNormCache
from plop_lora.scoring.sites.find import find_sites

BYTES = 2
SPARE = 1 << 30


@contextlib.contextmanager
def folder_for(bytes_: int, device: str) -> Iterator[Path]:
    """Give a folder with that much room, in memory if possible, and remove it.

    Raises:
        SystemExit: there is none.
    """
    needed = bytes_ + SPARE
    places = [Path("/dev/shm"), Path(tempfile.gettempdir())]
    place = next((p for p in places if p.is_dir() and shutil.disk_usage(p).free > needed), None)
    if place is None:
        raise SystemExit(
            f"No room for a checkpoint of {bytes_ / 1e9:.1f} GB in {places[0]} or {places[1]}. "
            "Give fewer --layers."
        )
    folder = Path(tempfile.mkdtemp(prefix="plop-stream-", dir=place))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def streamed(
    folder: Path, device: str, batches: list[Batch], expected_norms: ExpectedNormCache
) -> Measured:
    """Score the files; opening them is part of it."""
    checkpoint = Checkpoint(str(folder), device=torch.device(device), dtype="auto")
    sites = find_sites(checkpoint.model).sites
    measured = stream.measure(checkpoint, sites, batches, expected_norms=expected_norms)
    if measured.engine != "stream":
        raise SystemExit(f"The model was not streamed: {measured.notes}")
    return measured


def compared(whole: Measured, parts: Measured) -> dict[str, Any]:
    """Return how far the sums of two engines lie apart."""
    difference = np.abs(whole.sums_RN - parts.sums_RN) / np.abs(whole.sums_RN)
    return {
        "equal_to_the_last_bit": bool(np.array_equal(whole.sums_RN, parts.sums_RN)),
        "equal_counts": bool(np.array_equal(whole.counts_RN, parts.counts_RN)),
        "largest_relative_difference": float(difference.max()),
    }


def measure(options: argparse.Namespace, folder: Path, record: dict[str, Any]) -> Iterator[None]:
    """Fill the record step by step; each step ends in a yield."""
    device = options.device
    shape = benchmark.Shape(options.layers, options.hidden, options.vocabulary)
    record["write_seconds"] = seconds_of(lambda: benchmark.make(folder, shape, device), device)
    record["bytes"] = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    yield
    batches = benchmark.make_batches(options.sequences, options.batches, options.vocabulary)
    record["tokens"] = sum(batch.inputs["input_ids"].numel() for batch in batches)
    model = load_model(str(folder), device=device, progress=False)
    sites = find_sites(model).sites
    found: dict[str, Measured] = {}
    known = ExpectedNormCache()

    def whole() -> None:
        found["memory"] = memory.measure(model, sites, batches)

    def parts() -> None:
        found["stream"] = streamed(folder, device, batches, ExpectedNormCache())

    def again() -> None:
        streamed(folder, device, batches, known)

    record["peak_bytes"] = {"stream": peak_of(parts, device)}
    weights = sum(parameter.nbytes for parameter in model.parameters())
    beyond = peak_of(whole, device)
    record["peak_bytes"]["memory"] = None if beyond is None else weights + beyond
    record["scores"] = compared(found["memory"], found["stream"])
    again()
    yield
    runs = {"memory": whole, "stream": parts, "again": again}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    record["seconds"] = seconds
    for _ in range(options.rounds):
        for name, run in runs.items():
            seconds[name].append(seconds_of(run, device))
        record["ratios"] = {
            f"{above} / memory": spread(
                one / two for one, two in zip(seconds[above], seconds["memory"], strict=True)
            )
            for above in ("stream", "again")
        }
        yield


def main() -> None:
    """Write the checkpoint, score it both ways, remove it."""
    parser = options_of(__doc__)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=4608, help="a multiple of 384")
    parser.add_argument("--vocabulary", type=int, default=128_000)
    parser.add_argument("--sequences", type=int, default=128, help="of 128 tokens")
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    quiet_loading()
    per_layer = 11 * options.hidden**2  # heads, a third of keys and values, an MLP of 8/3
    needed = BYTES * (options.layers * per_layer + options.vocabulary * options.hidden)
    record: dict[str, Any] = {}
    with folder_for(needed, options.device) as folder:
        record["folder"] = str(folder.parent)
        for _ in measure(options, folder, record):
            write(options.results, "stream", record)
    for title, found in record["ratios"].items():
        print(f"{title}: {found['median']:.2f} ({found['low']:.2f}–{found['high']:.2f})")
    print(record["scores"])


if __name__ == "__main__":
    main()
