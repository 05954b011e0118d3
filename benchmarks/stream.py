"""What streaming a model from disk costs, in time and memory, measured in one run and interleaved.

    python benchmarks/stream.py [--rounds 5] [--folder DIR] [--part warm] [--save]

A Llama-shaped bf16 checkpoint with random weights is made once (3 B parameters, 6 GB, unless
`--layers`, `--hidden` and `--vocabulary` say otherwise) and every variant runs on its files:

- plain: the forward of the body alone, all weights in memory;
- products: the matrix products of the blocks alone, at the same shapes;
- stream: ours, with hooks, norms and the denominator of every weight, from scratch each time;
- again: ours with the denominators known, as in every run on a checkpoint after the first;
- offload: the same measurement through accelerate's disk offload, which loads a layer's weights
  whenever a batch comes to it.

In the cold rows each layer's pages are dropped from the page cache when it has run, for both, so
that every read reaches the disk, as it would with a model larger than memory.

Reports medians of paired ratios. Peak memory is sampled in a process of its own, with anonymous and
file pages apart; one more such process runs with 2 GB of data memory allowed (RLIMIT_DATA).
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from score import processor

from plop_lora.data.batches import Batch
from plop_lora.models.loading import quiet_loading
from plop_lora.scoring.engines import in_memory as memory
from plop_lora.scoring.engines.in_memory import evaluating
from plop_lora.scoring.engines.streaming.checkpoint import Checkpoint
from plop_lora.scoring.engines.streaming.engine import measure
from plop_lora.scoring.measurement.expected_norm_cache import ExpectedNormCache
from plop_lora.scoring.sites.find import find_sites

TOKENS = 128
BATCH = 4
"""Sequences a batch, where the row does not say how many batches there are."""
CAP = 2 << 30
GIGA = 1e9
PARTS = ("memory", "warm", "offload")


@dataclass(frozen=True)
class Shape:
    """The size of the model."""

    layers: int
    hidden: int
    vocabulary: int

    def config(self) -> transformers.LlamaConfig:
        """Return the configuration: heads of 128, one key for three queries, an MLP of 8/3."""
        heads = self.hidden // 128
        return transformers.LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.hidden * 8 // 3,
            num_hidden_layers=self.layers,
            num_attention_heads=heads,
            num_key_value_heads=max(1, heads // 3),
            tie_word_embeddings=True,
            dtype="bfloat16",
            architectures=["LlamaForCausalLM"],
        )


def make(folder: Path, shape: Shape, device: str = "cpu") -> None:
    """Write the checkpoint, one shard for a layer, so that it need not fit in memory.

    `device` draws the numbers; a GPU needs seconds where a processor needs minutes.
    """
    config = shape.config()
    if (folder / "config.json").exists():
        found = transformers.AutoConfig.from_pretrained(folder)
        if found.hidden_size == shape.hidden and found.num_hidden_layers == shape.layers:
            return
    folder.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        state = transformers.LlamaForCausalLM(config).state_dict()
    generator = torch.Generator(device).manual_seed(0)
    places: dict[str, str] = {}
    files: dict[str, list[str]] = {}
    for name in state:
        if name != "lm_head.weight":
            part = name.split(".")[2] if ".layers." in name else "rest"
            files.setdefault(f"model-{part}.safetensors", []).append(name)
    for file, names in files.items():
        tensors = {name: _weight(state[name].shape, generator) for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(names, file)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config.save_pretrained(folder)


def _weight(shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    noise = torch.empty(shape, dtype=torch.bfloat16, device=generator.device)
    return noise.normal_(generator=generator).mul_(shape[-1] ** -0.5).cpu()


def make_batches(sequences: int, batches: int, vocabulary: int) -> list[Batch]:
    """Return batches of whole sequences, without padding."""
    generator = torch.Generator().manual_seed(0)
    size = sequences // batches
    made = []
    for order in range(batches):
        ids = torch.randint(0, vocabulary, (size, TOKENS), generator=generator)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        made.append(Batch(inputs, tuple(f"{order}-{row}" for row in range(size))))
    return made


# --------------------------------------------------------------------------- variants

Run = Callable[[list[Batch]], None]


def plain(folder: str) -> Run:
    """Return the forward of the body with all weights in memory."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()

    def run(batches: list[Batch]) -> None:
        with evaluating(model):
            for batch in batches:
                model.model(**batch.inputs, use_cache=False)

    return run


