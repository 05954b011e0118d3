"""How many events a second the store and the writer of events take, on SQLite and PostgreSQL.

    python benchmarks/ab_store.py [--events 20000] [--rounds 3] [--save]

A request makes six events, an exposure and five values, as the router logs them. Five ways, each on
a new database, one after the other in every round:

- one by one: `run.write` with one event, so that each has a commit of its own (200 events);
- by request: `run.write` with the six events of a request (1,200 events);
- batches: `run.write` with 500 events;
- acknowledged: `Writer.write` with the six events of a request, until the last call returns;
- stored: the same, until the database has all of them.

`read` is `run.observations` of the events of `batches`, of which an experiment's metrics use three
in six. PostgreSQL is started in a temporary folder with its own durability (fsync on); without it
on the machine its rows are missing.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import alembic
import psycopg
import sqlalchemy
from score import processor

from plop_lora.ab.events import Event, exposure, measured
from plop_lora.ab.store import Store, Writer

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import postgres
from experiments import START, experiment

DESIGN = experiment()
NAMES = ("resolved", "latency", "latency_first", "tokens_in", "tokens_out")
BATCH, REQUEST, ONE_BY_ONE, BY_REQUEST = 500, 6, 200, 1_200
WAYS = ("one by one", "by request", "batches", "acknowledged", "stored", "read")


def events_of(count: int) -> list[Event]:
    """Return the events of requests, each of another unit."""
    found: list[Event] = []
    for number in range(count // REQUEST):
        at = START + datetime.timedelta(seconds=number)
        unit = DESIGN.pseudonym(str(number))
        found.append(exposure(unit, DESIGN.assign(str(number)) or "now", at))
        found += [measured(unit, name, number % 2, at) for name in NAMES]
    return found


def groups(events: Sequence[Event], size: int) -> Iterator[Sequence[Event]]:
    """Yield the events in groups of a size."""
    for first in range(0, len(events), size):
        yield events[first : first + size]


def rate(count: int, work: Callable[[], object]) -> float:
    """Return how many events a second a piece of work takes."""
    start = time.perf_counter()
    work()
    return count / (time.perf_counter() - start)


def written(url: str, events: Sequence[Event], size: int) -> tuple[float, float]:
    """Return the rates of writing and of reading, in events a second."""
    with Store.open(url) as store:
        run = store.run(DESIGN)
        run.start(START)
        write = rate(len(events), lambda: [run.write(group) for group in groups(events, size)])
        read = rate(len(events), run.observations)
        assert sum(run.counts().units.values()) == len({event.unit for event in events})
    return write, read


def spilled(url: str, events: Sequence[Event], folder: Path) -> tuple[float, float]:
    """Return the rates of a writer until it has acknowledged and until it has stored all."""
    with Store.open(url) as store:
        store.run(DESIGN).start(START)
    start = time.perf_counter()
    with Writer(folder, url, DESIGN) as writer:
        for group in groups(events, REQUEST):
            writer.write(group)
        acknowledged = time.perf_counter()
        assert writer.drain(600)
        stored = time.perf_counter()
    return len(events) / (acknowledged - start), len(events) / (stored - start)


def measure(new_url: Callable[[], str], events: Sequence[Event]) -> dict[str, float]:
    """Return the rate of every way, in events a second."""
    with tempfile.TemporaryDirectory() as folder:
        acknowledged, stored = spilled(new_url(), events, Path(folder) / "spill")
    batches, read = written(new_url(), events, BATCH)
    return {
        "one by one": written(new_url(), events[:ONE_BY_ONE], 1)[0],
        "by request": written(new_url(), events[:BY_REQUEST], REQUEST)[0],
        "batches": batches,
        "acknowledged": acknowledged,
        "stored": stored,
        "read": read,
    }


def report(count: int, rounds: int) -> str:
    """Measure and return the page."""
    events = events_of(count)
    rows: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        numbers = iter(range(10_000))
        kinds = {"SQLite": lambda: f"sqlite:///{folder}/store{next(numbers)}.db"}
        server = None
        try:
            server = postgres.Server(durable=True)
            kinds["PostgreSQL"] = server.url
        except postgres.UnavailableError as reason:
            rows.append(f"\nNo PostgreSQL: {reason}.")
        try:
            found = {
                kind: [measure(new_url, events) for _ in range(rounds)]
                for kind, new_url in kinds.items()
            }
        finally:
            if server is not None:
                server.close()
    lines = [
        f"# Events a second through the store, {datetime.date.today().isoformat()}",
        "",
        f"{len(events):,} events, {REQUEST} for each request; medians of {rounds} rounds, the "
        "least and the most in brackets.",
        f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end; Python "
        f"{platform.python_version()}, SQLAlchemy {sqlalchemy.__version__}, Alembic "
        f"{alembic.__version__}, psycopg {psycopg.__version__}.",
        "",
        f"| events a second | {' | '.join(WAYS)} |",
        f"|---{'|---' * len(WAYS)}|",
        *(f"| {kind} | {' | '.join(cell(runs, way) for way in WAYS)} |"
          for kind, runs in found.items()),
    ]  # fmt: skip
    return "\n".join([*lines, *rows]) + "\n"


def cell(runs: Sequence[dict[str, float]], way: str) -> str:
    """Return the median of a way, and its range."""
    rates = [run[way] for run in runs]
    return f"{statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"


def main() -> None:
    """Print the table, and keep it where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", action="store_true", help="under benchmarks/results")
    options = parser.parse_args()
    text = report(options.events, options.rounds)
    print(text)
    if options.save:
        name = f"ab-store-{datetime.date.today().isoformat()}.md"
        (Path(__file__).parent / "results" / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
