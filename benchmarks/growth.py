"""How time and peak memory of scoring grow with tokens, depth, width and number of experts.

    python benchmarks/growth.py [--rounds 3] [--save]

Checkpoints with random weights, bfloat16, differ in one thing at a time: Llama shapes in tokens,
layers and width, a Qwen3-MoE shape in the number of experts, of which each token takes two. Every
checkpoint is scored by both engines, denominators included:

- memory: all weights in memory, `scoring/engines/in_memory.py`;
- stream: one block's weights in memory at a time, `scoring/engines/streaming/engine.py`;
- plain: the forward of the body alone, for comparison; time only.

Time is the median of interleaved rounds after one to warm up; every other round runs backwards.
Memory is the peak of resident pages in a child process of its own, beyond what that process had
after scoring a tiny model with the same engine. The stream engine's blocks are pages of the files,
so all pages count. Of the memory engine only the anonymous ones do: its weights are copied out of
the files, whose pages are the system's to drop. Medians here too.

A slope is that of a straight line through the logarithms of the medians, with the 95 % interval of
ordinary least squares: 1 is proportional, 0 is flat. The output says whether the memory of the
stream engine is flat in depth.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import functools
import math
import multiprocessing
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import scipy.stats
import torch
import transformers
from drawing import Line, Panel, draw
from score import processor
from stream import TOKENS, Run, Shape, make_batches, resident, stream
from stream import make as make_llama

from plop_lora.models.loading import quiet_loading
from plop_lora.scoring.engines import in_memory as memory
from plop_lora.scoring.engines.in_memory import evaluating
from plop_lora.scoring.sites.find import find_sites

VOCABULARY = 2048
BATCH = 2
MEGA = 1e6
FLAT = 0.05
"""The slope below which growth is called flat: 12 % more for 8 times the depth is 0.05."""


@dataclass(frozen=True)
class Case:
    """A model and how much it is run on; without experts it is a Llama."""

    tokens: int = 512
    layers: int = 4
    hidden: int = 768
    experts: int = 0

    @property
    def folder(self) -> str:
        """The name of the checkpoint, which cases of other tokens share."""
        return f"{self.layers}-{self.hidden}-{self.experts}"


@dataclass(frozen=True)
class Sweep:
    """A line of cases that differ in one field."""

    axis: str
    start: Case
    values: tuple[int, ...]

    @property
    def cases(self) -> list[Case]:
        """The cases, smallest first."""
        return [replace(self.start, **{self.axis: value}) for value in self.values]


SWEEPS = (
    Sweep("tokens", Case(), (256, 512, 1024, 2048, 4096)),
    Sweep("layers", Case(), (4, 8, 16, 32)),
    Sweep("hidden", Case(), (384, 768, 1152, 1536, 2304)),
    Sweep("experts", Case(hidden=384, experts=4), (4, 8, 16, 32)),
)
TINY = (
    Sweep("tokens", Case(layers=2, hidden=384), (256, 512, 1024)),
    Sweep("layers", Case(tokens=256, hidden=384), (2, 4, 8)),
    Sweep("experts", Case(tokens=256, layers=1, hidden=384, experts=4), (4, 8, 16)),
)
WARM = Case(tokens=256, layers=1, hidden=128)


# --------------------------------------------------------------------------- variants


def make(root: Path, case: Case) -> None:
    """Write the checkpoint of a case."""
    folder = root / case.folder
    if not case.experts:
        make_llama(folder, Shape(case.layers, case.hidden, VOCABULARY))
        return
    config = transformers.Qwen3MoeConfig(
        vocab_size=VOCABULARY,
        hidden_size=case.hidden,
        intermediate_size=case.hidden * 2,
        moe_intermediate_size=case.hidden * 2,
        num_hidden_layers=case.layers,
        num_attention_heads=case.hidden // 64,
        num_key_value_heads=case.hidden // 64,
        head_dim=64,
        num_experts=case.experts,
        num_experts_per_tok=2,
        tie_word_embeddings=True,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    transformers.Qwen3MoeForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def load(root: Path, case: Case) -> torch.nn.Module:
    """Load a model whole, with its weights in memory of its own."""
    folder = str(root / case.folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model


def plain_run(model: torch.nn.Module) -> Run:
    """Return the forward of the body."""

    def run(batches: list[memory.Batch]) -> None:
        with evaluating(model):
            for batch in batches:
                model.model(**batch.inputs, use_cache=False)

    return run


def memory_run(model: torch.nn.Module) -> Run:
    """Return the engine that has the model in memory."""

    def run(batches: list[memory.Batch]) -> None:
        memory.measure(model, find_sites(model).sites, batches)

    return run


def batches_of(case: Case) -> list[memory.Batch]:
    """Return the batches of a case, all of one size."""
    sequences = case.tokens // TOKENS
    return make_batches(sequences, sequences // BATCH, VOCABULARY)


# --------------------------------------------------------------------------- measuring


def score_whole(root: Path, case: Case) -> None:
    """Score a case with the memory engine."""
    memory_run(load(root, case))(batches_of(case))


def score_streamed(root: Path, case: Case) -> None:
    """Score a case with the stream engine."""
    stream(str(root / case.folder))(batches_of(case))


ENGINES = {"memory": score_whole, "stream": score_streamed}
COUNTED = {"memory": 1, "stream": 0}
"""Which number of `resident()` is an engine's memory."""


