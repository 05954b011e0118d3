"""The store on SQLite and on PostgreSQL: what changes, what is written, what is read. No torch."""

from __future__ import annotations

import re
import sqlite3
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from experiments import SALT, START, experiment
from stores import MINUTE, visit
from waiting import PATIENCE

from plop_lora import ab
from plop_lora.ab.events import BEFORE, VALUE, Event, exposure, measured
from plop_lora.ab.store import Store
from plop_lora.errors import DataError, RecordError, StoreError, UnknownNameError, UsageError

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "ab-design.md").read_text(encoding="utf-8")
TOKYO = timezone(timedelta(hours=9))


@pytest.fixture
def run(store_url):
    """An experiment that has been started."""
    with Store.open(store_url) as store:
        found = store.run(experiment(coverage=0.1))
        found.start(START)
        yield found


# --------------------------------------------------------------------------- start


def test_an_experiment_starts_once(store_url) -> None:
    """A router that is started again would begin the experiment, and its burn-in, anew."""
    with Store.open(store_url) as store:
        run = store.run(experiment(coverage=0.1))
        with pytest.raises(UsageError, match=r"not been started.*plop ab init"):
            run.state()
        with pytest.raises(UsageError, match="plop ab init"):
            run.write(visit("u", "now"))
        run.start(START)
        run.start(START + MINUTE)
    with Store.open(store_url) as store:
        state = store.run(experiment(coverage=0.1)).state()
    assert state.ramp.started == START
    assert state.ramp.coverage == 0.1
    assert not state.off
    state.ramp.check(experiment(coverage=0.1))


def test_an_experiment_that_was_changed_is_refused(run, store_url) -> None:
    """Units would be counted under a design that they were not given their arms by."""
    with Store.open(store_url) as store:
        changed = store.run(experiment(planned_units=8000))
        for call in (
            lambda: changed.start(START),
            changed.state,
            changed.observations,
            changed.counts,
            changed.decision,
            lambda: changed.write(visit("u", "now")),
            lambda: changed.raise_coverage(0.5, START + MINUTE),
        ):
            with pytest.raises(RecordError, match="changed after its start"):
                call()
    assert run.state().ramp.coverage == 0.1


def test_two_experiments_do_not_mix(run, store_url) -> None:
    """The events of one would be those of the other, as their ids may be the same."""
    other = experiment(name="other", salt=SALT[::-1])
    event = Event(id="1", kind=VALUE, unit="u", name="latency", value=1, at=START)
    with Store.open(store_url) as store:
        second = store.run(other)
        second.start(START)
        assert second.write([event]) == 1
        assert run.counts().events == {}
        assert run.write([event]) == 1
        second.stop("keep", "now", "a test", START + MINUTE)
    assert run.decision() is None


def test_the_salt_is_not_stored(run, store_url, tmp_path) -> None:
    """Whoever reads the database could tell the ids of units from their pseudonyms."""
    with Store.open(store_url) as store, store._database.reading() as connection:
        (document,) = connection.exec_driver_sql("SELECT document FROM plop_experiments").one()
    assert '"support"' in document
    assert SALT not in document


# --------------------------------------------------------------------------- coverage


def test_coverage_is_only_raised(run) -> None:
    """A coverage that falls takes units out in the middle."""
    ramp = run.raise_coverage(0.5, START + MINUTE, "all is well")
    assert [step.coverage for step in ramp.steps] == [0.1, 0.5]
    assert run.state().ramp == ramp
    for wrong, at in ((0.5, MINUTE * 2), (0.2, MINUTE * 2), (0.9, MINUTE * 0), (1.5, MINUTE * 2)):
        with pytest.raises(UsageError):
            run.raise_coverage(wrong, START + at)
    with pytest.raises(UsageError, match="plop ab stop"):
        run.raise_coverage(0, START + MINUTE * 2)
    with pytest.raises(UsageError, match="no time zone"):
        run.raise_coverage(0.9, datetime(2027, 1, 1))
    assert run.state().ramp == ramp


