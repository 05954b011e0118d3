"""What scoring costs over a plain forward pass, measured in one run, paired and interleaved.

    python benchmarks/score.py [--rounds 7] [--no-draws] [--save]

Three variants on the same batches and the same body (Llama with random weights, bfloat16), in two
shapes: six layers of Llama-3.2-1B's widths, and a small one of width 768, where reading a
feature costs more beside the product that made it. The variants:

- plain: the forward alone;
- score: ours, with hooks, norms and the denominator of every weight, from scratch each time;
- again: the same with the denominators known, as for a checkpoint that was scored before;
- authors: the paper's approach written from its definition, as its published code goes about it:
  per module two products in float32, of the normalised features and of one Gaussian row per token;
- lean draw: the cheapest form of a draw per token that we could write, which reads W z from the
  forward and makes only the second product, in the model's own dtype.

`--no-draws` leaves out the last two, which take most of the time. Reports medians of paired ratios;
each variant's peak memory is taken in a process of its own.

On a GPU, `scripts/gpu/scoring.py` runs the same variants on whole models of 1 B and 8 B parameters.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
import transformers

from plop_lora.data.batches import Batch
from plop_lora.models.devices import home_of, sent
from plop_lora.scoring.engines.in_memory import evaluating, measure
from plop_lora.scoring.measurement.expected_norm_cache import ExpectedNormCache
from plop_lora.scoring.sites.find import SiteMap, find_sites

Model = TypeVar("Model", bound=torch.nn.Module)
VARIANTS = ("plain", "score", "again", "authors", "lean draw")


SHAPES = {
    "width 2048": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 6,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "width 768": {
        "hidden_size": 768,
        "intermediate_size": 2688,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
    },
}
WHOLE = {
    "Llama 1B": SHAPES["width 2048"] | {"num_hidden_layers": 16, "vocab_size": 128_256},
    "Llama 8B": {
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 32_000,
    },
}
"""Whole models, for a GPU; `tiny` tries the way there on a CPU."""


def build(shape: str, device: str = "cpu", **changes: int) -> transformers.LlamaModel:
    """Return a body with random weights, bfloat16, made on the device that it stays on."""
    torch.manual_seed(0)
    settings = {"vocab_size": 32_000} | (SHAPES | WHOLE)[shape] | changes
    config = transformers.LlamaConfig(**settings)
    with torch.device(device):
        return in_bfloat16(lambda: transformers.LlamaModel(config)).eval()


def in_bfloat16(make: Callable[[], Model]) -> Model:
    """Build a model in bfloat16; cast from float32, it would leave the peak of the casting."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        return make()
    finally:
        torch.set_default_dtype(before)


def make_batches(batches: int = 2, sequences: int = 8, tokens: int = 256) -> list[Batch]:
    """Return batches of random tokens on the host, as texts come."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for order in range(batches):
        ids = torch.randint(0, 32_000, (sequences, tokens), generator=generator)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        made.append(Batch(inputs, tuple(f"{order}-{row}" for row in range(sequences))))
    return made


def plain(model: torch.nn.Module, found: SiteMap, batches: list[Batch]) -> None:
    """Run the body and keep nothing."""
    device = home_of(model)
    with evaluating(model):
        for batch in batches:
            inputs = {name: sent(value, device) for name, value in batch.inputs.items()}
            model(**inputs, use_cache=False)


def score(model: torch.nn.Module, found: SiteMap, batches: list[Batch]) -> None:
    """Score as `plop score` does, denominators included."""
    measure(model, found.sites, batches)


_KNOWN: dict[int, ExpectedNormCache] = {}


def again(model: torch.nn.Module, found: SiteMap, batches: list[Batch]) -> None:
    """Score with what an earlier run of this process has learnt of the weights."""
    expected_norms = _KNOWN.setdefault(id(model), ExpectedNormCache())
    measure(model, found.sites, batches, expected_norms=expected_norms)


Norms = Callable[[torch.nn.Linear, torch.Tensor, torch.Tensor], torch.Tensor]


def authors(model: torch.nn.Module, found: SiteMap, batches: list[Batch]) -> None:
    """Score with two float32 products a module: normalised features, and as many random rows."""

    def ratio(
        module: torch.nn.Linear, features: torch.Tensor, output: torch.Tensor
    ) -> torch.Tensor:
        rows = features.reshape(-1, features.shape[-1]).float()
        weight = module.weight.float()
        weight = weight / weight.square().mean().sqrt()
        noise = torch.randn_like(rows)
        norms = [
            ((z / z.norm(dim=1, keepdim=True)) @ weight.T).norm(dim=1).mean() for z in (rows, noise)
        ]
        return norms[0] / norms[1]

    _watched(model, found, batches, ratio)


def lean_draw(model: torch.nn.Module, found: SiteMap, batches: list[Batch]) -> None:
    """Score with W z from the forward and one more product, of a Gaussian row per token."""

    def ratio(
        module: torch.nn.Linear, features: torch.Tensor, output: torch.Tensor
    ) -> torch.Tensor:
        noise = torch.randn_like(features)
        noise *= features.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)
        baseline = torch.nn.functional.linear(noise, module.weight)
        return (output.norm(dim=-1) / baseline.norm(dim=-1)).float().mean()

    _watched(model, found, batches, ratio)


def _watched(
    model: torch.nn.Module, found: SiteMap, batches: list[Batch], ratio: Norms
) -> dict[str, float]:
    # Tensors until the end: a number at each module would make a GPU wait for every one of them.
    sums = {site.name: torch.zeros((), device=home_of(model)) for site in found.sites}

    def watch(name: str) -> Callable[..., None]:
        def hook(
            module: torch.nn.Linear, arguments: tuple[torch.Tensor, ...], output: torch.Tensor
        ) -> None:
            sums[name] += ratio(module, arguments[0], output)

        return hook

    handles = [site.module.register_forward_hook(watch(site.name)) for site in found.sites]
    try:
        plain(model, found, batches)
    finally:
        for handle in handles:
            handle.remove()
    return {name: float(total) for name, total in sums.items()}


RUNS = {"plain": plain, "score": score, "again": again, "authors": authors, "lean draw": lean_draw}


def timings(
    model: torch.nn.Module, batches: list[Batch], rounds: int, variants: tuple[str, ...]
) -> dict[str, list[float]]:
    """Return seconds of each variant in each round, after one round to warm up."""
    found = find_sites(model)
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        turn = number % len(variants)
        for name in variants[turn:] + variants[:turn]:
            settle()
            started = time.perf_counter()
            RUNS[name](model, found, batches)
            settle()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def settle() -> None:
    """Wait until a GPU has done what it was given; the clock is read after that."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def paired(seconds: dict[str, list[float]], above: str, below: str) -> list[float]:
    """Return the ratio of two variants in each round, nothing where one was not run."""
    pairs = zip(seconds.get(above, ()), seconds.get(below, ()), strict=False)
    return [one / two for one, two in pairs]