def in_child(action: Callable[[Connection], None]) -> int | None:
    """Run an action in a forked process and return the number it sends, if it sends one.

    Raises:
        RuntimeError: the process failed.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=action, args=(sender,))
    child.start()
    sender.close()
    try:
        with contextlib.suppress(EOFError):
            return int(receiver.recv())
        return None
    finally:
        child.join()
        if child.exitcode:
            raise RuntimeError(f"A measurement ended with exit status {child.exitcode}.")


def peak_growth(root: Path, engine: str, case: Case, sender: Connection) -> None:
    """Send the peak of an engine's bytes while a case runs, beyond those after the tiny one."""
    ENGINES[engine](root, WARM)
    kind = COUNTED[engine]
    started = resident()[kind]
    seen, done = [started], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            seen.append(resident()[kind])

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        ENGINES[engine](root, case)
    finally:
        done.set()
        thread.join()
    sender.send(max(seen) - started)


Samples = dict[str, list[list[float]]]
"""By variant, for each case of a sweep, a number a round."""


def memory_of(root: Path, sweep: Sweep, rounds: int) -> Samples:
    """Measure peak memory in MB."""
    samples: Samples = {engine: [[] for _ in sweep.cases] for engine in ENGINES}
    for _ in range(rounds):
        for engine in ENGINES:
            for order, case in enumerate(sweep.cases):
                grown = in_child(functools.partial(peak_growth, root, engine, case))
                assert grown is not None
                samples[engine][order].append(grown / MEGA)
    return samples


def time_of(root: Path, sweep: Sweep, rounds: int) -> Samples:
    """Measure seconds, all variants of all cases in turn."""
    runs: list[tuple[str, int, Run, list[memory.Batch]]] = []
    for order, case in enumerate(sweep.cases):
        model, batches = load(root, case), batches_of(case)
        runs.append(("plain", order, plain_run(model), batches))
        runs.append(("memory", order, memory_run(model), batches))
        runs.append(("stream", order, stream(str(root / case.folder)), batches))
    samples: Samples = {name: [[] for _ in sweep.cases] for name, *_ in runs}
    for number in range(rounds + 1):
        for name, order, run, batches in runs[:: 1 if number % 2 else -1]:
            started = time.perf_counter()
            run(batches)
            if number:
                samples[name][order].append(time.perf_counter() - started)
    return samples


# --------------------------------------------------------------------------- report


@dataclass(frozen=True)
class Slope:
    """Of the logarithm of a quantity in the logarithm of an axis, with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def slope(xs: Sequence[float], ys: Sequence[float]) -> Slope:
    """Fit a power of x to y.

    >>> str(slope([1, 2, 4, 8], [3, 6, 12, 24]))
    '1.00 (1.00 to 1.00)'
    """
    fit = scipy.stats.linregress([math.log(x) for x in xs], [math.log(y) for y in ys])
    reach = scipy.stats.t.ppf(0.975, len(xs) - 2) * fit.stderr
    return Slope(fit.slope, fit.slope - reach, fit.slope + reach)


def medians(samples: list[list[float]]) -> list[float]:
    """Return the median of each case."""
    return [statistics.median(values) for values in samples]


@dataclass(frozen=True)
class Outcome:
    """All that was measured of a sweep."""

    sweep: Sweep
    seconds: Samples
    megabytes: Samples

    def rows(self) -> list[str]:
        """Return the rows of the table: one a quantity and variant."""
        values = self.sweep.values
        span = f"{self.sweep.axis} {values[0]}–{values[-1]}"
        rows = []
        for quantity, unit, samples in (
            ("time", "s", self.seconds),
            ("peak memory", "MB", self.megabytes),
        ):
            for variant, cases in samples.items():
                middle = medians(cases)
                ends = f"{middle[0]:.3g} → {middle[-1]:.3g} {unit}"
                rows.append(
                    f"| {span} | {variant} | {quantity} | {ends} | {slope(values, middle)} |"
                )
        return rows

    def panels(self) -> list[Panel]:
        """Return the two panels of the plot."""
        return [
            Panel(
                f"{quantity} by {self.sweep.axis}",
                self.sweep.axis,
                f"{quantity}, {unit}",
                [
                    Line(variant, list(zip(self.sweep.values, medians(cases), strict=True)))
                    for variant, cases in samples.items()
                ],
                log_across=True,
                log_up=True,
            )
            for quantity, unit, samples in (
                ("time", "s", self.seconds),
                ("peak memory", "MB", self.megabytes),
            )
        ]


def verdict(outcomes: Sequence[Outcome]) -> str:
    """Say whether the stream engine's memory is flat in depth, and what a further layer adds."""
    for outcome in outcomes:
        if outcome.sweep.axis == "layers":
            depths = outcome.sweep.values
            whole, streamed = (medians(outcome.megabytes[name]) for name in ("memory", "stream"))
            found = slope(depths, streamed)
            answer = "yes" if abs(found.value) <= FLAT else "NO"
            added = [
                (sizes[-1] - sizes[0]) / (depths[-1] - depths[0]) for sizes in (streamed, whole)
            ]
            return (
                f"Memory of the stream engine flat in depth (slope within ±{FLAT}): {answer}, "
                f"{found}. A further layer adds {added[0]:.2f} MB to it and {added[1]:.2f} MB to "
                "the memory engine."
            )
    raise ValueError("No sweep goes over depth.")


