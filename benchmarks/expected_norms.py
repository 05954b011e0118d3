"""How exact the expected norms of trained weights are, and how long they take.

    python benchmarks/expected_norms.py FOLDER... [--seeds 5] [--save]

The folders hold checkpoints (`scripts/experiments/models.py` brings three); the bundled model is
always included. Every matrix of a block is compared with the exact integral over all of its
singular values, for several seeds, in float32. Two methods run in turn on each weight:

- now: `expected_norm`;
- before: the closed form 1 - V/8 with Σσ⁴ from 32 Gaussian vectors, shared by weights of a shape,
  and exact up to a width of 256.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from score import processor

from plop_lora.demo import MODEL
from plop_lora.indicators.expected_norms import expected_norm, frobenius_square
from plop_lora.indicators.spectra import Spectrum, mean_gaussian_norm, mean_root

_NO_SITES = ("embed", "lm_head", "pooler")
_GAUSSIANS: dict[int, torch.Tensor] = {}


@dataclass
class Found:
    """Errors and seconds of one method on the weights of one network."""

    errors: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def weights_of(folder: Path) -> Iterator[torch.Tensor]:
    """Yield the matrices of the blocks of a checkpoint, float32."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                tensor = file.get_tensor(name)
                if tensor.ndim == 2 and not any(word in name for word in _NO_SITES):
                    yield tensor.float()


def exact(weight: torch.Tensor) -> float:
    """Return E||W u|| from all singular values in float64."""
    wide = weight.double() if len(weight) <= weight.shape[1] else weight.double().T
    values = torch.linalg.eigvalsh(wide @ wide.T).clamp(min=0)
    total = values.sum()
    root = mean_root(Spectrum(values / total))
    return float(total.sqrt()) * root / mean_gaussian_norm(weight.shape[1])


def before(weight: torch.Tensor, seed: int) -> float:
    """Return the closed form from moments, as it was computed before the integral."""
    width = weight.shape[1]
    square = frobenius_square(weight)
    if min(weight.shape) <= 256:
        gram = weight @ weight.T if len(weight) <= width else weight.T @ weight
        fourth = gram.square().sum()
    else:
        generator = torch.Generator().manual_seed(seed)
        key = width * 1000 + seed
        if key not in _GAUSSIANS:
            _GAUSSIANS[key] = torch.randn(width, 32, generator=generator)
        images = weight @ _GAUSSIANS[key]
        squares = (images.T @ images).square()
        fourth = (squares.sum() - squares.trace()) / (32 * 31)
    variance = 2 * width / (width + 2) * (fourth / square**2 - 1 / width)
    return float((square / width).sqrt() * (1 - variance.clamp(min=0) / 8))


def now(weight: torch.Tensor, seed: int) -> float:
    """Return the expected norm of the library."""
    return float(expected_norm(weight, denominator="analytic", seed=seed))


METHODS = {"before": before, "now": now}


def compared(folder: Path, seeds: int) -> dict[str, Found]:
    """Run both methods in turn on every weight of a checkpoint."""
    found = {name: Found() for name in METHODS}
    for position, weight in enumerate(weights_of(folder)):
        truth = exact(weight)
        for seed in range(seeds):
            for name, method in METHODS.items():
                # Other weights have other seeds, as in scoring; those of `before` are shared.
                own = seed if name == "before" else seed + seeds * position
                started = time.perf_counter()
                value = method(weight, own)
                found[name].seconds.append(time.perf_counter() - started)
                found[name].errors.append(abs(value / truth - 1))
    return found


def report(folders: list[Path], seeds: int) -> str:
    """Measure everything and return the table as Markdown."""
    lines = [
        f"# Expected norms against the exact integral, {datetime.date.today().isoformat()}",
        "",
        f"Every matrix of the blocks, float32, {seeds} seeds; both methods in turn on each weight.",
        f"{processor()}, {torch.get_num_threads()} threads; Python {platform.python_version()}, "
        f"torch {torch.__version__}.",
        "",
        "| network | weights | method | largest error | median error | median ms a weight |",
        "|---|---|---|---|---|---|",
    ]
    for folder in (Path(MODEL), *folders):
        title = "bundled model" if folder == Path(MODEL) else folder.name
        with torch.inference_mode():
            found = compared(folder, seeds)
        for name, one in found.items():
            duration = 1e3 * statistics.median(one.seconds)
            lines.append(
                f"| {title} | {len(one.errors) // seeds} | {name} | {max(one.errors):.4%} | "
                f"{statistics.median(one.errors):.4%} | {duration:.2f} |"
            )
            print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse the command line, print the table, and keep a dated copy if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="keep a dated copy under results/")
    options = parser.parse_args()
    table = report(options.folders, options.seeds)
    print(table)
    if options.save:
        name = f"expected-norms-{datetime.date.today().isoformat()}.md"
        (Path(__file__).parent / "results" / name).write_text(table)


if __name__ == "__main__":
    main()
