"""Files of events: what is read, what is refused with its line and column, and what counts once."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from experiments import experiment

from plop_lora.ab.current import analyze_file
from plop_lora.ab.event_file import open_events, read_time, read_zone
from plop_lora.ab.events import Event, EventKind, measured
from plop_lora.ab.store import Store
from plop_lora.errors import DataError, UsageError
from plop_lora.records import EventImport, Experiment, Metric
from plop_lora.records.analysis import Design
from plop_lora.records.experiment import MetricKind

Run = Callable[..., tuple[int, str, str]]
AT = "2026-03-02T09:00:00+00:00"
LONG = f"""unit,name,value,at,arm,kind
u1,,,{AT},now,exposure
u1,resolved,1,{AT},,
u1,latency,1.5,{AT},,value
u2,resolved,0.25,{AT},,before
"""
WIDE = f"unit,at,arm,resolved,latency,country\nu1,{AT},now,1,1.5,DE\nu2,{AT},next,0,,FR\n"


def read(path: Path, text: str | bytes, timezone: str = "") -> list[Event]:
    """Write a file and return its events."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(open_events(path, experiment(), timezone=timezone).events())


def plain(events: list[Event]) -> list[tuple[str, str, str, float]]:
    """Return what matters of events."""
    return [(str(one.kind), one.arm, one.name, one.value) for one in events]


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """A running experiment whose file the environment names, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLOP_EXPERIMENT", "experiment.json")
    design = experiment()
    design.save("experiment.json")
    with Store.open("sqlite:///experiment.db") as store:
        store.run(design).start(datetime.fromisoformat(AT) - timedelta(hours=1))
    return design


# --------------------------------------------------------------------------- what is read


def test_one_value_a_row(tmp_path: Path) -> None:
    events = read(tmp_path / "long.csv", LONG)
    assert plain(events) == [
        ("exposure", "now", "", 0.0),
        ("value", "", "resolved", 1.0),
        ("value", "", "latency", 1.5),
        ("before", "", "resolved", 0.25),
    ]
    assert events[0].unit == experiment().pseudonym("u1")
    assert events[0].at == datetime.fromisoformat(AT)


def test_one_unit_a_row(tmp_path: Path) -> None:
    """An empty cell is a value that is missing, and not 0; a column of others is told."""
    (tmp_path / "wide.csv").write_text(WIDE)
    source = open_events(tmp_path / "wide.csv", experiment())
    assert plain(list(source.events())) == [
        ("exposure", "now", "", 0.0),
        ("value", "", "resolved", 1.0),
        ("value", "", "latency", 1.5),
        ("exposure", "next", "", 0.0),
        ("value", "", "resolved", 0.0),
    ]
    assert source.unknown == {"country": 2}


def test_every_form_gives_the_same_events(tmp_path: Path) -> None:
    """CSV with a byte order mark, as spreadsheets write it, with semicolons, JSON and Parquet."""
    import pyarrow
    from pyarrow import parquet

    expected = read(tmp_path / "wide.csv", WIDE)
    assert read(tmp_path / "bom.csv", b"\xef\xbb\xbf" + WIDE.encode()) == expected
    assert read(tmp_path / "semicolons.csv", WIDE.replace(",", ";")) == expected
    assert read(tmp_path / "tabs.tsv", WIDE.replace(",", "\t")) == expected
    header, *lines = [line.split(",") for line in WIDE.splitlines()]
    rows = [dict(zip(header, line, strict=True)) for line in lines]
    for row in rows:
        row |= {name: float(row[name]) if row[name] else None for name in ("resolved", "latency")}
    text = "".join(json.dumps(row) + "\n" for row in rows)
    assert read(tmp_path / "rows.jsonl", text) == expected
    typed = [row | {"at": datetime.fromisoformat(row["at"])} for row in rows]
    parquet.write_table(pyarrow.Table.from_pylist(typed), tmp_path / "rows.parquet")
    assert list(open_events(tmp_path / "rows.parquet", experiment()).events()) == expected


def test_the_id_of_a_row_is_that_of_its_content_and_occurrence(tmp_path: Path) -> None:
    """Two equal requests of one second are two; the same file again is none."""
    twice = LONG + LONG.splitlines()[2] + "\n"
    events = read(tmp_path / "twice.csv", twice)
    assert len({event.id for event in events}) == len(events) == 5
    assert [event.id for event in read(tmp_path / "again.csv", LONG)] == [
        event.id for event in events[:4]
    ]
    berlin = LONG.replace(AT, "2026-03-02T10:00:00+01:00")
    assert [e.id for e in read(tmp_path / "b.csv", berlin)] == [e.id for e in events[:4]]


def test_an_id_of_the_users_is_that_of_a_gateway(tmp_path: Path) -> None:
    """A value that the application has logged already must not count again from its log file."""
    text = f"unit,name,value,at,id\nu1,resolved,1,{AT},request-7\n"
    (event,) = read(tmp_path / "ids.csv", text)
    unit = experiment().pseudonym("u1")
    same = measured(unit, "resolved", 1.0, datetime.fromisoformat(AT), id="request-7")
    assert event.id == same.id


def test_values_of_a_router_are_known(tmp_path: Path) -> None:
    (event,) = read(tmp_path / "router.csv", f"unit,name,value,at\nu1,tokens_out,12,{AT}\n")
    assert (event.kind, event.name) == (EventKind.VALUE, "tokens_out")


# --------------------------------------------------------------------------- times


def test_times_without_a_zone_need_one(tmp_path: Path) -> None:
    text = WIDE.replace("+00:00", "")
    with pytest.raises(DataError, match=r"line 2, column 'at'.*no time zone.*--timezone"):
        read(tmp_path / "local.csv", text)
    events = read(tmp_path / "local.csv", text, timezone="Asia/Tokyo")
    assert events[0].at == datetime(2026, 3, 2, 0, 0, tzinfo=UTC)
    with pytest.raises(UsageError, match=r"no time zone 'Asia/Tokio'.*Did you mean 'Asia/Tokyo'"):
        read(tmp_path / "local.csv", text, timezone="Asia/Tokio")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("2026-03-02T09:00:00Z", (2026, 3, 2, 9)),
        ("20260302T090000+0200", (2026, 3, 2, 7)),
        (datetime(2026, 3, 2, 9), (2026, 3, 2, 8)),
        (datetime(2026, 3, 2).date(), (2026, 3, 1, 23)),
        # The clocks of Berlin repeat the hour from 2 to 3; the first one is at summer time.
        ("2026-10-25T02:30:00", (2026, 10, 25, 0)),
    ],
)
def test_times_are_instants(given: object, expected: tuple[int, ...]) -> None:
    found = read_time(given, read_zone("Europe/Berlin"))
    assert (found.year, found.month, found.day, found.hour) == expected


@pytest.mark.parametrize("given", ["yesterday", 1772442000, None, "", "2026-13-01T00:00:00Z"])
def test_what_is_no_time(given: object) -> None:
    """A number may count seconds or milliseconds, from 1970 or from 1900: it is not guessed at."""
    with pytest.raises(ValueError, match="must be a time such as 2026-03-02T09:00:00"):
        read_time(given, UTC)


@pytest.mark.parametrize("name", ["../etc/passwd", "", "Mars/Phobos", "\0"])
def test_what_is_no_time_zone(name: str) -> None:
    with pytest.raises(UsageError, match="no time zone"):
        read_zone(name)


# --------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user,at,resolved\nu,x,1\n", r"no column 'unit'; it has user, at, resolved"),
        (f"unit,att,resolved\nu,{AT},1\n", r"no column 'at'.*Did you mean 'att'"),
        (f"unit,at,resolved\n,{AT},1\n", r"line 2, column 'unit' is empty"),
        ("unit,at,resolved\nu,,1\n", r"line 2, column 'at' is empty"),
        (f"unit,at,resolved\nu,{AT},\nu,{AT},two\n", r"line 3, column 'resolved' is 'two'"),
        (f"unit,at,resolved\nu,{AT},nan\n", r"column 'resolved' is 'nan'; .* finite"),
        (f"unit,at,resolved\nu,{AT},2\n", r"line 2: 'resolved' is 2.0 .* from 0 to 1"),
        (f"unit,at,arm\nu,{AT},nxt\n", r"line 2: .*'nxt'.*Did you mean 'next'"),
        (f"unit,at,name,value\nu,{AT},resolved,\n", r"'value' is empty, and 'resolved' needs"),
        (f"unit,at,kind,resolved\nu,{AT},befor,1\n", r"'kind' is 'befor'.*Did you mean 'before'"),
        (f"unit,at,kind,arm\nu,{AT},exposure,\n", r"'arm' is empty in an exposure"),
        (f"unit,at,kind,arm,resolved\nu,{AT},before,now,1\n", "a value from before has no arm"),
        (f"unit,at,resolved\nu,{AT},1,9\n", r"line 2, has more fields than the header"),
        (f'unit,at,resolved\nu,{AT},"1\n', r"is not CSV"),
        (f"unit,at,unit\nu,{AT},v\n", r"has the field 'unit' twice"),
        ("unit,at,resolved\nu\n", r"line 2, column 'at' is empty"),
        ("unit,at,resolved\n", "holds no exposure and no value"),
        ("", "holds no exposure and no value"),
        (f"unit,at,resolvd\nu,{AT},1\n", r"It has resolvd\. Did you mean 'resolved'"),
        (b"\xff\xfeu\x00", "UTF-16"),
        (b"unit,at\n\x80,x\n", "not UTF-8"),
    ],
)
def test_the_place_of_a_fault_is_named(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = tmp_path / "events.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message):
        open_events(path, experiment()).check()


def test_rows_of_json_may_lack_fields_and_are_refused_by_type(tmp_path: Path) -> None:
    rows = [
        {"unit": 7, "at": AT, "arm": "now"},
        {"unit": 7, "at": AT, "name": "resolved", "value": True},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    assert plain(read(tmp_path / "rows.jsonl", text))[1] == ("value", "", "resolved", 1.0)
    for unit in (7.5, True, ["u"]):
        with pytest.raises(DataError, match="line 1, column 'unit' is"):
            read(tmp_path / "rows.jsonl", json.dumps({"unit": unit, "at": AT, "arm": "now"}))


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "events.txt").write_text("u1\n")
    with pytest.raises(DataError, match=r"\.txt is not one of \.csv"):
        open_events(tmp_path / "events.txt", experiment()).check()
    (tmp_path / "event.csv").write_text(LONG)
    with pytest.raises(DataError, match=r"No such file.*Did you mean 'event.csv'"):
        open_events(tmp_path / "events.csv", experiment())


def test_a_line_without_an_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is one line of gigabytes must not be read into memory."""
    monkeypatch.setattr("plop_lora.data.lines.LONGEST_LINE", 1000)
    (tmp_path / "huge.csv").write_text(LONG + "u" * 5000)
    with pytest.raises(DataError, match="line 6, is longer"):
        open_events(tmp_path / "huge.csv", experiment()).check()


