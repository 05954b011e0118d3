"""What scoring costs over a plain forward pass on a GPU, for whole models with random weights.

The variants are those of `benchmarks/score.py`, paired and interleaved: the forward alone, scoring
from scratch, scoring with the denominators known, the authors' approach, and the leanest draw per
token. The authors' products are in float32, and once more in TF32, which torch leaves off unless
it is asked for. Shares are of the rate of matrix products that `card.py` measured, counting the
products of the scored weights alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any

import torch
from results import BENCHMARKS, options_of, peak_of, spread, write

sys.path.insert(0, str(BENCHMARKS))
import score as benchmark

from plop_lora.data.batches import Batch
from plop_lora.scoring.sites.find import find_sites

RATIOS = {
    "score / plain forward": ("score", "plain"),
    "score, denominators known / plain forward": ("again", "plain"),
    "authors' approach, float32 / score": ("authors", "score"),
    "lean draw / score": ("lean draw", "score"),
}


@contextlib.contextmanager
def tensor_float() -> Iterator[None]:
    """Let products of float32 run in TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def product_rate(options: argparse.Namespace) -> float | None:
    """Return what `card.py` measured, where it did."""
    path = options.results / "env.json"
    rate = json.loads(path.read_text()).get("product_rate") if path.exists() else None
    return None if rate is None else float(rate)


def described(model: torch.nn.Module, batches: list[Batch]) -> dict[str, Any]:
    """Return the size of a model and of what it is given."""
    sites = find_sites(model).sites
    weights = sum(site.parameters for site in sites)
    tokens = sum(batch.inputs["input_ids"].numel() for batch in batches)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "scored_parameters": weights,
        "sites": len(sites),
        "batches": [list(batch.inputs["input_ids"].shape) for batch in batches],
        "tokens": tokens,
        "products": 2 * weights * tokens,
    }


def measure(options: argparse.Namespace, shape: str, record: dict[str, Any]) -> Iterator[None]:
    """Fill the record of one shape, step by step; each step ends in a yield."""
    model = benchmark.build(shape, options.device)
    batches = benchmark.make_batches(options.batches, options.sequences, options.tokens)
    record.update(described(model, batches))
    seconds = benchmark.timings(model, batches, options.rounds, ("plain", "score", "again"))
    record["seconds"] = seconds
    rate = product_rate(options)
    if rate:
        record["share_of_products"] = {
            name: spread(record["products"] / second / rate for second in taken)
            for name, taken in seconds.items()
        }
    _ratios(record, seconds)
    yield
    found = find_sites(model)
    record["peak_bytes_beyond_weights"] = {
        name: peak_of(lambda run=benchmark.RUNS[name]: run(model, found, batches), options.device)
        for name in ("plain", "score")
    }
    yield
    # A ratio per token does not depend on how many batches there are; one saves most of the time.
    few = batches[:1]
    names = ("score", "authors", "lean draw")
    record["draws_seconds"] = benchmark.timings(model, few, options.draw_rounds, names)
    _ratios(record, record["draws_seconds"])
    yield
    with tensor_float():
        taken = benchmark.timings(model, few, options.draw_rounds, ("score", "authors"))
    record["tf32_seconds"] = taken
    record["ratios"]["authors' approach, TF32 / score"] = spread(
        benchmark.paired(taken, "authors", "score")
    )
    yield


def _ratios(record: dict[str, Any], seconds: dict[str, list[float]]) -> None:
    ratios = record.setdefault("ratios", {})
    for title, (above, below) in RATIOS.items():
        found = spread(benchmark.paired(seconds, above, below))
        if found:
            ratios[title] = found


def main() -> None:
    """Measure one shape after another."""
    parser = options_of(__doc__)
    parser.add_argument("--shape", action="append", choices=benchmark.WHOLE, required=True)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--sequences", type=int, default=8, help="of a batch")
    parser.add_argument("--tokens", type=int, default=512, help="of a sequence")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--draw-rounds", type=int, default=2)
    options = parser.parse_args()
    shapes: dict[str, dict[str, Any]] = {}
    for shape in options.shape:
        record = shapes[shape] = {}
        for _ in measure(options, shape, record):
            write(options.results, "score", shapes)
        for title, found in record["ratios"].items():
            print(
                f"{shape}: {title} {found['median']:.3f} ({found['low']:.3f}–{found['high']:.3f})"
            )


if __name__ == "__main__":
    main()