def test_of_two_simultaneous_ramps_one_wins(store_url) -> None:
    """Both would read 0.1, and the lower one that is written last would take units out."""
    design = experiment(coverage=0.1)
    with Store.open(store_url) as store:
        store.run(design).start(START)
    barrier = threading.Barrier(8)

    def work(number: int) -> str:
        with Store.open(store_url) as store:
            run = store.run(design)
            run.state()
            barrier.wait(PATIENCE)
            try:
                run.raise_coverage((number + 2) / 10, START + MINUTE)
            except UsageError:
                return "refused"
            return "raised"

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(8)))
    with Store.open(store_url) as store:
        steps = store.run(design).state().ramp.steps
    shares = [step.coverage for step in steps]
    assert shares == sorted(set(shares))
    assert len(shares) == 1 + results.count("raised")
    assert shares[-1] == 0.9


# --------------------------------------------------------------------------- switches


def test_an_arm_is_switched_for_all_processes(run, store_url) -> None:
    """One router would go on to send units to an arm that another has found harmful."""
    run.switch("next", on=False, reason="too slow", at=START + MINUTE)
    with Store.open(store_url) as store:
        other = store.run(experiment(coverage=0.1))
        assert other.state().off == {"next": "too slow"}
        other.switch("next", on=False, reason="another reason", at=START + 2 * MINUTE)
        assert other.state().off == {"next": "too slow"}
        other.switch("next", on=True, reason="mended", at=START + 3 * MINUTE)
    assert run.state().off == {}


def test_the_control_is_never_switched_off(run) -> None:
    """Units of an arm that is off get the control, and so it has to be there."""
    with pytest.raises(UsageError, match=r"is the control and stays on.*next"):
        run.switch("now", on=False, reason="", at=START)
    with pytest.raises(UnknownNameError, match="Did you mean 'next'"):
        run.switch("nxt", on=False, reason="", at=START)
    assert run.state().off == {}


# --------------------------------------------------------------------------- the end


def test_an_end_is_final(run) -> None:
    """A second decision, or a coverage above 0, would follow a first that was acted on."""
    assert run.decision() is None
    run.stop("ship", "next", "better by 2 %", START + MINUTE)
    decision = run.decision()
    assert (decision.decision, decision.arm) == ("ship", "next")
    assert (decision.reason, decision.at) == ("better by 2 %", START + MINUTE)
    assert run.state().ramp.coverage == 0
    later = START + 2 * MINUTE
    with pytest.raises(UsageError, match=r"ended at .* with ship 'next', for good"):
        run.stop("keep", "now", "", later)
    with pytest.raises(UsageError, match="ended"):
        run.raise_coverage(1.0, later)
    with pytest.raises(UsageError, match="ended"):
        run.switch("next", on=False, reason="", at=later)
    assert run.decision() == decision


@pytest.mark.parametrize(
    ("decision", "arm_name", "message"),
    [
        ("shp", "next", "Did you mean 'ship'"),
        ("ship", "now", "cannot be the one to ship; it is next"),
        ("keep", "next", "cannot be the one to keep; it is now"),
        ("ship", "nxt", "Did you mean 'next'"),
    ],
)
def test_a_decision_fits_its_arm(run, decision: str, arm_name: str, message: str) -> None:
    """An end with an arm that nobody has cannot be taken back."""
    with pytest.raises(UsageError, match=re.escape(message)):
        run.stop(decision, arm_name, "", START + MINUTE)
    assert run.decision() is None


# --------------------------------------------------------------------------- events


def test_an_event_counts_once(run) -> None:
    """A retry of a batch, a part of which was stored, would count that part twice."""
    events = visit("u", "now", values=[("resolved", 1, 1), ("latency", 2.5, 1)])
    assert run.write(events[:2]) == 2
    assert run.write(events) == 1
    assert run.write(events) == 0
    assert run.write([events[0], events[0]]) == 0
    assert run.write([]) == 0
    (one,) = run.observations()
    assert (one.unit, one.arm) == ("u", "now")
    assert one.values == {"resolved": 1, "latency": 2.5}


