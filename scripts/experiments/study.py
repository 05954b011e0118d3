"""The trials of the study, pair by pair: prepare the data, run what is missing, say what is there.

    python scripts/experiments/study.py list
    python scripts/experiments/study.py prepare PAIR… [--further] [--gsm8k DIR] [--models DIR]
    python scripts/experiments/study.py run PAIR… [--further] [--seconds S] [--seeds N]

`prepare` writes the rows and the scores of the network on them to `build/study/PAIR`. `run` goes
through the trials that have no record in `results/PAIR`, first every arm at every rate with seed 0,
then the further seeds at each arm's own rate, and writes one small record a trial there; adapters
are removed. It may be stopped and started at any time: what is finished is never run again, and
what was under way begins anew. One run a pair at a time. With `--further` a pair gets the arms of
further.py too, and keeps them.

`docs/study-protocol.md` says what the arms, rates and rows are for.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import math
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TypeVar

from outcomes import MOST_SEEDS, selected
from pairs import PAIRS, StudyError
from preparing import SCORES, prepare
from study_trials import STUDY, Study, name_of, open_study

from plop_lora.errors import PlopError
from plop_lora.recipe import Runner
from plop_lora.training.runners.events import FINISHED, Event
from plop_lora.training.runners.run import warm_trials

Number = TypeVar("Number", int, float)
MODELS = Path("build/models")
RESULTS = Path(__file__).resolve().parent / "results"


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
    """Run what is missing: the ladder, and the further seeds at the rates that follow from it.

    Args:
        study: a prepared pair.
        workers: trials at once; by default one a GPU, or one for two CPU cores.
    """
    with warm_trials() as run_trials:
        for phase in (study.ladder, study.confirmation):
            tried: set[str] = set()
            # Finished trials may ask for another rate, or for another seed.
            while specs := [spec for spec in study.missing(phase()) if name_of(spec) not in tried]:
                tried |= set(map(name_of, specs))
                say(f"{study.pair.name}: {len(specs)} trials of the {phase.__name__}")
                keep = Keeper(study, len(specs))
                run_trials(specs, study.folder / "trials", Runner(workers=workers), watch=keep)


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
            told = f"loss {selected(result):.4f}, {result.cost.wall_seconds:.0f} s"
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
            options.add_argument("--further", action="store_true", help="with the further arms")
    verbs.choices["prepare"].add_argument("--gsm8k", type=Path, help="folder of its two files")
    verbs.choices["run"].add_argument("--seconds", type=positive(float), help="stop after so many")
    verbs.choices["run"].add_argument("--workers", type=positive(int), help="trials at once")
    verbs.choices["run"].add_argument(
        "--seeds", type=positive(int), default=MOST_SEEDS, help="of every arm, at most"
    )
    verbs.choices["run"].add_argument("--device", default="auto")
    given = parser.parse_args()
    try:
        return act(given)
    except (StudyError, PlopError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1


def positive(kind: type[Number]) -> Callable[[str], Number]:
    """Return a reader of numbers above 0, for argparse."""

    def read(text: str) -> Number:
        number = kind(text)
        if not 0 < number < math.inf:
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return number

    read.__name__ = kind.__name__
    return read


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
            folder = STUDY / name
            prepare(PAIRS[name], folder, given.models, given.gsm8k, further=given.further)
            say(f"prepared {name}")
        return 0
    if given.device != "auto":
        from plop_lora.models.loading import device_named

        device_named(given.device)
    try:
        with alarm(given.seconds):
            for name in given.pairs:
                study = open_study(
                    name, given.results, given.models, given.device, given.seeds,
                    further=given.further,
                )  # fmt: skip
                with sole_run(study):
                    run(study, given.workers)
    except TimeIsUp:
        say("the time is up; the same command goes on from here")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
