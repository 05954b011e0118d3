"""What 4 bits change: whether the choice stays that of bfloat16, and what scoring takes.

The choice is compared on trained models, the bundled one and those given by `--model`; the time on
a part of a 1 B shape with random weights. Layers are quantised in place, by HQQ and, where it is
installed and there is a GPU, by bitsandbytes. Scoring has to send random rows through a layer whose
weight it cannot read, once a layer, so `again`, with that known, is timed too.
"""

from __future__ import annotations

import argparse
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from results import BENCHMARKS, options_of, spread, write
from torch import nn

sys.path.insert(0, str(BENCHMARKS))
import score as benchmark

import plop_lora as plop
from plop_lora.data.documents import Documents
from plop_lora.demo import DATA, MODEL
from plop_lora.models.loading import load_model, load_tokenizer, quiet_loading
from plop_lora.placement.place import default_choice
from plop_lora.records import Scores
from plop_lora.scoring.sites.find import find_sites

GROUP = 64
Quantise = Callable[[nn.Linear], nn.Module]


def hqq(device: str) -> Quantise:
    """Return what makes a layer of HQQ's 4 bits."""
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

    def make(layer: nn.Linear) -> nn.Module:
        settings = BaseQuantizeConfig(nbits=4, group_size=GROUP)
        return HQQLinear(layer, settings, compute_dtype=torch.bfloat16, device=device)

    return make


def bitsandbytes(device: str) -> Quantise:
    """Return what makes a layer of bitsandbytes' NF4, which packs when it moves to the GPU."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    def make(layer: nn.Linear) -> nn.Module:
        packed = Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=layer.bias is not None,
            compute_dtype=torch.bfloat16,
            quant_type="nf4",
        )
        weight = layer.weight.detach().cpu()
        packed.weight = Params4bit(weight, requires_grad=False, quant_type="nf4")
        if layer.bias is not None:
            packed.bias = nn.Parameter(layer.bias.detach().clone(), requires_grad=False)
        return packed.to(device)

    return make


def quantisers(device: str) -> dict[str, Callable[[str], Quantise]]:
    """Return the ways that are installed and work on the device."""
    ways = {"hqq": hqq} if find_spec("hqq") else {}
    if find_spec("bitsandbytes") and device.startswith("cuda"):
        ways["bitsandbytes"] = bitsandbytes
    return ways


def quantise(model: nn.Module, make: Quantise) -> nn.Module:
    """Replace every linear layer that is a site, in place."""
    for site in find_sites(model).sites:
        owner, _, leaf = site.host.name.rpartition(".")
        parent = model.get_submodule(owner)
        layer = getattr(parent, leaf)
        if isinstance(layer, nn.Linear) and layer.weight.numel() % GROUP == 0:
            setattr(parent, leaf, make(layer))
    return model


def scored(model: nn.Module, folder: str, texts: Documents) -> Scores:
    """Score a loaded model on texts, all of them."""
    return plop.score(model, load_tokenizer(folder), texts, stop="fixed", progress=False)


def compared(exact: Scores, coarse: Scores) -> dict[str, Any]:
    """Return the choice of both and how far their types lie apart."""
    before = {kind.type: kind.nfn for kind in exact.types}
    after = {kind.type: kind.nfn for kind in coarse.types}
    choices = [sorted(default_choice(scores)) for scores in (exact, coarse)]
    return {
        "choice": choices[0],
        "choice_of_4_bit": choices[1],
        "same_choice": choices[0] == choices[1],
        "same_order": sorted(before, key=before.__getitem__)
        == sorted(after, key=after.__getitem__),
        "largest_relative_difference": max(
            abs(after[name] - nfn) / nfn for name, nfn in before.items() if name in after
        ),
        "nfn": before,
        "nfn_of_4_bit": after,
    }


def choices(
    options: argparse.Namespace, way: str, folders: list[str], record: dict[str, Any]
) -> Iterator[None]:
    """Compare the choices on trained models; each model ends in a yield."""
    problems = DATA / "problems.jsonl"
    texts = plop.load_documents(problems, text="question", samples=options.texts)
    for folder in folders:
        model = load_model(folder, device=options.device, dtype="bfloat16", progress=False)
        exact = scored(model, folder, texts)
        quantise(model, quantisers(options.device)[way](options.device))
        record[Path(folder).name] = compared(exact, scored(model, folder, texts))
        yield


def times(options: argparse.Namespace, way: str) -> dict[str, Any]:
    """Return seconds of a forward and of scoring, in bfloat16 and in 4 bits."""
    batches = benchmark.make_batches(options.batches, options.sequences, options.tokens)
    names = ("plain", "score", "again")
    made: dict[str, Any] = {}
    for label in ("bfloat16", way):
        model = benchmark.build(options.shape, options.device, num_hidden_layers=options.layers)
        if label == way:
            quantise(model, quantisers(options.device)[way](options.device))
        seconds = benchmark.timings(model, batches, options.rounds, names)
        made[label] = {
            "seconds": seconds,
            "score / plain forward": spread(benchmark.paired(seconds, "score", "plain")),
            "again / plain forward": spread(benchmark.paired(seconds, "again", "plain")),
        }
    return made


def measure(options: argparse.Namespace, record: dict[str, Any]) -> Iterator[None]:
    """Fill the record of all ways; one that fails leaves its reason and the others go on."""
    for way in quantisers(options.device):
        found = record[way] = {"choices": {}}
        try:
            for _ in choices(options, way, [str(MODEL)], found["choices"]):
                yield
            found["times"] = times(options, way)
            yield
            for _ in choices(options, way, list(map(str, options.model)), found["choices"]):
                yield
        except Exception as error:
            traceback.print_exc()
            found["error"] = f"{type(error).__name__}: {error}"
        yield


def main() -> None:
    """Measure one way after another."""
    parser = options_of(__doc__)
    parser.add_argument("--model", type=Path, action="append", default=[], help="a folder")
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--shape", choices=benchmark.WHOLE, default="Llama 1B")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    quiet_loading()
    # The quantisers warn of parts of theirs that are not built here, and of our own old names.
    warnings.simplefilter("ignore")
    record: dict[str, Any] = {}
    write(options.results, "four-bit", record)
    for _ in measure(options, record):
        write(options.results, "four-bit", record)
    failed = [way for way, found in record.items() if "error" in found]
    for way, found in record.items():
        for name, one in found["choices"].items():
            print(f"{way}, {name}: same choice {one['same_choice']}")
    sys.exit(1 if failed or not record else 0)


if __name__ == "__main__":
    main()