def test_many_events_at_once_are_all_counted(run) -> None:
    """Psycopg says -1 of the rows of a batch, and SQLite takes 32,766 values in a statement."""
    events = [exposure(f"u{number}", "now", START) for number in range(7_000)]
    assert run.write(events[:10]) == 10
    assert run.write(events) == 6_990
    assert run.counts().units == {"now": 7_000, "next": 0}


def test_times_keep_their_zone(run) -> None:
    """SQLite drops it, and a burn-in would end hours too early."""
    at = datetime(2026, 3, 2, 18, 30, 0, 123456, tzinfo=TOKYO)
    run.write([exposure("u", "now", at)])
    (one,) = run.observations()
    assert one.exposed_at == at
    assert one.exposed_at.utcoffset() == timedelta(0)
    assert run.counts().first == run.counts().last == at
    run.raise_coverage(0.5, at)
    assert run.state().ramp.steps[-1].at == at


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (exposure("u", "nxt", START), "Did you mean 'next'"),
        (measured("u", "resolved", 1.5, START), "from 0 to 1"),
        (measured("u", "resolved", -1, START, kind=BEFORE), "from 0 to 1"),
        (exposure("u", "now", datetime(1, 1, 1, tzinfo=TOKYO)), "the years go from 1 to 9999"),
        (measured("u\n", "latency", 1, START), "character that acts"),
        (measured("u", "a\0", 1, START), "character that acts"),
        (measured("u", "", 1, START), "1 to 256 characters"),
        (measured("", "latency", 1, START), "1 to 256 characters"),
        (measured("\ud800", "latency", 1, START), "character that acts"),
    ],
)
def test_events_that_no_analysis_could_take_are_refused(run, event: Event, message: str) -> None:
    """Nothing that is stored is taken back, and one value of 1.5 would end every analysis."""
    with pytest.raises(DataError, match=re.escape(message)):
        run.write([*visit("v", "now"), event])
    assert run.counts().units == {"now": 0, "next": 0}


def test_hostile_texts_are_values(run) -> None:
    """A unit or a name that is taken for a statement could change what is stored."""
    hostile = "'); DROP TABLE plop_events; --"
    run.write([*visit(hostile, "now"), measured(hostile, f"{hostile}%s:x", 1, START)])
    run.switch("next", on=False, reason=hostile, at=START)
    assert run.observations()[0].unit == hostile
    assert run.counts().events == {f"{hostile}%s:x": 1}
    assert run.state().off == {"next": hostile}


def test_a_reason_is_shown_with_escapes(run) -> None:
    """A reason that moves the cursor could show another one, and PostgreSQL takes no NUL."""
    run.switch("next", on=False, reason="slow\x1b[2J\0\ud800", at=START)
    assert run.state().off == {"next": r"slow\x1b[2J\x00\ud800"}


def test_counts_tell_what_is_there(run) -> None:
    """`plop ab status` would show an experiment without events as one without an arm."""
    assert run.counts().units == {"now": 0, "next": 0}
    assert run.counts().first is None
    run.write(visit("u", "now", values=[("latency", 1, 1), ("latency", 2, 3), ("cost", 5, 2)]))
    run.write([*visit("v", "next"), measured("v", "latency", 3, START, kind=BEFORE)])
    counts = run.counts()
    assert counts.units == {"now": 1, "next": 1}
    assert counts.events == {"cost": 1, "latency": 2}
    assert counts.before == {"latency": 1}
    assert (counts.first, counts.last) == (START, START + 3 * MINUTE)


@pytest.mark.slow
def test_two_processes_write_to_one_store(run, store_url) -> None:
    """SQLite lets one process write at a time; the other one waits instead of failing."""
    code = (
        "import sys\n"
        "from experiments import START, experiment\n"
        "from plop_lora.ab.events import exposure\n"
        "from plop_lora.ab.store import Store\n"
        "with Store.open(sys.argv[1]) as store:\n"
        "    run = store.run(experiment(coverage=0.1))\n"
        "    for number in range(100):\n"
        "        run.write([exposure(f'{sys.argv[2]}-{number}', 'now', START)])\n"
    )
    command = [sys.executable, "-c", code, store_url]
    here = str(Path(__file__).parent)
    found = [subprocess.Popen([*command, name], cwd=here) for name in ("a", "b")]
    assert [one.wait(timeout=PATIENCE) for one in found] == [0, 0]
    assert run.counts().units["now"] == 200