def products(shape: Shape) -> Run:
    """Return the matrix products of all blocks on random features, with other weights for each."""
    with torch.device("meta"):
        layer = transformers.LlamaModel(shape.config()).layers[0]
    shapes = [module.weight.shape for module in layer.modules() if hasattr(module, "weight")]
    matrices = [size for size in shapes if len(size) == 2]
    weights = [
        torch.full(size, 0.01, dtype=torch.bfloat16)
        for _ in range(min(shape.layers, 4))
        for size in matrices
    ]

    def run(batches: list[Batch]) -> None:
        with torch.inference_mode():
            for batch in batches:
                rows = batch.inputs["input_ids"].numel()
                features = {
                    width: torch.full((rows, width), 0.01, dtype=torch.bfloat16)
                    for width in {size[1] for size in matrices}
                }
                for order in range(shape.layers * len(matrices)):
                    weight = weights[order % len(weights)]
                    torch.nn.functional.linear(features[weight.shape[1]], weight)

    return run


def stream(
    folder: str, expected_norms: ExpectedNormCache | None = None, device: str = "cpu"
) -> Run:
    """Return the stream engine, which opens the checkpoint anew each time."""

    def run(batches: list[Batch]) -> None:
        checkpoint = Checkpoint(folder, device=torch.device(device), dtype="auto")
        measured = measure(
            checkpoint, find_sites(checkpoint.model).sites, batches, expected_norms=expected_norms
        )
        assert measured.engine == "stream"

    return run


def offload(folder: str, layers: int, cold: bool = False) -> Run:
    """Return accelerate's disk offload of every layer under our hooks."""
    place: dict[str, str] = {f"model.layers.{layer}": "disk" for layer in range(layers)}
    rest = dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), "cpu")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", device_map=place | rest, offload_folder=tempfile.mkdtemp()
    )
    sites = find_sites(model).sites

    def run(batches: list[Batch]) -> None:
        with dropping(model, folder) if cold else contextlib.nullcontext():
            memory.measure(model, sites, batches)

    return run


def stream_cold(folder: str) -> Run:
    """Return the stream engine with each layer's pages dropped when it has run."""

    def run(batches: list[Batch]) -> None:
        checkpoint = Checkpoint(folder, device=torch.device("cpu"), dtype="auto")
        with dropping(checkpoint.model, folder):
            measure(checkpoint, find_sites(checkpoint.model).sites, batches)

    return run


