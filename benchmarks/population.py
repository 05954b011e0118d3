"""Intervals and early stops judged against a population, and not against the texts they came from.

    python benchmarks/population.py FOLDER [FOLDER ...] [--data FILE --text question] [--save NAME]

Each model scores all texts of the population once; a run on a sample is then played from the sums
of its texts, drawn with replacement, and its truth is the score of the whole population.

- Coverage: how often the 95 % interval of a type, from 16, 40 or 200 texts, holds its true score.
- Stops: adaptive runs on 200 texts. A run is wrong where it stops early and, in the population, a
  type that is left out is better than a chosen one by more than the tolerance.
- Rare kinds: the same with a share of the texts of another kind, as short as the others or eight
  times as long, so that they hold many of the tokens. *Grouped* runs interleave the kinds as
  `--group` does.
"""

from __future__ import annotations

import argparse
import datetime
import inspect
import itertools
import json
import os
import platform
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from score import processor
from stopping import SAMPLES, Estimates, Sums, adaptive, ranked, sums_of

import plop_lora as plop
from plop_lora.data.sampling import scoring_order
from plop_lora.demo import DATA
from plop_lora.placement.stopping import LEAST, StopSettings
from plop_lora.scoring.stopping import chunk_ends

SIZES = (LEAST, 40, SAMPLES)
SHARES = (0.05, 0.1, 0.2)
TOPS = (2, 3, 4)
TOP = 3
TOLERANCE = 0.03
LONG = 8
"""Short texts in a long one."""


# --------------------------------------------------------------------------- kinds of text


def code(texts: Sequence[str]) -> list[str]:
    """Return pieces of the standard library's source, 12 lines each."""
    modules = (argparse, inspect, json.decoder, json.encoder, random, statistics)
    lines = [line for module in modules for line in inspect.getsource(module).splitlines()]
    return ["\n".join(lines[n : n + 12]) for n in range(0, len(lines), 12)]


def digits(texts: Sequence[str]) -> list[str]:
    """Return sums of random numbers."""
    rng = random.Random(0)
    return [" + ".join(str(rng.randrange(10**6)) for _ in range(12)) for _ in texts]


def shuffled(texts: Sequence[str]) -> list[str]:
    """Return the texts with their words in random order."""
    rng = random.Random(0)
    return [" ".join(rng.sample(words, len(words))) for words in map(str.split, texts)]


def repeated(texts: Sequence[str]) -> list[str]:
    """Return one word of each text, 40 times."""
    return [" ".join([max(text.split(), key=len)] * 40) for text in texts]


def capitals(texts: Sequence[str]) -> list[str]:
    """Return the texts in capital letters without spaces."""
    return [text.upper().replace(" ", "") for text in texts]


KINDS: tuple[Callable[[Sequence[str]], list[str]], ...] = (
    code, digits, shuffled, repeated, capitals,
)  # fmt: skip


def some(texts: Sequence[str], number: int, pieces: int) -> list[str]:
    """Return texts that each join some of the given ones."""
    rng = random.Random(0)
    return [" ".join(rng.sample(texts, pieces)) for _ in range(number)]


# --------------------------------------------------------------------------- playing runs


@dataclass(frozen=True)
class Mixture:
    """A population of two kinds of text.

    Attributes:
        sums: Sums of all texts, those of the main kind first.
        main: Number of texts of the main kind.
        share: Share of the other kind in the population.
    """

    sums: Sums
    main: int
    share: float

    @property
    def size(self) -> int:
        """Number of texts."""
        return next(iter(self.sums.groups.values()))[0].shape[1]

    def truth(self) -> dict[str, float]:
        """Return the score of each type in the population."""
        weights = np.full(self.size, (1 - self.share) / self.main)
        weights[self.main :] = self.share / max(1, self.size - self.main)
        return {
            name: float(((sums * weights).sum(1) / (counts * weights).sum(1)).mean())
            for name, (sums, counts) in self.sums.groups.items()
        }

    def sample(self, rng: np.random.Generator, size: int, *, grouped: bool = False) -> np.ndarray:
        """Draw texts in random order; with `grouped` the kinds have their shares, interleaved."""
        rare = rng.random(size) < self.share
        if grouped:
            rare = np.arange(size) < max(8, round(self.share * size))
        drawn = np.where(
            rare,
            rng.integers(self.main, max(self.size, self.main + 1), size),
            rng.integers(0, self.main, size),
        )
        if not grouped:
            return drawn
        names = [str(column) for column in drawn]
        order = scoring_order(names, [str(kind) for kind in rare], int(rng.integers(2**31)))
        return drawn[order]


def joined(main: Sums, other: Sums, share: float) -> Mixture:
    """Return the population of two kinds of text."""
    groups = {}
    for name, (sums, counts) in main.groups.items():
        more_sums, more_counts = other.groups[name]
        groups[name] = (np.hstack([sums, more_sums]), np.hstack([counts, more_counts]))
    return Mixture(Sums(groups), next(iter(main.groups.values()))[0].shape[1], share)


def coverage(population: Mixture, size: int, draws: int) -> dict[str, float]:
    """Return the share of samples whose interval holds the true score, by type."""
    rng, truth = np.random.default_rng(size), population.truth()
    held = dict.fromkeys(truth, 0)
    for _ in range(draws):
        for name, estimate in population.sums.at(population.sample(rng, size)).items():
            low, high = estimate.interval()
            held[name] += low <= truth[name] <= high
    return {name: count / draws for name, count in held.items()}


@dataclass(frozen=True)
class Played:
    """Share of runs that stopped early, of those that did so wrongly, and median texts used."""

    early: float
    wrong: float
    same: float
    median: float