# --------------------------------------------------------------------------- with the analysis


def test_the_analysis_takes_what_is_stored(run) -> None:
    """What one part writes is what the next one reads."""
    events = []
    for number in range(400):
        name = "now" if number % 2 else "next"
        values = [("resolved", number % 3 == 0, 1), ("latency", number % 7, 1)]
        events += visit(f"u{number}", name, number, values)
    run.write(events)
    state = run.state()
    analysis = ab.analyze(run.experiment, run.observations(), ramp=state.ramp)
    assert analysis.units == 400
    assert analysis.sample_ratio.units == {"now": 200, "next": 200}


def test_who_reads_does_not_wait_for_who_writes(run, store_url) -> None:
    """`plop ab status` would fail while an import of a million events is going on."""
    run.write(visit("u", "now"))
    with run._database.writing() as connection:
        run._lock(connection)
        with Store.open(store_url) as store:
            other = store.run(run.experiment)
            assert other.counts().units["now"] == 1
            assert other.state().ramp.coverage == 0.1
            assert "support" in repr(other)
            assert "s3cret" not in repr(store) + repr(other)


# --------------------------------------------------------------------------- databases with faults


def test_a_file_that_is_no_database_is_left_as_it_is(tmp_path) -> None:
    """A wrong path would replace the user's file by a database."""
    for lines in (1, 20, 100, 10_000):
        file = tmp_path / "notes.txt"
        file.write_text("what I have to do\n" * lines)
        with pytest.raises(StoreError, match=r"not a database.*another file"):
            Store.open(f"sqlite:///{file}")
        assert file.read_text() == "what I have to do\n" * lines
    with pytest.raises(StoreError, match=r"not a database.*another file"):
        Store.open(f"sqlite:///{tmp_path}")


def test_a_damaged_database_is_told(tmp_path) -> None:
    """Pages that were overwritten would come out as a traceback, or as no events."""
    file = tmp_path / "store.db"
    with Store.open(f"sqlite:///{file}") as store:
        run = store.run(experiment())
        run.start(START)
        run.write([exposure(f"u{number}", "now", START) for number in range(3_000)])
    content = bytearray(file.read_bytes())
    assert len(content) > 200_000
    content[8_192:150_000] = b"\xaa" * (150_000 - 8_192)
    file.write_bytes(content)
    with pytest.raises(StoreError, match=r"damaged|malformed"):
        with Store.open(f"sqlite:///{file}") as store:
            store.run(experiment()).observations()


def test_values_of_a_hand_that_are_none_are_told(tmp_path) -> None:
    """SQLite keeps a text in a column of numbers, which no analysis could add up."""
    file = tmp_path / "store.db"
    with Store.open(f"sqlite:///{file}") as store:
        run = store.run(experiment())
        run.start(START)
        run.write(visit("u", "now", values=[("latency", 1, 1)]))
        for change in ("value = 'much'", "value = 1, at = 'yesterday'"):
            connection = sqlite3.connect(file)
            with connection:
                connection.execute(f"UPDATE plop_events SET {change}")
            connection.close()
            with pytest.raises(StoreError, match="Cannot read the store"):
                run.observations()


def test_the_file_is_the_users_alone(tmp_path) -> None:
    """Other users of the machine could read what happened to every unit."""
    with Store.open(f"sqlite:///{tmp_path}/store.db") as store:
        store.run(experiment()).start(START)
        for file in tmp_path.iterdir():
            assert not stat.S_IMODE(file.stat().st_mode) & 0o077, file


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("mysql://u:s3cret@h/d", "no store on 'mysql'"),
        ("sqlite://", "a file that other processes can open"),
        ("sqlite:///:memory:", "a file that other processes can open"),
        ("s3cret", "cannot be read"),
        ("postgresql://u:s3cret@h:port/d", "cannot be read"),
        ("", "cannot be read"),
    ],
)
def test_an_address_that_is_none_is_refused(wrong: str, message: str) -> None:
    """A password stands in an address, and must not come out in an error."""
    with pytest.raises(UsageError, match=message) as caught:
        Store.open(wrong)
    assert "s3cret" not in str(caught.value)
    assert "postgresql://USER:PASSWORD@HOST/DATABASE" in str(caught.value)


