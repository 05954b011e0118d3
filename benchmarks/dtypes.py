"""What a dtype costs on this processor: the time to score one model in each, interleaved.

    python benchmarks/dtypes.py [--rounds 5] [--save]
    python benchmarks/dtypes.py --real FOLDER [FOLDER ...] [--save]

Half precision halves the memory everywhere, but a processor without instructions for it multiplies
it slower than float32. The table says which is the case here, and how far the scores lie apart.
Random weights say little about that distance: with `--real`, models from disk are scored on the
bundled word problems in both dtypes, and no time is taken.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import platform
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from score import processor
from stream import TOKENS, make_batches, paired

import plop_lora as plop
from plop_lora.data.batches import Batch
from plop_lora.demo import DATA
from plop_lora.models.devices import slow_dtype
from plop_lora.records import Scores

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SEQUENCES, VOCABULARY = 4, 8000
REAL = 32
"""Texts that real checkpoints score."""


def build() -> transformers.LlamaForCausalLM:
    """Return a Llama shape of 52 M parameters with random weights, float32."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=1024, intermediate_size=2816, num_hidden_layers=3, num_attention_heads=16,
        num_key_value_heads=8, vocab_size=VOCABULARY,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def report(rounds: int) -> str:
    """Measure and return the table as Markdown."""
    base = build()
    models = {dtype: transformers.LlamaForCausalLM(base.config).to(dtype) for dtype in DTYPES}
    for model in models.values():
        model.load_state_dict(base.state_dict())
    batches = make_batches(SEQUENCES, 1, VOCABULARY)
    scores: dict[torch.dtype, Scores] = {}

    def score(dtype: torch.dtype, batches: list[Batch]) -> None:
        given = [batch.inputs for batch in batches]
        scores[dtype] = plop.score(models[dtype], batches=given, stop="fixed", progress=False)

    runs = {str(dtype): functools.partial(score, dtype) for dtype in DTYPES}
    taken = paired(runs, batches, rounds)
    seconds = {dtype: taken[str(dtype)] for dtype in DTYPES}
    exact = {site.name: site.nfn for site in scores[torch.float32].sites}
    lines = [
        f"# Cost of a dtype on the processor, {datetime.date.today().isoformat()}",
        "",
        f"Llama shape of {sum(p.numel() for p in base.parameters()) / 1e6:.0f} M parameters, "
        f"{SEQUENCES} × {TOKENS} tokens, engine in memory. {rounds} interleaved rounds, medians of "
        "paired ratios (range).",
        f"{processor()} ({torch.backends.cpu.get_cpu_capability()}), {torch.get_num_threads()} "
        f"threads; Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}.",
        "",
        "| dtype | seconds | of float32 | range | noted as slow | largest difference of an NFN |",
        "|---|---|---|---|---|---|",
    ]
    for dtype in DTYPES:
        pairs = zip(seconds[dtype], seconds[torch.float32], strict=True)
        ratios = [one / two for one, two in pairs]
        off = max(abs(site.nfn - exact[site.name]) for site in scores[dtype].sites)
        lines.append(
            f"| {str(dtype).removeprefix('torch.')} | {statistics.median(seconds[dtype]):.2f} "
            f"| {statistics.median(ratios):.2f} | {min(ratios):.2f}–{max(ratios):.2f} "
            f"| {'yes' if slow_dtype(models[dtype]) else 'no'} | {off:.4f} |"
        )
    return "\n".join(lines) + "\n"


def distances(folders: Sequence[Path]) -> str:
    """Score real checkpoints in each dtype and return the table as Markdown."""
    documents = plop.load_documents(DATA / "problems.jsonl", text="question", samples=REAL)
    lines = [
        f"# Scores in half precision on real weights, {datetime.date.today().isoformat()}",
        "",
        f"{REAL} of the bundled word problems; differences from the scores in float32, as "
        "shares of them.",
        f"{processor()} ({torch.backends.cpu.get_cpu_capability()}); Python "
        f"{platform.python_version()}, torch {torch.__version__}, transformers "
        f"{transformers.__version__}.",
        "",
        "| model | dtype | largest difference of a module | which | largest difference of a type | "
        "same order of types |",
        "|---|---|---|---|---|---|",
    ]
    for folder in folders:
        scores = {
            dtype: plop.score(
                folder, texts=documents, stop="fixed", dtype=str(dtype).removeprefix("torch."),
                reference=False, progress=False,
            )
            for dtype in DTYPES[:2]
        }  # fmt: skip
        exact, half = scores.values()
        modules = {s.name: s.nfn for s in exact.sites}
        off = {s.name: abs(s.nfn / modules[s.name] - 1) for s in half.sites}
        types = max(abs(half[row.type].nfn / row.nfn - 1) for row in exact.types)
        worst = max(off, key=off.__getitem__)
        same = "yes" if half.type_names() == exact.type_names() else "no"
        lines.append(
            f"| {folder.name} | bfloat16 | {off[worst]:.2%} | {worst} | {types:.2%} | {same} |"
        )
        print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the table, and keep it where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--real", nargs="+", type=Path, help="folders of models with tokenizers")
    parser.add_argument("--save", action="store_true", help="under benchmarks/results")
    options = parser.parse_args()
    text = distances(options.real) if options.real else report(options.rounds)
    print(text)
    if options.save:
        kind = "dtypes-real" if options.real else "dtypes"
        name = f"{kind}-{datetime.date.today().isoformat()}.md"
        (Path(__file__).parent / "results" / name).write_text(text)


if __name__ == "__main__":
    sys.exit(main())