def peak_memory(shape: str, name: str) -> int:
    """Return the peak resident bytes of a fresh process that runs one variant."""
    command = [sys.executable, __file__, "--shape", shape, "--only", name]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(output.splitlines()[-1])


def rows_of(shape: str, rounds: int, variants: tuple[str, ...]) -> list[str]:
    """Measure one shape and return its rows of the table."""
    seconds = timings(build(shape), make_batches(), rounds, variants)
    memory = {
        name: statistics.median(peak_memory(shape, name) for _ in range(3))
        for name in ("plain", "score")
    }

    size = sum(parameter.numel() for parameter in build(shape).parameters()) / 1e6
    ratios = (
        ("score / plain forward, time", paired(seconds, "score", "plain"), "≤ 1.05"),
        (
            "score, denominators known / plain forward, time",
            paired(seconds, "again", "plain"),
            "≤ 1.03",
        ),
        ("score / plain forward, peak memory", [memory["score"] / memory["plain"]], "≤ 1.02"),
        ("authors' approach / score, time", paired(seconds, "authors", "score"), "≥ 3"),
        ("lean draw / score, time", paired(seconds, "lean draw", "score"), ""),
    )
    return [
        f"| {shape}, {size:.0f} M | {title} | {statistics.median(values):.3f} | "
        f"{min(values):.3f}–{max(values):.3f} | {target} |"
        for title, values, target in ratios
        if values
    ]


def report(rounds: int, variants: tuple[str, ...]) -> str:
    """Measure everything and return the table as Markdown."""
    lines = [
        f"# Cost of scoring, {datetime.date.today().isoformat()}",
        "",
        f"Llama bodies, bfloat16, 16 sequences of 256 tokens, {rounds} interleaved rounds, medians "
        "of paired ratios (range). The targets are for the width of a 1 B model.",
        f"{processor()}, {torch.get_num_threads()} threads; Python {platform.python_version()}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}.",
        "",
        "| body | ratio | median | range | target |",
        "|---|---|---|---|---|",
    ]
    for shape in SHAPES:
        rows = rows_of(shape, rounds, variants)
        lines += rows
        print(*rows, sep="\n", file=sys.stderr, flush=True)
    return "\n".join(lines) + "\n"


def processor() -> str:
    """Return the processor's name."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    """Parse the command line, print the table, and keep a dated copy if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--draws", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--save", action="store_true", help="keep a dated copy under results/")
    parser.add_argument("--shape", choices=SHAPES, default="width 2048", help=argparse.SUPPRESS)
    parser.add_argument("--only", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        model = build(options.shape)
        RUNS[options.only](model, find_sites(model), make_batches())
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return
    table = report(options.rounds, VARIANTS if options.draws else VARIANTS[:3])
    print(table)
    if options.save:
        folder = Path(__file__).parent / "results"
        folder.mkdir(exist_ok=True)
        (folder / f"score-{datetime.date.today().isoformat()}.md").write_text(table)


if __name__ == "__main__":
    main()