def report(outcomes: Sequence[Outcome], rounds: int) -> str:
    """Return the table as Markdown."""
    lines = [
        f"# Growth of scoring, {datetime.date.today().isoformat()}",
        "",
        f"Llama shapes (experts: Qwen3-MoE), bfloat16, vocabulary {VOCABULARY}, batches of {BATCH} "
        f"× {TOKENS} tokens; where an axis does not say otherwise {Case.tokens} tokens, "
        f"{Case.layers} layers, hidden {Case.hidden} (experts: 384). Medians of {rounds} rounds, "
        "time interleaved; memory is resident, beyond the start; slope of log on log (95 % "
        "interval).",
        f"{processor()}, {torch.get_num_threads()} threads; Python {platform.python_version()}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}.",
        "",
        "| axis | variant | quantity | from → to | slope |",
        "|---|---|---|---|---|",
        *(row for outcome in outcomes for row in outcome.rows()),
        "",
        verdict(outcomes),
    ]
    return "\n".join(lines) + "\n"


def measure(sweeps: Sequence[Sweep], rounds: int) -> list[Outcome]:
    """Make the checkpoints, measure memory, then time.

    Nothing computes in this process before the last child is gone: a pool of threads does not
    survive a fork.
    """
    for name in ("LlamaForCausalLM", "Qwen3MoeForCausalLM", "AutoModelForCausalLM"):
        getattr(transformers, name)  # imported here once, and not in every child
    with tempfile.TemporaryDirectory() as root:
        folders = {case.folder: case for sweep in sweeps for case in (*sweep.cases, WARM)}
        for case in folders.values():
            in_child(lambda sender, case=case: make(Path(root), case))
        megabytes = []
        for sweep in sweeps:
            megabytes.append(memory_of(Path(root), sweep, rounds))
            print(f"memory by {sweep.axis} measured", file=sys.stderr, flush=True)
        outcomes = []
        for sweep, sizes in zip(sweeps, megabytes, strict=True):
            outcomes.append(Outcome(sweep, time_of(Path(root), sweep, rounds), sizes))
            print(f"time by {sweep.axis} measured", file=sys.stderr, flush=True)
    return outcomes


def main() -> None:
    """Parse the command line, print the table, and keep dated copies if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", action="store_true", help="keep dated copies under results/")
    parser.add_argument("--tiny", action="store_true", help="a look at the script, not a result")
    parser.add_argument("--plot", type=Path, help="write the plot here as well")
    options = parser.parse_args()
    quiet_loading()
    outcomes = measure(TINY if options.tiny else SWEEPS, options.rounds)
    table = report(outcomes, options.rounds)
    print(table)
    panels = [panel for pair in zip(*(o.panels() for o in outcomes), strict=True) for panel in pair]
    plot = draw(panels, columns=len(outcomes), note="medians, both axes logarithmic")
    if options.plot:
        options.plot.write_text(plot)
    if options.save:
        results = Path(__file__).parent / "results"
        results.mkdir(exist_ok=True)
        name = f"growth-{datetime.date.today().isoformat()}"
        (results / f"{name}.md").write_text(table)
        (results / f"{name}.svg").write_text(plot)


if __name__ == "__main__":
    main()
