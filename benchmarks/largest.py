"""Score a model that is larger than the memory of the machine, and say what it took.

    python benchmarks/largest.py [--layers 60] [--sequences 4] [--folder DIR] [--save]

A Llama shape of 32.5 billion parameters (hidden 6656, 60 layers, 52 heads, vocabulary 32,000; the
widths of Llama 30B), bfloat16, 65 GB, is written to disk, one shard a layer, scored once by the
stream engine, denominators included, and removed. The weights are Gaussian, of the scale of an
initialisation; all layers hold the same numbers, drawn once, because drawing takes longer than
writing. They lie in files of their own all the same and are read from disk one after another: their
pages are dropped from the page cache before the run, and do not fit in it later.

What does not fit on the disk with 8 GB left over is not written: the number of layers goes down
until it does, and the output says so. Peak memory is that of a process of its own, sampled, with
anonymous pages and those of files apart. Time and layers are not repeated: it is one run.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import transformers
from safetensors.torch import save
from score import processor
from stream import TOKENS, make_batches, resident

from plop_lora.models.loading import quiet_loading
from plop_lora.scoring.engines.streaming.checkpoint import Checkpoint
from plop_lora.scoring.engines.streaming.engine import measure
from plop_lora.scoring.sites.find import find_sites

GIGA = 1e9
LEFT_OVER = 8 * GIGA
BYTES = 2
_LENGTH = struct.Struct("<Q")
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Shape:
    """The size of the model; heads of 128, no shared keys, an own output head, as Llama 30B."""

    layers: int = 60
    hidden: int = 6656
    intermediate: int = 17_920
    vocabulary: int = 32_000

    def config(self) -> transformers.LlamaConfig:
        """Return the configuration."""
        return transformers.LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.hidden // 128,
            num_key_value_heads=self.hidden // 128,
            tie_word_embeddings=False,
            dtype="bfloat16",
            architectures=["LlamaForCausalLM"],
        )

    def parts(self) -> tuple[dict[str, torch.Size], dict[str, torch.Size]]:
        """Return the tensors of one layer, under the names they have in it, and all others."""
        one = replace(self, layers=1).config()
        with torch.device("meta"):
            state = transformers.LlamaForCausalLM(one).state_dict()
        prefix = "model.layers.0."
        layer = {k.removeprefix(prefix): t.shape for k, t in state.items() if k.startswith(prefix)}
        rest = {name: t.shape for name, t in state.items() if not name.startswith(prefix)}
        return layer, rest

    @property
    def parameters(self) -> int:
        """How many weights there are."""
        layer, rest = self.parts()
        return self.layers * _count(layer) + _count(rest)


def _count(shapes: dict[str, torch.Size]) -> int:
    return sum(shape.numel() for shape in shapes.values())


def fitting(shape: Shape, free: float) -> Shape:
    """Return the shape with as many layers as fit in `free` bytes of disk.

    Raises:
        SystemExit: not even one fits.
    """
    layer, rest = shape.parts()
    room = (free - LEFT_OVER) / BYTES - _count(rest)
    layers = min(shape.layers, int(room // _count(layer)))
    if layers < 1:
        raise SystemExit(
            f"{free / GIGA:.1f} GB are free, and one layer with {LEFT_OVER / GIGA:.0f} GB left "
            "over needs more. Give a --folder on a larger disk, or a smaller --hidden."
        )
    return replace(shape, layers=layers)


# --------------------------------------------------------------------------- writing


def drawn(shapes: dict[str, torch.Size]) -> bytes:
    """Return a safetensors file of random tensors: matrices of scale 1/√fan-in, vectors of ones."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in shapes.items():
        if len(shape) == 1:
            tensors[name] = torch.ones(shape, dtype=torch.bfloat16)
        else:
            noise = torch.empty(shape, dtype=torch.bfloat16).normal_(generator=generator)
            tensors[name] = noise.mul_(shape[-1] ** -0.5)
    return save(tensors, metadata={"format": "pt"})


def renamed(content: bytes, layer: int) -> tuple[bytes, memoryview]:
    """Return the header of a layer's own file, and the numbers, which are those of all layers."""
    (length,) = _LENGTH.unpack_from(content)
    end = _LENGTH.size + length
    header = json.loads(content[_LENGTH.size : end])
    own = {k if k == "__metadata__" else _name(layer, k): entry for k, entry in header.items()}
    text = json.dumps(own).encode()
    text += b" " * (-len(text) % 8)
    return _LENGTH.pack(len(text)) + text, memoryview(content)[end:]


def _name(layer: int, name: str) -> str:
    return f"model.layers.{layer}.{name}"


def write(folder: Path, shape: Shape) -> None:
    """Write the checkpoint, layer by layer, and drop its pages from the page cache."""
    layer_shapes, rest_shapes = shape.parts()
    folder.mkdir(parents=True, exist_ok=True)
    shape.config().save_pretrained(folder)
    places = dict.fromkeys(rest_shapes, "model-rest.safetensors")
    _put(folder / "model-rest.safetensors", drawn(rest_shapes))
    content = drawn(layer_shapes)
    for layer in range(shape.layers):
        file = f"model-{layer}.safetensors"
        _put(folder / file, *renamed(content, layer))
        places |= {_name(layer, name): file for name in layer_shapes}
        print(f"wrote layer {layer + 1} of {shape.layers}", file=sys.stderr, flush=True)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))