def play(population: Mixture, rule: StopSettings, draws: int, *, grouped: bool = False) -> Played:
    """Play adaptive runs on samples of the population."""
    rng, truth = np.random.default_rng(rule.top), population.truth()
    best = set(sorted(truth, key=truth.__getitem__)[: rule.top])
    used, early, wrong, same = [], 0, 0, 0
    for _ in range(draws):
        estimates, end, decided = stopped(population.sums, population.sample(
            rng, SAMPLES, grouped=grouped
        ), rule)  # fmt: skip
        names = ranked(estimates)
        worst = max(truth[name] for name in names[: rule.top])
        missed = min(truth[name] for name in names[rule.top :])
        used.append(end)
        early += decided
        wrong += decided and worst - missed > rule.tolerance
        same += set(names[: rule.top]) == best
    return Played(early / draws, wrong / draws, same / draws, float(np.median(used)))


def stopped(sums: Sums, order: np.ndarray, rule: StopSettings) -> tuple[Estimates, int, bool]:
    """Return the estimates when a run ends, the texts it used, and whether it was decided."""
    for end in chunk_ends(len(order)):
        estimates = sums.at(order[:end])
        if adaptive(estimates, rule):
            return estimates, end, True
    return estimates, end, False


# --------------------------------------------------------------------------- the report


def measured(folder: Path, texts: Sequence[str]) -> Sums:
    """Score texts of one kind, each once."""
    scores = plop.score(
        folder, texts=list(texts), stop="fixed", dtype="float32", reference=False, progress=False,
    )  # fmt: skip
    return sums_of(scores)


def rows_of(folder: Path, texts: Sequence[str], draws: int, rare: int) -> Iterator[tuple[str, str]]:
    """Yield the rows of one model: the table they belong to, and the row."""
    main = measured(folder, texts)
    whole = Mixture(main, next(iter(main.groups.values()))[0].shape[1], 0.0)
    for size in SIZES:
        held = coverage(whole, size, 5 * draws)
        least = min(held, key=held.__getitem__)
        mean = sum(held.values()) / len(held)
        yield "coverage", f"| {folder.name} | {size} | {mean:.1%} | {held[least]:.1%} ({least}) |"
    for top in TOPS:
        run = play(whole, StopSettings(top, TOLERANCE), draws)
        yield (
            "stops",
            (
                f"| {folder.name} | {top} | {run.median:g} | {run.early:.1%} | {run.wrong:.1%} | "
                f"{run.same:.1%} |"
            ),
        )
    rule = StopSettings(TOP, TOLERANCE)
    for kind, pieces in itertools.product(KINDS, (1, LONG)):
        other = measured(folder, some(kind(texts), rare, pieces))
        for share in SHARES:
            mixture = joined(main, other, share)
            run = play(mixture, rule, draws)
            held = play(mixture, rule, draws, grouped=True)
            cells = (
                folder.name, kind.__name__, "short" if pieces == 1 else "long", f"{share:.0%}",
                f"{run.median:g}", f"{run.early:.1%}", f"{run.wrong:.1%}", f"{held.median:g}",
                f"{held.wrong:.1%}",
            )  # fmt: skip
            yield "rare", f"| {' | '.join(cells)} |"


HEADS = {
    "coverage": "| model | texts | mean over types | least |\n|---|---|---|---|",
    "stops": "| model | types chosen | texts used | stopped early | wrong | choice of the "
    "population |\n|---|---|---|---|---|---|",
    "rare": "| model | rare kind | length | share | texts used | stopped early | wrong | grouped: "
    "texts used | grouped: wrong |\n|---|---|---|---|---|---|---|---|---|",
}


def report(
    folders: Sequence[Path], texts: Sequence[str], source: str, draws: int, rare: int
) -> str:
    """Measure everything and return the tables as Markdown."""
    tables: dict[str, list[str]] = {name: [] for name in HEADS}
    for folder in folders:
        for name, row in rows_of(folder, texts, draws, rare):
            tables[name].append(row)
            print(row, flush=True)
    about = {
        "coverage": f"Share of {5 * draws} samples whose 95 % interval holds the population's "
        "score of a type.",
        "stops": f"{draws} samples of {SAMPLES} texts, tolerance {TOLERANCE}. Wrong: the run "
        "stopped early, and in the population a type left out is better by more than the "
        "tolerance; a share of all runs.",
        "rare": f"The same for {TOP} types where a share of the texts is of another kind. Long "
        f"texts join {LONG} short ones.",
    }
    parts = [
        f"# Samples against their population, {datetime.date.today().isoformat()}",
        f"{len(texts)} texts of {source}; {rare} texts of each rare kind. Special tokens do not "
        "count.\n"
        f"{processor()}; Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, plop-lora {plop.__version__}.",
        *(f"{about[name]}\n\n{HEADS[name]}\n" + "\n".join(rows) for name, rows in tables.items()),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Parse the command line, print the tables, and keep a dated copy if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="models with their tokenizers")
    parser.add_argument("--data", type=Path, default=DATA / "problems.jsonl")
    parser.add_argument("--text", default="question", help="field that holds the text")
    parser.add_argument("--population", type=int, default=2000)
    parser.add_argument("--rare", type=int, default=80, help="texts of each rare kind")
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--save", metavar="NAME", help="keep a dated copy under results/")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    documents = plop.load_documents(
        options.data, text=options.text, samples=options.population, seed=0
    )
    texts = [document.text for document in documents.items]
    text = report(options.folders, texts, f"`{options.data.stem}`", options.draws, options.rare)
    print(text)
    if options.save:
        name = f"{options.save}-{datetime.date.today().isoformat()}.md"
        (Path(__file__).parent / "results" / name).write_text(text)


if __name__ == "__main__":
    main()
