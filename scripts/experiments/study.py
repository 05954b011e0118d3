"""The trials of the study, pair by pair: prepare the data, run what is missing, say what is there.

    python scripts/experiments/study.py list
    python scripts/experiments/study.py prepare PAIR [--gsm8k DIR] [--models build/models]
    python scripts/experiments/study.py run PAIR… [--seconds S] [--workers N] [--device cuda]

`prepare` writes the rows and the scores of the network on them to `build/study/PAIR`. `run` goes
through the trials that have no record in `results/PAIR`, first every arm at every rate with seed 0,
then the further seeds at each arm's own rate, and writes one small record a trial there; adapters
are removed. It may be stopped and started at any time: what is finished is never run again, and
what was under way begins anew. One run a pair at a time.

`docs/study-protocol.md` says what the arms, rates and rows are for.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from types import FrameType
from typing import Any

from arms import BUDGET_RANK, aliases, arms_of
from pairs import DATA, PAIRS, SCORED_TEXTS, Pair, general_text, text_of

from plop_lora.errors import PlopError
from plop_lora.files import atomic_file
from plop_lora.recipe import Runner
from plop_lora.records import (
    EvaluationSettings,
    Placement,
    Scores,
    TrainingSettings,
    TrialData,
    TrialResult,
    TrialSpec,
)
from plop_lora.training.events import FINISHED, Event
from plop_lora.training.runners import run_trials

HERE = Path(__file__).resolve().parent
STUDY, MODELS, RESULTS = Path("build/study"), Path("build/models"), HERE / "results"
SEEDS = 3
UNTRAINED = "untrained"
"""The arm whose rate is 0: what the network does before it is trained."""
LADDER, CONFIRM = "ladder", "confirm"
PAIR, SCORES, ROWS = "pair.json", "scores.json", ("train.jsonl", "eval.jsonl", "general.jsonl")


class StudyError(Exception):
    """What the user of this script can put right, in one line."""


# --------------------------------------------------------------------------- preparing


def prepare(pair: Pair, folder: Path, models: Path, gsm8k: Path | None) -> None:
    """Write the rows, the scores and the description of a pair; what is complete stays.

    Raises:
        StudyError: the network is not there.
    """
    from plop_lora.scoring import score

    network = models / pair.network
    if not (network / "config.json").is_file():
        raise StudyError(
            f"The network {pair.network} is not in {models}. Make it with: python "
            f"scripts/experiments/models.py {pair.network} --output {models}"
        )
    train, judged = DATA[pair.data](gsm8k, pair.training_rows, pair.evaluation_rows)
    general = general_text() if pair.task != "classify" else []
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in zip(ROWS, (train, judged, general), strict=True):
        with atomic_file(folder / name) as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    texts = [text_of(row) for row in train[:SCORED_TEXTS]]
    scores = score(
        str(network), texts=texts, max_length=pair.max_length, stop="fixed", progress=False
    )
    scores.save(folder / SCORES)


def describe(pair: Pair, folder: Path, network: Path) -> dict[str, Any]:
    """Return what decides the outcome of a pair's trials, and so must not change between them."""
    scores = Scores.load(folder / SCORES)
    described = dataclasses.asdict(pair) | {
        "rates": list(pair.rates),
        "budget_rank": BUDGET_RANK,
        "arms": {name: types_of(arm) for name, arm in arms_of(pair, scores).items()},
        "aliases": aliases(pair, scores),
        "nfn": {row.type: round(row.nfn, 3) for row in scores.types},
        "rows": {name: digest(folder / name) for name in ROWS},
        "weights": weights_digest(network),
    }
    described.pop("order")
    return described