def test_a_store_that_cannot_be_reached_is_told_without_its_password(tmp_path) -> None:
    """The address is printed for the user, and its password would stand in logs."""
    for wrong in (
        "postgresql://u:s3cret@127.0.0.1:1/d",
        "postgresql://u@127.0.0.1:1/d?password=s3cret",
        "postgresql://u:s3cret@127.0.0.1:1/d?nonsense=1",
        f"sqlite:///{tmp_path}/nowhere/s.db",
    ):
        with pytest.raises(StoreError, match="Cannot open the store") as caught:
            Store.open(wrong)
        assert "s3cret" not in str(caught.value)
        assert "Background on this error" not in str(caught.value)


def test_a_wrong_password_is_told(postgresql) -> None:
    """The server names the user; the text has neither password."""
    wrong = postgresql.url().replace("s3cret%20word", "s3cret")
    with pytest.raises(StoreError, match="authentication failed") as caught:
        Store.open(wrong)
    assert "s3cret" not in str(caught.value)


def test_a_store_that_comes_back_is_used_again(postgresql) -> None:
    """A server that was started again has dropped every connection of the pool."""
    with Store.open(postgresql.url()) as store:
        run = store.run(experiment())
        run.start(START)
        postgresql.stop()
        try:
            with pytest.raises(StoreError, match="Cannot read the store"):
                run.state()
        finally:
            postgresql.start()
        assert run.state().ramp.started == START
        assert run.write(visit("u", "now")) == 1


@pytest.mark.slow
def test_importing_the_package_needs_no_database() -> None:
    """Every verb would wait for SQLAlchemy, and fail without the extra."""
    code = (
        "import sys, plop_lora.ab, plop_lora.ab.store\n"
        "assert not {'sqlalchemy', 'alembic', 'psycopg', 'torch'} & set(sys.modules)\n"
        "from plop_lora.ab import Store, Writer\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_full_disk_is_told(tmp_path) -> None:
    """The transaction is taken back, and the store goes on when there is room."""
    with Store.open(f"sqlite:///{tmp_path}/store.db") as store:
        run = store.run(experiment())
        run.start(START)
        with store._database.reading() as connection:
            (pages,) = connection.exec_driver_sql("PRAGMA page_count").one()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 4}")
        many = [exposure(f"u{number}", "now", START) for number in range(2_000)]
        with pytest.raises(StoreError, match=r"is full\. Make room on the disk"):
            run.write(many)
        assert run.counts().units["now"] == 0
        with store._database.reading() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
        assert run.write(many) == 2_000


def test_a_file_that_may_not_be_written_is_told(tmp_path) -> None:
    """`attempt to write a readonly database` does not say what to do."""
    file = tmp_path / "store.db"
    with Store.open(f"sqlite:///{file}") as store:
        store.run(experiment()).start(START)
        with store._database.reading() as connection:
            connection.exec_driver_sql("PRAGMA query_only = ON")
        with pytest.raises(StoreError, match="Give this user the right to write"):
            store.run(experiment()).write(visit("u", "now"))


# --------------------------------------------------------------------------- the documentation


def test_the_page_of_the_design_runs_as_it_stands(tmp_path, monkeypatch, capsys) -> None:
    """An example that fails teaches an error."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "ab-design.md", "exec"), names)
    assert capsys.readouterr().out == "1 0\n"


def test_the_page_has_the_numbers_that_were_measured() -> None:
    """A table that nobody has measured misleads."""
    newest = max((ROOT / "benchmarks" / "results").glob("ab-store-*.md"))
    table = [line for line in newest.read_text(encoding="utf-8").splitlines() if "|" in line]
    assert len(table) == 4
    assert "\n".join(table) in PAGE