def _put(file: Path, *pieces: bytes | memoryview) -> None:
    with file.open("wb") as stream:
        for piece in pieces:
            stream.write(piece)
        stream.flush()
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextlib.contextmanager
def checkpoint_at(folder: Path, shape: Shape) -> Iterator[Path]:
    """Write the checkpoint into a folder that is new, and remove it whatever happens.

    Raises:
        SystemExit: the folder exists.
    """
    if folder.exists():
        raise SystemExit(
            f"{folder} exists; give a --folder that does not, it is removed at the end."
        )
    try:
        write(folder, shape)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# --------------------------------------------------------------------------- measuring


@dataclass(frozen=True)
class Peaks:
    """Largest resident bytes seen, each for itself: all, anonymous, of files."""

    total: int
    anonymous: int
    files: int


@contextlib.contextmanager
def watched(peaks: list[Peaks]) -> Iterator[None]:
    """Sample the memory of this process and append the peaks at the end."""
    largest, done = list(resident()), threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            largest[:] = map(max, zip(largest, resident(), strict=True))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        peaks.append(Peaks(*largest))


def score(folder: str, sequences: int) -> dict[str, float]:
    """Score the checkpoint in this process and return what it took."""
    peaks: list[Peaks] = []
    started = time.perf_counter()
    with watched(peaks):
        checkpoint = Checkpoint(folder, device=torch.device("cpu"), dtype="auto")
        sites = find_sites(checkpoint.model).sites
        opened = time.perf_counter()
        batches = make_batches(sequences, 1, checkpoint.model.config.vocab_size)
        measured = measure(checkpoint, sites, batches, advance=_progress(sequences, opened))
    assert measured.engine == "stream", "the model was loaded whole"
    ended = time.perf_counter()
    found = {"seconds": ended - started, "opening": opened - started, "sites": len(sites)}
    return found | vars(peaks[0])


def _progress(sequences: int, started: float) -> Callable[[int], None]:
    state = {"rows": 0}

    def advance(rows: int) -> None:
        state["rows"] += rows
        if rows:
            seconds = time.perf_counter() - started
            print(f"{state['rows'] / sequences:.0%}, {seconds:.0f} s", file=sys.stderr, flush=True)

    return advance


def in_own_process(folder: Path, sequences: int) -> dict[str, float]:
    """Score in a fresh process, whose memory holds nothing of the writing.

    Raises:
        SystemExit: it failed; its own message stands on stderr.
    """
    command = [sys.executable, __file__, "--only", str(folder), "--sequences", str(sequences)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"Scoring ended with exit status {done.returncode}.")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


# --------------------------------------------------------------------------- report


def report(asked: Shape, shape: Shape, sequences: int, found: dict[str, float]) -> str:
    """Return what was found as Markdown."""
    tokens = sequences * TOKENS
    size = shape.parameters * BYTES
    cut = (
        ""
        if shape == asked
        else f" {asked.layers} layers were asked for; {shape.layers} fit on the disk."
    )
    rows = {
        "parameters": f"{shape.parameters / 1e9:.2f} billion",
        "weights on disk": f"{size / GIGA:.1f} GB",
        "memory of the machine": f"{_machine_memory() / GIGA:.1f} GB",
        "peak resident": f"{found['total'] / GIGA:.2f} GB",
        "peak of anonymous pages": f"{found['anonymous'] / GIGA:.2f} GB",
        "peak of pages of files": f"{found['files'] / GIGA:.2f} GB",
        "sites scored": f"{found['sites']:.0f}",
        "tokens": f"{tokens} ({sequences} × {TOKENS})",
        "time": f"{found['seconds']:.0f} s, {found['opening']:.0f} s of it to open the checkpoint",
        "time a layer": f"{(found['seconds'] - found['opening']) / shape.layers:.2f} s",
        "read from disk": f"{size / GIGA / found['seconds']:.2f} GB/s on average",
    }
    lines = [
        f"# The largest model scored here, {datetime.date.today().isoformat()}",
        "",
        f"Llama shape, bfloat16, {shape.layers} layers, hidden {shape.hidden}, vocabulary "
        f"{shape.vocabulary}, random weights, stream engine with all denominators, one run from a "
        f"cold page cache.{cut}",
        f"{processor()}, {torch.get_num_threads()} threads; Python {platform.python_version()}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}.",
        "",
        "| measure | value |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows.items()),
    ]
    return "\n".join(lines) + "\n"


def _machine_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Parse the command line, print the table, and keep a dated copy if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=Shape.layers)
    parser.add_argument("--hidden", type=int, default=Shape.hidden, help="a multiple of 128")
    parser.add_argument("--intermediate", type=int, default=Shape.intermediate)
    parser.add_argument("--vocabulary", type=int, default=Shape.vocabulary)
    parser.add_argument("--sequences", type=int, default=4, help=f"of {TOKENS} tokens")
    parser.add_argument("--folder", type=Path, help="a new folder, removed at the end")
    parser.add_argument("--save", action="store_true", help="keep a dated copy under results/")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    quiet_loading()
    if options.only:
        print(json.dumps(score(options.only, options.sequences)))
        return
    # A plain termination would leave tens of GB behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    asked = Shape(options.layers, options.hidden, options.intermediate, options.vocabulary)
    with contextlib.ExitStack() as stack:
        root = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "model"
        root.parent.mkdir(parents=True, exist_ok=True)
        shape = fitting(asked, shutil.disk_usage(root.parent).free)
        print(f"{shape.parameters * BYTES / GIGA:.1f} GB to {root}", file=sys.stderr, flush=True)
        folder = stack.enter_context(checkpoint_at(root, shape))
        table = report(asked, shape, options.sequences, in_own_process(folder, options.sequences))
    print(table)
    if options.save:
        results = Path(__file__).parent / "results"
        results.mkdir(exist_ok=True)
        (results / f"largest-{datetime.date.today().isoformat()}.md").write_text(table)


if __name__ == "__main__":
    main()