def types_of(placement: Placement) -> list[str]:
    """Return the module types of a placement, by name."""
    return sorted({site.type for site in placement.sites})


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def weights_digest(network: Path) -> str:
    """Return a digest of a network's weights that does not depend on how they are laid out."""
    import torch
    from safetensors import safe_open

    total = hashlib.sha256()
    for path in sorted(network.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in sorted(file.keys()):
                tensor = file.get_tensor(name).contiguous()
                total.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
                total.update(tensor.view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


# --------------------------------------------------------------------------- trials


def record_name(arm: str, rate: float, seed: int) -> str:
    """Return the file name of a trial's record.

    >>> record_name("type-v_proj", 0.0018, 1)
    'type-v_proj.r0.0018.s1.json'
    """
    return f"{arm}.r{rate:g}.s{seed}.json"


@dataclasses.dataclass(frozen=True)
class Study:
    """A prepared pair: its folder, where its network and its records are, and its arms."""

    pair: Pair
    folder: Path
    network: Path
    results: Path
    arms: Mapping[str, Placement]
    device: str

    def records(self) -> dict[str, TrialResult]:
        """Return the records that are there, by file name."""
        paths = sorted(self.results.glob("*.r*.s*.json"))
        return {path.name: TrialResult.load(path) for path in paths}

    def ladder(self) -> list[TrialSpec]:
        """Return the trials of seed 0: the untrained network, then every arm at every rate.

        The rates in the middle come first, so that a study that is cut short has something of
        every arm.
        """
        middle = len(self.pair.rates) // 2
        order = sorted(range(len(self.pair.rates)), key=lambda index: abs(index - middle))
        first = [self.spec(UNTRAINED, 0.0, 0, LADDER)]
        rates = [self.pair.rates[index] for index in order]
        return first + [self.spec(arm, rate, 0, LADDER) for rate in rates for arm in self.arms]

    def confirmation(self) -> list[TrialSpec]:
        """Return the trials of the further seeds, at the best rate of every arm that has one."""
        best = self.best_rates()
        return [
            self.spec(arm, best[arm], seed, CONFIRM)
            for seed in range(1, SEEDS)
            for arm in self.arms
            if arm in best
        ]

    def best_rates(self) -> dict[str, float]:
        """Return the rate of lowest loss on the selection rows, of the arms whose ladder ended."""
        found: dict[str, dict[float, float]] = {}
        for record in self.records().values():
            if record.seed == 0 and record.arm != UNTRAINED:
                found.setdefault(record.arm, {})[record.learning_rate] = selected_loss(record)
        rungs = set(self.pair.rates)
        return {arm: min(by, key=by.__getitem__) for arm, by in found.items() if by.keys() >= rungs}

    def spec(self, arm: str, rate: float, seed: int, phase: str) -> TrialSpec:
        """Return the spec of a trial."""
        pair = self.pair
        placement = next(iter(self.arms.values())) if arm == UNTRAINED else self.arms[arm]
        classify = pair.task == "classify"
        files = [
            word for name in ROWS for word in (str(self.folder / name), digest(self.folder / name))
        ]
        data = TrialData(*files[:4], **({} if classify else dict(
            zip(("general", "general_sha256"), files[4:], strict=True))))  # fmt: skip
        return TrialSpec(
            arm=arm,
            seed=seed,
            phase=phase,
            task=pair.task,
            model=str(self.network),
            placement=placement,
            learning_rate=rate,
            data=data,
            training=TrainingSettings(
                steps=1 if arm == UNTRAINED else pair.steps,
                batch_size=pair.batch_size,
                max_length=pair.max_length,
                device=self.device,
            ),
            evaluation=EvaluationSettings(
                metric="accuracy" if classify else "loss", batch_size=pair.batch_size * 4
            ),
            labels=self.labels() if classify else (),
        )

    def labels(self) -> tuple[str, ...]:
        """Return the classes of the training rows, by name."""
        lines = (self.folder / ROWS[0]).read_text(encoding="utf-8").splitlines()
        return tuple(sorted({json.loads(line)["label"] for line in lines}))

    def missing(self, specs: Sequence[TrialSpec]) -> list[TrialSpec]:
        """Return the trials without a record."""
        return [spec for spec in specs if not (self.results / name_of(spec)).exists()]


def name_of(spec: TrialSpec) -> str:
    """Return the file name of the record of a trial."""
    return record_name(spec.arm, spec.learning_rate, spec.seed)


def selected_loss(record: TrialResult) -> float:
    """Return the mean loss on the selection rows, infinite for a trial that diverged."""
    items = record.items.get("loss", ())
    return fmean(items[: len(items) // 2]) if record.done and items else float("inf")


def open_study(name: str, results: Path, models: Path, device: str) -> Study:
    """Return a prepared pair.

    Raises:
        StudyError: it is not prepared, or its records are of other data, weights or settings.
    """
    pair, folder = PAIRS[name], STUDY / name
    if not (folder / SCORES).is_file():
        raise StudyError(
            f"The pair {name} is not prepared: python scripts/experiments/study.py prepare {name}"
        )
    now = describe(pair, folder, models / pair.network)
    kept = results / name / PAIR
    if kept.is_file():
        before = json.loads(kept.read_text(encoding="utf-8"))
        other = [key for key in now if now[key] != before.get(key)]
        if other:
            raise StudyError(
                f"The records in {results / name} are of another {' and '.join(other)}, so new "
                "ones cannot stand beside them. Prepare the pair with the Python and the files "
                f"that {kept} was made with, or give other --results."
            )
    else:
        with atomic_file(kept) as file:
            file.write(json.dumps(now, indent=1) + "\n")
    scores = Scores.load(folder / SCORES)
    network = (models / pair.network).resolve()
    return Study(pair, folder.resolve(), network, results / name, arms_of(pair, scores), device)


# --------------------------------------------------------------------------- running


class TimeIsUp(BaseException):
    """The seconds that were given have passed; what is under way is stopped."""


@contextlib.contextmanager
def alarm(seconds: float | None) -> Iterator[None]:
    """Raise `TimeIsUp` in this thread after some seconds."""
    if seconds is None:
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeIsUp

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(0.01, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def sole_run(study: Study) -> Iterator[None]:
    """Hold the lock of a pair.

    Raises:
        StudyError: another run has it.
    """
    with (study.folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StudyError(
                f"Another run works on {study.pair.name}. Wait for it, or stop it first."
            ) from error
        yield


def run(study: Study, workers: int | None) -> None:
    """Run what is missing: the ladder, and the further seeds at the rates that follow from it."""
    runner = Runner(workers=workers)
    for phase in (study.ladder, study.confirmation):
        specs = study.missing(phase())
        if specs:
            say(f"{study.pair.name}: {len(specs)} trials of the {phase.__name__}")
            run_trials(specs, study.folder / "trials", runner, watch=Keeper(study, len(specs)))


class Keeper:
    """Keeps the record of every trial that ends, and removes its adapter."""

    def __init__(self, study: Study, total: int) -> None:
        self.study, self.total, self.done = study, total, 0

    def __call__(self, event: Event) -> None:
        """Write the record of a finished trial.

        One that failed for another reason than its learning rate has no record: its folder goes,
        so that the next run tries it again.
        """
        result = event.result
        if event.state != FINISHED or result is None:
            return
        self.done += 1
        name = name_of(event.spec)
        diverged = not result.done and "NaN or infinite" in (result.cause or "")
        if result.done or diverged or "loss became" in (result.cause or ""):
            shutil.rmtree(event.folder / "adapter", ignore_errors=True)
            result.save(self.study.results / name)
            loss = result.metrics.get("loss", float("inf"))
            told = f"loss {loss:.4f}, {result.cost.wall_seconds:.0f} s"
        else:
            told = f"failed and is not kept: {result.cause}"
            shutil.rmtree(event.folder, ignore_errors=True)
        say(f"  {self.done}/{self.total} {name.removesuffix('.json')}: {told}")


def say(text: str) -> None:
    """Print a line at once, with the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def list_pairs(results: Path) -> None:
    """Print every pair with the number of its records."""
    for pair in sorted(PAIRS.values(), key=lambda pair: pair.order):
        count = len(list((results / pair.name).glob("*.r*.s*.json")))
        state = "prepared" if (STUDY / pair.name / SCORES).is_file() else "not prepared"
        print(f"{pair.name:20} {pair.network:8} {pair.task:9} {count:4} records, {state}")


def main() -> int:
    """Do what the command line says; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("list", "prepare", "run"):
        options = verbs.add_parser(verb)
        options.add_argument("--models", type=Path, default=MODELS)
        options.add_argument("--results", type=Path, default=RESULTS)
        if verb != "list":
            options.add_argument("pairs", nargs="+", metavar="PAIR", help=", ".join(PAIRS))
    verbs.choices["prepare"].add_argument("--gsm8k", type=Path, help="folder of its two files")
    verbs.choices["run"].add_argument("--seconds", type=float, help="stop after so many")
    verbs.choices["run"].add_argument("--workers", type=int, help="trials at once")
    verbs.choices["run"].add_argument("--device", default="auto")
    given = parser.parse_args()
    try:
        return act(given)
    except (StudyError, PlopError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1


def act(given: argparse.Namespace) -> int:
    """Do what one verb says.

    Raises:
        StudyError, PlopError: what the user can put right.
    """
    if given.verb == "list":
        list_pairs(given.results)
        return 0
    unknown = [name for name in given.pairs if name not in PAIRS]
    if unknown:
        raise StudyError(f"There is no pair {unknown[0]}. The pairs are: {', '.join(PAIRS)}.")
    if given.verb == "prepare":
        for name in given.pairs:
            prepare(PAIRS[name], STUDY / name, given.models, given.gsm8k)
            say(f"prepared {name}")
        return 0
    try:
        with alarm(given.seconds):
            for name in given.pairs:
                study = open_study(name, given.results, given.models, given.device)
                with sole_run(study):
                    run(study, given.workers)
    except TimeIsUp:
        say("the time is up; the same command goes on from here")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
