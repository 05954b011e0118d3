"""What the machine is: card, driver, versions, and the two ceilings that other parts divide by.

Measures the largest rate of matrix products (bfloat16, a square of `--size`, random numbers) and
the rates of copies: on the card, counting bytes read and written, and to it from the host, from
pinned and from ordinary memory.
"""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import subprocess
from importlib import metadata
from typing import Any

import torch
from results import options_of, seconds_of, write

PACKAGES = (
    "torch", "transformers", "peft", "trl", "accelerate", "datasets", "safetensors", "tokenizers",
    "huggingface_hub", "numpy", "pydantic", "torchao", "hqq", "bitsandbytes", "triton",
)  # fmt: skip


def versions() -> dict[str, str | None]:
    """Return the versions of the packages that numbers depend on, None where one is missing."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def machine(device: str) -> dict[str, Any]:
    """Return what the machine says of itself."""
    found: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpus": os.cpu_count(),
        "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "cuda": torch.version.cuda,
    }
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "card": properties.name,
            "card_memory": properties.total_memory,
            "capability": list(torch.cuda.get_device_capability(device)),
            "driver": _driver(),
        }
    return found


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def product_rate(device: str, size: int, repeats: int = 20) -> float:
    """Return floating-point operations a second of a bfloat16 product, the median."""
    left, right = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    for _ in range(5):
        left @ right
    taken = [seconds_of(lambda: left @ right, device) for _ in range(repeats)]
    return 2 * size**3 / statistics.median(taken)


def copy_rates(device: str, bytes_: int, repeats: int = 10) -> dict[str, float]:
    """Return bytes a second of copies on the device and to it."""
    there, target = (torch.empty(bytes_, dtype=torch.uint8, device=device) for _ in range(2))
    host = torch.ones(bytes_, dtype=torch.uint8)
    sources = {"device": (there.fill_(1), 2), "host": (host, 1)}
    if device.startswith("cuda"):
        sources["pinned host"] = (host.pin_memory(), 1)
    rates = {}
    for name, (source, passes) in sources.items():
        target.copy_(source)
        taken = [seconds_of(lambda s=source: target.copy_(s), device) for _ in range(repeats)]
        rates[name] = passes * bytes_ / statistics.median(taken)
    return rates


def main() -> None:
    """Write what is known, then measure."""
    parser = options_of(__doc__)
    parser.add_argument("--size", type=int, default=8192, help="rows of the square matrices")
    parser.add_argument("--copy-mib", type=int, default=1024)
    options = parser.parse_args()
    record = machine(options.device) | {"versions": versions()}
    write(options.results, "env", record)
    record["product_rate"] = product_rate(options.device, options.size)
    write(options.results, "env", record)
    record["copy_rates"] = copy_rates(options.device, options.copy_mib << 20)
    write(options.results, "env", record)
    print(f"products {record['product_rate'] / 1e12:.1f} TFLOP/s")
    for name, rate in record["copy_rates"].items():
        print(f"copies, {name}: {rate / 1e9:.1f} GB/s")


if __name__ == "__main__":
    main()
