"""A running experiment inside a gateway of one's own."""

from __future__ import annotations

import functools
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from experiments import experiment
from waiting import PATIENCE, until

from plop_lora import ab
from plop_lora.ab.live import database_beside
from plop_lora.ab.running import RunState
from plop_lora.ab.store import Store, StoredRun, Writer
from plop_lora.errors import DataError, RecordError, StoreError, UnknownNameError, UsageError

FILE = "experiment.json"


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StoredRun]:
    """A running experiment, of which half of the units are part, in the current folder."""
    monkeypatch.chdir(tmp_path)
    design = experiment(coverage=0.5)
    design.save(FILE)
    with Store.open(database_beside(FILE)) as store:
        run = store.run(design)
        run.start(datetime.now(UTC))
        yield run


def unit_of(run: StoredRun, arm: str | None, coverage: float = 0.5) -> str:
    """Return a unit of an arm."""
    units = (f"account-{number}" for number in range(1000))
    return next(u for u in units if run.experiment.assign(u, coverage=coverage) == arm)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a gateway that ends wait for its database as long as a busy machine takes."""
    monkeypatch.setattr(Writer, "close", functools.partialmethod(Writer.close, timeout=PATIENCE))


def test_a_gateway_in_five_lines(stored: StoredRun) -> None:
    """The arm and the values of a unit are stored when the gateway ends, under a pseudonym."""
    unit = unit_of(stored, "next")
    with ab.open_run(FILE) as run:
        arm = run.assign(unit)
        run.log(unit, "resolved", 1)
    assert arm == "next"
    counts = stored.counts()
    assert (dict(counts.units), counts.events) == ({"now": 0, "next": 1}, {"resolved": 1})
    assert stored.exposed({stored.experiment.pseudonym(unit), "other"}) == {
        stored.experiment.pseudonym(unit)
    }
    (seen,) = stored.observations()
    assert (seen.arm, seen.values) == ("next", {"resolved": 1.0})


def test_a_unit_that_takes_no_part_is_not_logged(stored: StoredRun) -> None:
    with ab.open_run(FILE) as run:
        assert run.assign(unit_of(stored, None)) is None
    assert not any(stored.counts().units.values())


def test_coverage_and_switches_are_followed(stored: StoredRun) -> None:
    """A gateway that is not started again must see the kill switch, or there is none."""
    late, mine = unit_of(stored, None), unit_of(stored, "next")
    with ab.open_run(FILE, refresh=0.01) as run:
        assert run.assign(late) is None
        stored.raise_coverage(1.0, datetime.now(UTC))
        until(lambda: run.state.ramp.coverage == 1.0)
        assert run.assign(late) == run.experiment.assign(late, coverage=1.0)
        stored.switch("next", on=False, reason="a test", at=datetime.now(UTC))
        until(lambda: bool(run.state.off))
        assert run.assign(mine) == "now"
    assert stored.experiment.pseudonym(mine) not in {one.unit for one in stored.observations()}


def test_a_database_that_goes_away_changes_nothing(
    stored: StoredRun, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Requests are answered, and what was logged is stored later."""
    unit = unit_of(stored, "next")
    away = StoreError("Cannot read the store.")

    def failing(self: StoredRun, *_: object) -> None:
        raise away

    with caplog.at_level(logging.WARNING), ab.open_run(FILE, refresh=0.01) as run:
        with monkeypatch.context() as patched:
            patched.setattr(StoredRun, "state", failing)
            patched.setattr(StoredRun, "write", failing)
            until(lambda: "stays as it was" in caplog.text)
            assert run.assign(unit) == "next"
            run.log(unit, "resolved", 1)
            assert run.pending == 2
    assert stored.counts().events == {"resolved": 1}
    assert caplog.text.count("stays as it was") == 1


def test_nothing_reads_the_database_after_the_end(
    stored: StoredRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that still reads would open a connection that nobody closes."""
    reads, ends = threading.Event(), threading.Event()
    state, close = StoredRun.state, Store.close
    reading: list[list[str]] = []

    def read(self: StoredRun) -> RunState:
        reads.set()
        ends.wait(PATIENCE)
        return state(self)

    def closed(self: Store) -> None:
        names = (thread.name for thread in threading.enumerate())
        reading.append([name for name in names if name == "plop-ab-state"])
        close(self)

    run = ab.open_run(FILE, refresh=0.01)
    monkeypatch.setattr(StoredRun, "state", read)
    monkeypatch.setattr(Store, "close", closed)
    monkeypatch.setattr(Writer, "close", lambda self: ends.set())
    assert reads.wait(PATIENCE)
    run.close()
    assert reading == [[]]


def test_a_value_with_an_id_counts_once(stored: StoredRun) -> None:
    unit = unit_of(stored, "now")
    with ab.open_run(FILE) as run:
        for _ in range(3):
            run.assign(unit)
            run.log(unit, "resolved", 1, id="request-7")
        run.log(unit, "resolved", 0.5, before=True)
    counts = stored.counts()
    assert (counts.units["now"], counts.events, counts.before) == (
        1, {"resolved": 1}, {"resolved": 1},
    )  # fmt: skip


def test_what_cannot_be_logged_is_told_at_once(stored: StoredRun) -> None:
    """An error that came with the analysis would come weeks too late."""
    with ab.open_run(FILE) as run:
        with pytest.raises(UnknownNameError, match="Did you mean 'resolved'"):
            run.log("u", "resolvd", 1)
        with pytest.raises(DataError, match="from 0 to 1"):
            run.log("u", "resolved", 2)
        with pytest.raises(UsageError, match="no time zone"):
            run.log("u", "resolved", 1, at=datetime(2026, 3, 2))
        with pytest.raises(UsageError, match="not empty"):
            run.assign("")


def test_a_run_that_cannot_be_opened(stored: StoredRun) -> None:
    with pytest.raises(StoreError):
        ab.open_run(FILE, "sqlite:///absent/e.db")
    experiment(name="other").save("other.json")
    with pytest.raises(UsageError, match="plop ab init"):
        ab.open_run("other.json", database_beside(FILE))
    experiment(coverage=0.4).save(FILE)
    with pytest.raises(RecordError, match="was changed after its start"):
        ab.open_run(FILE)


def test_public_names_are_real() -> None:
    assert set(ab.__all__) == set(ab._HOMES)
    for name in ab.__all__:
        assert getattr(ab, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'analyse'"):
        ab.analyse  # noqa: B018


def test_a_gateway_imports_neither_statistics_nor_a_database() -> None:
    """It answers requests: half a second and 100 MB of scipy are for whoever analyses."""
    code = (
        "import sys; from plop_lora import ab; ab.open_run, ab.Experiment\n"
        "found = {'torch', 'scipy', 'sqlalchemy', 'pandas'} & set(sys.modules)\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
