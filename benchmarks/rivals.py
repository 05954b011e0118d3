"""What other signals for choosing modules cost beside ours, on one model of 0.4 B parameters.

    python benchmarks/rivals.py [--rounds 3] [--save]

- score: NFN of every module, 16 sequences of 128 tokens, forward passes only;
- gradient: one batch's gradient of the loss for every weight matrix (4 sequences of 128 tokens),
  the signal of gradient-based selectors;
- kappa: PEFT's KappaTune selector, the condition number of every matrix from its SVD; no data.

Every run is a process of its own: seconds are those of the selection alone, after the model is
built, and memory is the process's peak beyond the model's own weights. KappaTune runs once, since
an SVD of every matrix takes minutes and does not depend on the data.
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
from pathlib import Path

import peft
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parent))
from score import in_bfloat16, processor

import plop_lora as plop


def build() -> transformers.LlamaForCausalLM:
    """Return a Llama of Llama-3.2-1B's widths and six layers, random weights, bfloat16."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=6, num_attention_heads=32,
        num_key_value_heads=8, vocab_size=32000,
    )  # fmt: skip
    return in_bfloat16(lambda: transformers.LlamaForCausalLM(config))


def batch(rows: int) -> dict[str, torch.Tensor]:
    """Return rows of 128 random tokens."""
    ids = torch.randint(0, 32000, (rows, 128), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def score(model: transformers.LlamaForCausalLM) -> None:
    """Score every module type."""
    plop.score(model, batches=[batch(16)], progress=False)


def gradient(model: transformers.LlamaForCausalLM) -> None:
    """Take the norm of dL/dW for every matrix in the blocks, from one batch."""
    inputs = batch(4)
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    norms = {
        name: float(parameter.grad.float().norm())
        for name, parameter in model.named_parameters()
        if parameter.ndim == 2 and ".layers." in name
    }
    assert norms


def kappa(model: transformers.LlamaForCausalLM) -> None:
    """Choose a fifth of the modules by condition number, as PEFT does it."""
    peft.helpers.find_kappa_target_modules(model.model, top_p=0.2, show_progress=False)


SELECTORS = {"score": score, "gradient": gradient, "kappa": kappa}


def run_alone(name: str) -> tuple[float, int]:
    """Return seconds and peak bytes beyond the weights of one selection in a fresh process."""
    command = [sys.executable, __file__, "--only", name]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, peak = output.splitlines()[-1].split()
    return float(seconds), int(peak)


def report(rounds: int) -> str:
    """Measure everything, interleaved, and return the table as Markdown."""
    results: dict[str, list[tuple[float, int]]] = {name: [] for name in SELECTORS}
    for number in range(rounds):
        for name in SELECTORS:
            if number == 0 or name != "kappa":
                results[name].append(run_alone(name))
    ours = statistics.median(seconds for seconds, _ in results["score"])
    parameters = sum(parameter.numel() for parameter in build().parameters()) / 1e6
    lines = [
        f"# Cost of other signals, {datetime.date.today().isoformat()}",
        "",
        f"Llama with random weights, {parameters:.0f} M parameters, bfloat16; medians of {rounds} "
        "(kappa: 1), each in a process of its own.",
        f"{processor()}, {torch.get_num_threads()} threads; Python {platform.python_version()}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}, peft "
        f"{peft.__version__}.",
        "",
        "| signal | seconds | / score | peak memory beyond the weights |",
        "|---|---|---|---|",
    ]
    for name, runs in results.items():
        seconds = statistics.median(run[0] for run in runs)
        peak = statistics.median(run[1] for run in runs)
        lines.append(f"| {name} | {seconds:.1f} | {seconds / ours:.1f} | {peak / 2**20:.0f} MiB |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse the command line, print the table, and keep a dated copy if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", action="store_true", help="keep a dated copy under results/")
    parser.add_argument("--only", choices=SELECTORS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        model = build()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        SELECTORS[options.only](model)
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(seconds, (peak - before) * 1024)
        return
    table = report(options.rounds)
    print(table)
    if options.save:
        folder = Path(__file__).parent / "results"
        folder.mkdir(exist_ok=True)
        (folder / f"rivals-{datetime.date.today().isoformat()}.md").write_text(table)


if __name__ == "__main__":
    main()