@contextlib.contextmanager
def dropping(model: torch.nn.Module, folder: str) -> Iterator[None]:
    """Drop a layer's shard from the page cache whenever the layer has run, and all at the start."""
    shards = {file.name: os.open(file, os.O_RDONLY) for file in Path(folder).glob("*.safetensors")}

    def drop(name: str) -> None:
        os.posix_fadvise(shards[name], 0, 0, os.POSIX_FADV_DONTNEED)

    for name in shards:
        drop(name)
    handles = [
        layer.register_forward_hook(lambda *_, name=f"model-{order}.safetensors": drop(name))
        for order, layer in enumerate(model.model.layers)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for descriptor in shards.values():
            os.close(descriptor)


# --------------------------------------------------------------------------- measuring


def paired(
    runs: dict[str, Run], batches: list[Batch], rounds: int, warm: bool = False
) -> dict[str, list[float]]:
    """Run all variants in turn and return their seconds, without a first round if not `warm`."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(1 if warm else 0, rounds + 1):
        # Every other round runs backwards, so that no variant always follows the same one.
        for name in list(runs)[:: 1 if number % 2 else -1]:
            started = time.perf_counter()
            runs[name](batches)
            if number:
                seconds[name].append(time.perf_counter() - started)
                print(f"{name}: {seconds[name][-1]:.2f} s", file=sys.stderr, flush=True)
    return seconds


def row(title: str, seconds: dict[str, list[float]], above: str, below: str, target: str) -> str:
    """Return a row of the table for a ratio of two variants."""
    ratios = [one / two for one, two in zip(seconds[above], seconds[below], strict=True)]
    middle = statistics.median(ratios)
    return f"| {title} | {middle:.3f} | {min(ratios):.3f}–{max(ratios):.3f} | {target} |"


def warm_rows(folder: str, shape: Shape, rounds: int, sizes: list[int]) -> list[str]:
    """Measure the ratios of time to what runs in memory."""
    rows = []
    runs = {"plain": plain(folder), "products": products(shape), "stream": stream(folder)}
    runs["again"] = stream(folder, ExpectedNormCache())
    for order, sequences in enumerate(sizes):
        batches = make_batches(sequences, sequences // BATCH, shape.vocabulary)
        seconds = paired(runs, batches, rounds, warm=order > 0)
        size = f"{sequences} × {TOKENS} tokens, warm"
        rows.append(row(f"stream / plain forward, {size}", seconds, "stream", "plain", "≤ 1.03"))
        rows.append(row(f"stream / products, {size}", seconds, "stream", "products", "≤ 1.20"))
        if "again" in runs:
            rows.append(row(f"again / plain forward, {size}", seconds, "again", "plain", ""))
            del runs["again"]  # what it leaves out weighs less, the more tokens there are
    return rows


def offload_rows(folder: str, shape: Shape, rounds: int, sizes: list[int]) -> list[str]:
    """Measure the ratios of time to accelerate's disk offload."""
    rows = []
    runs = {"stream": stream(folder), "offload": offload(folder, shape.layers)}
    seconds = paired(runs, make_batches(sizes[0], 1, shape.vocabulary), rounds)
    title = "stream / accelerate's disk offload, one batch, warm"
    rows.append(row(title, seconds, "stream", "offload", "≤ 1.03"))
    runs = {"stream": stream_cold(folder), "offload": offload(folder, shape.layers, cold=True)}
    seconds = paired(runs, make_batches(sizes[0], 8, shape.vocabulary), rounds)
    title = "stream / accelerate's disk offload, 8 batches, from disk"
    return [*rows, row(title, seconds, "stream", "offload", "≤ 0.7")]


def resident() -> tuple[int, int, int]:
    """Return the resident bytes of this process: all, anonymous, and of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = dict(line.split(":", 1) for line in lines if ":" in line)
    sizes = (int(found[key].split()[0]) * 1024 for key in ("VmRSS", "RssAnon", "RssFile"))
    total, anonymous, file = sizes
    return total, anonymous, file


def peak(run: Run, batches: list[Batch]) -> tuple[int, int, int]:
    """Return the largest `resident()` seen while a variant runs, judged by its first number."""
    seen, done = [resident()], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            seen.append(resident())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        run(batches)
    finally:
        done.set()
        thread.join()
    return max(seen)


def memory_rows(options: argparse.Namespace, sizes: list[int]) -> list[str]:
    """Measure peak memory, free and capped, in processes of their own."""
    rows = []
    for sequences in sizes:
        for only in ("free", "capped"):
            command = [sys.executable, __file__, "--only", only, "--sequences", str(sequences)]
            for name in ("layers", "hidden", "vocabulary", "folder"):
                command += [f"--{name}", str(getattr(options, name))]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            size = f"{sequences} × {TOKENS} tokens"
            if only == "capped":
                verdict = "yes" if done.returncode == 0 else "no: " + done.stderr.strip()[-200:]
                rows.append(f"| completes with 2 GB of data memory, {size} | {verdict} | | yes |")
                continue
            total, anonymous, file = (int(x) / GIGA for x in done.stdout.split()[-3:])
            detail = f"{anonymous:.2f} anonymous, {file:.2f} of files"
            rows.append(f"| peak resident, {size} | {total:.2f} GB | {detail} | ≤ 1.2 GB |")
    return rows


def report(options: argparse.Namespace, shape: Shape) -> str:
    """Measure everything and return the table as Markdown."""
    folder, sizes = str(options.folder), options.sequences or [16, 64]
    parts = {
        "memory": lambda: memory_rows(options, sizes),
        "warm": lambda: warm_rows(folder, shape, options.rounds, sizes),
        "offload": lambda: offload_rows(folder, shape, options.rounds, sizes),
    }
    bytes_ = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
    lines = [
        f"# Cost of streaming, {datetime.date.today().isoformat()}",
        "",
        f"Llama shape, bfloat16, {shape.layers} layers, hidden {shape.hidden}, vocabulary "
        f"{shape.vocabulary}, {bytes_ / GIGA:.2f} GB on disk. Batches of {BATCH} × {TOKENS} tokens "
        f"unless said. {options.rounds} interleaved rounds, medians of paired ratios (range).",
        f"{processor()}, {torch.get_num_threads()} threads; Python {platform.python_version()}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}.",
        "",
        "| measure | median | range | target |",
        "|---|---|---|---|",
        *(row for part in options.part or PARTS for row in parts[part]()),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse the command line, print the table, and keep a dated copy if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--hidden", type=int, default=3072, help="a multiple of 384")
    parser.add_argument("--vocabulary", type=int, default=128_000)
    parser.add_argument("--folder", type=Path, help="where the checkpoint is made and kept")
    parser.add_argument("--sequences", type=int, action="append", help="16 and 64 if left out")
    parser.add_argument("--part", choices=PARTS, action="append", help="all if left out")
    parser.add_argument("--save", action="store_true", help="keep a dated copy under results/")
    parser.add_argument("--only", choices=("free", "capped"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    quiet_loading()
    shape = Shape(options.layers, options.hidden, options.vocabulary)
    if options.only:
        if options.only == "capped":
            resource.setrlimit(resource.RLIMIT_DATA, (CAP, CAP))
        sequences = options.sequences[0]
        batches = make_batches(sequences, sequences // BATCH, shape.vocabulary)
        print(*peak(stream(str(options.folder)), batches))
        return
    with contextlib.ExitStack() as stack:
        if options.folder is None:
            options.folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "model"
        make(options.folder, shape)
        table = report(options, shape)
    print(table)
    if options.save:
        results = Path(__file__).parent / "results"
        results.mkdir(exist_ok=True)
        name = "-".join(["stream", *(options.part or ()), datetime.date.today().isoformat()])
        (results / f"{name}.md").write_text(table)


if __name__ == "__main__":
    main()