# --------------------------------------------------------------------------- into the store


def test_a_file_is_imported_once(started: Experiment, run: Run) -> None:
    Path("events.csv").write_text(LONG + f"u1,tokens,9,{AT},,\nstranger,resolved,1,{AT},,\n")
    code, output, errors = run("ab", "import", "events.csv", "--format", "json")
    assert (code, errors) == (0, "")
    found = EventImport.from_dict(json.loads(output))
    assert (found.events, found.new, found.known, found.unknown_units) == (5, 5, 0, 2)
    assert found.unknown_names == {"tokens": 1}
    code, output, _ = run("ab", "import", "events.csv")
    assert code == 0
    assert "known before" in output
    assert "no such value: tokens (1)" in output
    with Store.open("sqlite:///experiment.db") as store:
        assert store.run(started).counts().events == {"latency": 1, "resolved": 2}


def test_nothing_is_stored_of_a_file_with_a_fault(started: Experiment, run: Run) -> None:
    """Half a file in the store would have to be told from the other half by hand."""
    lines = [f"u{number},{AT},now,1" for number in range(5000)]
    Path("events.csv").write_text("\n".join(["unit,at,arm,resolved", *lines, f"u,{AT},now,7"]))
    code, output, errors = run("ab", "import", "events.csv")
    assert (code, output) == (1, "")
    assert "events.csv, line 5002: 'resolved' is 7.0" in errors
    with Store.open("sqlite:///experiment.db") as store:
        assert store.run(started).counts().units == {"now": 0, "next": 0}


