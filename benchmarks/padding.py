"""How far averages over padding, as the authors' code takes them, lie from those over tokens.

    python benchmarks/padding.py FOLDER [FOLDER ...] [--data FILE --text question] [--save]

The same batches of 8 texts in random order, right-padded to their longest, are averaged twice: over
the tokens of the attention mask, and over every place.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
from pathlib import Path

import torch
import transformers
from score import processor
from torch import nn

import plop_lora as plop
from plop_lora.data.batches import Batch
from plop_lora.demo import DATA
from plop_lora.models.loading import load_model, load_tokenizer
from plop_lora.scoring.engines.in_memory import measure
from plop_lora.scoring.sites.find import Site, find_sites

ROWS = 8


def batches_of(tokenizer: transformers.PreTrainedTokenizerBase, texts: list[str]) -> list[Batch]:
    """Return padded batches in the order of the texts."""
    made = []
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    for start in range(0, len(texts), ROWS):
        rows = texts[start : start + ROWS]
        given = tokenizer(rows, padding=True, padding_side="right", return_tensors="pt")
        inputs = {key: given[key] for key in ("input_ids", "attention_mask")}
        made.append(Batch(inputs, tuple(rows)))
    return made


def means(model: nn.Module, sites: tuple[Site, ...], batches: list[Batch]) -> torch.Tensor:
    """Return the mean NFN of each site over the places that count."""
    found = measure(model, sites, batches)
    return torch.tensor(found.sums_RN.sum(1) / found.counts_RN.sum(1))


def row_of(folder: Path, texts: list[str]) -> str:
    """Return the row of one model."""
    model = load_model(str(folder), dtype="float32", progress=False)
    sites = find_sites(model).sites
    batches = batches_of(load_tokenizer(str(folder)), texts)
    everywhere = [
        Batch(b.inputs, b.names, {"attention_mask": torch.ones_like(b.inputs["attention_mask"])})
        for b in batches
    ]
    off = means(model, sites, everywhere) / means(model, sites, batches) - 1
    worst = int(off.abs().argmax())
    masks = [batch.inputs["attention_mask"] for batch in batches]
    share = 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)
    return (
        f"| {folder.name} | {share:.0%} | {off.abs().median():.1%} | {off[worst]:+.1%} | "
        f"{sites[worst].name} |"
    )


def main() -> None:
    """Parse the command line, print the table, and keep a dated copy if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="models with their tokenizers")
    parser.add_argument("--data", type=Path, default=DATA / "problems.jsonl")
    parser.add_argument("--text", default="question", help="field that holds the text")
    parser.add_argument("--save", action="store_true", help="keep a dated copy under results/")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    documents = plop.load_documents(options.data, text=options.text, samples=64, seed=0)
    texts = [document.text for document in documents.items]
    lines = [
        f"# Averages over padding, {datetime.date.today().isoformat()}",
        "",
        f"{len(texts)} texts of `{options.data.stem}` in batches of {ROWS}. Special tokens count. "
        "Differences of a module's mean over every place from its mean over tokens.",
        f"{processor()}; Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, plop-lora {plop.__version__}.",
        "",
        "| model | padding | median difference | largest | module |",
        "|---|---|---|---|---|",
    ]
    for folder in options.folders:
        lines.append(row_of(folder, texts))
        print(lines[-1], flush=True)
    if options.save:
        name = f"padding-{datetime.date.today().isoformat()}.md"
        (Path(__file__).parent / "results" / name).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