def test_names_in_a_file_move_no_cursor(started: Experiment, run: Run) -> None:
    Path("events.csv").write_text(f"unit,at,arm,\x1b[2Jx\u202e\nu1,{AT},now,1\n")
    code, output, errors = run("ab", "import", "events.csv")
    assert code == 0
    assert "\\x1b[2Jx\\u202e (1)" in output
    assert "\x1b" not in output + errors


def test_an_import_that_breaks_off_is_finished_by_the_next(
    started: Experiment, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from plop_lora.ab.store.stored import StoredRun
    from plop_lora.errors import StoreError

    whole, written = StoredRun.write, []

    def breaking(self: StoredRun, events: list[Event]) -> int:
        if written:
            raise StoreError("Cannot write the store.")
        written.append(len(events))
        return whole(self, events)

    monkeypatch.setattr("plop_lora.ab.importing._CHUNK", 2)
    monkeypatch.setattr(StoredRun, "write", breaking)
    Path("events.csv").write_text(LONG)
    code, _, errors = run("ab", "import", "events.csv")
    assert code == 1
    assert "2 of 4 events are stored; import the same file again" in errors
    monkeypatch.setattr(StoredRun, "write", whole)
    code, output, _ = run("ab", "import", "events.csv", "--format", "json")
    assert (code, json.loads(output)["new"]) == (0, 2)


# --------------------------------------------------------------------------- without a store


def test_a_file_gives_the_analysis_of_its_store(tmp_path: Path) -> None:
    """Two ways to one number that differ would leave nobody knowing which one to ship by."""
    from plop_lora.ab.current import analyze_run

    design = experiment(metrics=(Metric(name="resolved", kind=MetricKind.SHARE),), guardrails=())
    lines = ["unit,at,arm,kind,resolved"]
    for number in range(400):
        arm = ("now", "next")[number % 2]
        lines.append(f"u{number},{AT},{arm},,{int(number % 3 == 0 or arm == 'next')}")
        lines.append(f"stranger{number},{AT},,,1")
    (tmp_path / "events.csv").write_text("\n".join(lines))
    source = open_events(tmp_path / "events.csv", design)
    alone = analyze_file(source, Design.SEQUENTIAL)
    with Store.open(f"sqlite:///{tmp_path / 'e.db'}") as store:
        run = store.run(design)
        run.start(datetime.fromisoformat(AT))
        run.write(list(source.events()))
        stored = analyze_run(run, Design.SEQUENTIAL)
    assert alone == stored
    assert alone.notes == ("values that were left out: 400 of units that met no arm",)
