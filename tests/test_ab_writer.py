"""Events in files on their way to the store: what is acknowledged is never lost. No torch."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from experiments import SALT, START, experiment
from stores import MINUTE, visit
from waiting import PATIENCE, until

from plop_lora.ab.events import Event, exposure, measured
from plop_lora.ab.store import Store, Writer, spill_folder
from plop_lora.ab.store import writer as writing
from plop_lora.ab.store.spill import Queue, Segment, decode, encode
from plop_lora.errors import DataError, OutputError, UsageError

HERE = Path(__file__).parent
DESIGN = experiment()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spill"


@pytest.fixture
def dead(tmp_path: Path) -> str:
    """The address of a store that cannot be opened before its folder is made."""
    return f"sqlite:///{tmp_path}/later/store.db"


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The address of a store on SQLite in which the experiment has been started."""
    return started(f"sqlite:///{tmp_path}/store.db")


def started(url: str) -> str:
    with Store.open(url) as store:
        store.run(DESIGN).start(START)
    return url


def units(url: str) -> set[str]:
    """Return the units that the store knows, and check that none is there twice."""
    with Store.open(url) as store:
        found = [one.unit for one in store.run(DESIGN).observations()]
    assert len(found) == len(set(found))
    return set(found)


def exposures(first: int, last: int) -> list[Event]:
    return [exposure(f"u{number}", "now", START) for number in range(first, last)]


def named(first: int, last: int) -> set[str]:
    return {f"u{number}" for number in range(first, last)}


# --------------------------------------------------------------------------- on the way


def test_events_reach_the_store(store_url, folder) -> None:
    """Events would stay in files for ever, or be written with another time or value."""
    started(store_url)
    events = visit("u", "next", values=[("resolved", 1, 1), ("latency", 0.1 + 0.2, 2)])
    with Writer(folder, store_url, DESIGN) as writer:
        writer.write(events[:1])
        writer.write(events[1:])
        writer.write(events)
        assert writer.drain(PATIENCE)
        assert writer.pending == 0
        with Store.open(store_url) as store:
            first, second = store.run(DESIGN).observations()
    assert (first.arm, first.values, first.exposed_at) == ("next", {"resolved": 1}, START + MINUTE)
    assert second.values == {"latency": 0.1 + 0.2}
    assert list(folder.iterdir()) == []


def test_many_segments_are_shipped_in_order_and_removed(url, folder, monkeypatch) -> None:
    """Files that are stored would fill the disk."""
    monkeypatch.setattr(writing, "_SEGMENT_BYTES", 2_000)
    with Writer(folder, url, DESIGN) as writer:
        for number in range(0, 3_000, 10):
            writer.write(exposures(number, number + 10))
        assert writer.drain(PATIENCE)
        (queue,) = folder.iterdir()
        assert len(list(queue.glob("*.jsonl"))) == 1
    assert units(url) == named(0, 3_000)
    assert list(folder.iterdir()) == []


def test_a_line_is_the_event(folder) -> None:
    """A time would lose its zone, or a hostile text break the line."""
    hostile = 'a"\\ é 日 {}'
    events = [measured(hostile, "latency", 1e-300, START), *visit("v", "next")]
    lines = encode(events).splitlines()
    assert [decode(line) for line in lines] == events
    for wrong in (b"", lines[0][:-1], lines[0][:20] + b"X" + lines[0][21:], b"\0" * 80):
        with pytest.raises(DataError, match="damaged"):
            decode(wrong)


def test_events_that_no_analysis_could_take_are_refused_at_once(url, folder) -> None:
    """They would wait in the files for ever, and all that come after them."""
    with Writer(folder, url, DESIGN) as writer:
        with pytest.raises(DataError, match="from 0 to 1"):
            writer.write([*visit("v", "now"), measured("u", "resolved", 7, START)])
        writer.write(visit("u", "now"))
        assert writer.drain(PATIENCE)
    assert units(url) == {"u"}


# --------------------------------------------------------------------------- without a database


def test_a_store_that_does_not_answer_keeps_nobody_waiting(folder, dead, tmp_path, caplog) -> None:
    """A request would wait for the database; events are stored when it is there."""
    with Writer(folder, dead, DESIGN) as writer:
        writer.write(exposures(0, 5))
        until(lambda: "events wait in" in caplog.text)
        assert not writer.drain(0.5)
        assert writer.pending == 5
        assert caplog.text.count("events wait in") == 1
        (tmp_path / "later").mkdir()
        started(dead)
        assert writer.drain(PATIENCE)
        until(lambda: "the store answers again" in caplog.text)
    assert units(dead) == named(0, 5)


def test_what_waits_at_the_end_is_stored_by_the_next(url, folder, dead, caplog) -> None:
    """A router that is restarted while the database is down would lose its events."""
    writer = Writer(folder, dead, DESIGN)
    writer.write(exposures(0, 5))
    writer.close(timeout=0)
    assert "5 events wait in" in caplog.text
    with Writer(folder, url, DESIGN) as writer:
        until(lambda: units(url) == named(0, 5))
    assert list(folder.iterdir()) == []


def test_events_before_the_start_wait_for_it(folder, tmp_path) -> None:
    """A router that is faster than `plop ab init` would lose them."""
    url = f"sqlite:///{tmp_path}/store.db"
    with Writer(folder, url, DESIGN) as writer:
        writer.write(exposures(0, 3))
        assert not writer.drain(0.3)
        started(url)
        assert writer.drain(PATIENCE)
    assert units(url) == named(0, 3)


def test_the_files_are_bounded(folder, dead) -> None:
    """A database that is down for a week would fill the disk of the server."""
    with Writer(folder, dead, DESIGN, most_bytes=2_000) as writer:
        for number in range(10):
            writer.write(exposures(number, number + 1))
        with pytest.raises(OutputError, match=r"10 events .* wait in .* and 2\.0 KiB is allowed"):
            writer.write(exposures(10, 20))
        assert writer.pending == 10
        assert sum(one.stat().st_size for one in folder.rglob("*.jsonl")) <= 2_000
        writer.close(timeout=0)


def test_an_experiment_leaves_the_events_of_others_alone(url, folder, dead) -> None:
    """Events would be stored under an experiment that they do not belong to."""
    other = experiment(name="other", salt=SALT[::-1])
    theirs = Writer(folder, dead, other)
    theirs.write(exposures(0, 3))
    theirs.close(timeout=0)
    with Writer(folder, url, DESIGN) as writer:
        writer.write(exposures(5, 6))
        assert writer.drain(PATIENCE)
    assert units(url) == {"u5"}
    assert [one.name[:16] for one in folder.iterdir()] == [other.digest()[:16]]


def test_living_processes_keep_their_files(url, folder, monkeypatch) -> None:
    """A second router would remove the file that the first one is appending to."""
    monkeypatch.setattr(writing, "_LOOK_SECONDS", 0.05)
    with Writer(folder, url, DESIGN) as first, Writer(folder, url, DESIGN) as second:
        for number in range(0, 40, 2):
            first.write(exposures(number, number + 1))
            second.write(exposures(number + 1, number + 2))
            time.sleep(0.01)
        assert first.drain(PATIENCE)
        assert second.drain(PATIENCE)
    assert units(url) == named(0, 40)


def test_a_living_process_takes_over_from_one_that_was_killed(url, folder, monkeypatch) -> None:
    """Events of a worker that nobody starts again would never be seen."""
    monkeypatch.setattr(writing, "_LOOK_SECONDS", 0.05)
    with Writer(folder, url, DESIGN):
        left_behind(folder, encode(exposures(0, 700)))
        until(lambda: len(units(url)) == 700)
    assert list(folder.iterdir()) == []


# --------------------------------------------------------------------------- files with faults


def left_behind(folder: Path, content: bytes) -> None:
    """Make the folder of a process that is gone."""
    folder.mkdir(mode=0o700, exist_ok=True)
    queue = Queue.make(folder, DESIGN.digest())
    (queue.path / "00000001.jsonl").write_bytes(content)
    os.close(queue.lock)


def test_an_incomplete_last_line_is_dropped(url, folder) -> None:
    """It was never acknowledged, and the lines before it were."""
    left_behind(folder, encode(exposures(0, 5))[:-10])
    with Writer(folder, url, DESIGN) as writer:
        until(lambda: units(url) == named(0, 4))
        assert writer.drain(PATIENCE)
    assert list(folder.iterdir()) == []


def test_a_damaged_line_is_set_aside(url, folder, caplog) -> None:
    """One flipped bit would hold up all lines after it, or change a value unseen."""
    content = bytearray(encode(exposures(0, 5)))
    content[len(content) // 2] ^= 1
    left_behind(folder, bytes(content))
    with Writer(folder, url, DESIGN) as writer:
        until(lambda: bool(list(folder.glob("damaged-*"))) and not writer.pending)
    assert units(url) == {"u0", "u1", "u3", "u4"}
    assert "1 damaged lines" in caplog.text
    (kept,) = folder.iterdir()
    assert kept.read_bytes() == content.splitlines(keepends=True)[2]
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_files_that_someone_removes_are_told(folder, dead, tmp_path, caplog) -> None:
    """Their events are lost, which nobody would know."""
    with Writer(folder, dead, DESIGN) as writer:
        writer.write(exposures(0, 5))
        for file in folder.rglob("*.jsonl"):
            file.unlink()
        (tmp_path / "later").mkdir()
        started(dead)
        assert writer.drain(PATIENCE)
    assert "5 events are lost" in caplog.text


def test_what_is_written_of_a_line_is_taken_back(url, folder, monkeypatch) -> None:
    """Half of a line on a full disk would make one damaged line of it and the next."""
    write = os.write
    full = {"left": 1}

    def fill(handle: int, data: memoryview) -> int:
        if not full["left"]:
            return write(handle, data)
        full["left"] -= 1
        if full["left"] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, data[:30])

    with Writer(folder, url, DESIGN) as writer:
        writer.write(exposures(0, 1))
        full["left"] = 2
        monkeypatch.setattr(os, "write", fill)
        with pytest.raises(OutputError, match=r"2 events cannot be kept .* No space left"):
            writer.write(exposures(1, 3))
        writer.write(exposures(3, 4))
        assert writer.drain(PATIENCE)
    assert units(url) == {"u0", "u3"}


def test_a_line_that_cannot_be_taken_back_ends_its_file(url, folder, monkeypatch) -> None:
    """The lines after it would be read from the wrong place."""

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with Writer(folder, url, DESIGN) as writer:
        writer.write(exposures(0, 1))
        with monkeypatch.context() as broken:
            broken.setattr(os, "write", lambda handle, data: fail())
            broken.setattr(os, "ftruncate", fail)
            with pytest.raises(OutputError, match="Input/output error"):
                writer.write(exposures(1, 3))
        writer.write(exposures(3, 4))
        assert writer.drain(PATIENCE)
    assert units(url) == {"u0", "u3"}


def test_a_segment_is_never_one_that_is_there(tmp_path) -> None:
    """A link that somebody has put there would be written through."""
    (tmp_path / "target").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for name in ("target", "link"):
        with pytest.raises(FileExistsError):
            Segment(tmp_path / name)
    assert (tmp_path / "target").read_text() == "mine"


FULL = """
import resource, sys
from test_ab_writer import DESIGN, exposures
from plop_lora.ab.store import Writer
from plop_lora.errors import OutputError
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
with Writer(sys.argv[1], sys.argv[2], DESIGN) as writer:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, most))
    kept = refused = 0
    while not refused:
        try:
            writer.write(exposures(kept, kept + 1))
            kept += 1
        except OutputError as error:
            assert "File too large" in str(error), error
            refused += 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    writer.write(exposures(1_000, 1_001))
    writer.close(timeout=0)
print(kept)
"""


@pytest.mark.slow
def test_a_full_disk_is_told_and_the_next_event_goes_on(url, folder, dead) -> None:
    """The limit of the system cuts a write in the middle, as a full disk does."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(folder), dead],
        cwd=HERE, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    kept = int(done.stdout)
    assert kept > 2
    with Writer(folder, url, DESIGN) as writer:
        until(lambda: len(units(url)) > kept and not writer.pending)
    assert units(url) == named(0, kept) | {"u1000"}
    assert list(folder.iterdir()) == []


# --------------------------------------------------------------------------- who may do what


def test_the_files_are_the_users_alone(folder, dead) -> None:
    """Other users of the machine could read what happened to every unit, or add events."""
    with Writer(folder, dead, DESIGN) as writer:
        writer.write(exposures(0, 1))
        found = [folder, *folder.rglob("*")]
        assert len(found) == 4
        for one in found:
            assert stat.S_IMODE(one.stat().st_mode) == (0o700 if one.is_dir() else 0o600), one
        writer.close(timeout=0)
    folder.chmod(0o777)
    with pytest.raises(OutputError, match=r"Other users may write.*chmod 700"):
        Writer(folder, dead, DESIGN)


def test_a_folder_that_cannot_be_made_is_told(tmp_path, dead) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot make the folder of events"):
        Writer(tmp_path / "file", dead, DESIGN)
    with pytest.raises(UsageError, match="no store on 'mysql'"):
        Writer(tmp_path / "spill", "mysql://h/d", DESIGN)
    assert not (tmp_path / "spill").exists()


def test_a_closed_writer_refuses_events(url, folder) -> None:
    """They would be acknowledged and stay in a file that is closed."""
    writer = Writer(folder, url, DESIGN)
    writer.close()
    writer.close()
    with pytest.raises(UsageError, match="closed"):
        writer.write(exposures(0, 1))


FORK = """
import os, sys
from test_ab_writer import DESIGN, exposures
from waiting import PATIENCE
from plop_lora.ab.store import Writer
from plop_lora.errors import UsageError
with Writer(sys.argv[1], sys.argv[2], DESIGN) as writer:
    writer.write(exposures(0, 1))
    child = os.fork()
    if not child:
        try:
            writer.write(exposures(1, 2))
        except UsageError as error:
            assert "after the fork" in str(error)
            writer.close()
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    writer.write(exposures(2, 3))
    assert writer.drain(PATIENCE)
"""


@pytest.mark.slow
def test_a_child_makes_a_writer_of_its_own(url, folder) -> None:
    """It has no thread that ships, and two processes would append to one file."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK, str(folder), url],
        cwd=HERE, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert units(url) == {"u0", "u2"}


def test_the_folder_lies_beside_the_experiment() -> None:
    """Two routers of one experiment would not find each other's events."""
    assert spill_folder("runs/support.json") == Path("runs/support.json.events")


# --------------------------------------------------------------------------- killed


def kill(folder: Path, url: str, rounds: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", str(HERE / "kill_writers.py")]
    return subprocess.Popen(
        [*command, str(folder), url, str(rounds), "17"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=HERE,
    )  # fmt: skip


def check_killed(process: subprocess.Popen[str], url: str, rounds: int) -> None:
    """Check that every event that was acknowledged is in the store, and none twice."""
    said, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    killed, acknowledged = said.splitlines()
    expected = {f"u{number}" for number in acknowledged.split()}
    assert int(killed) >= rounds * 3 // 4, "they ended by themselves"
    assert len(expected) > 20 * rounds
    assert expected <= units(url)


@pytest.mark.slow
def test_no_event_is_lost_by_a_kill(url, folder) -> None:
    """24 kills at random moments: what a queue in memory holds would be gone each time."""
    check_killed(kill(folder, url, 24), url, 24)
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_no_event_is_lost_while_the_database_is_killed_too(postgresql, folder) -> None:
    """A batch whose commit was not answered may be stored or not, and is sent again."""
    url = started(postgresql.url())
    process = kill(folder, url, 12)
    for _ in range(4):
        time.sleep(0.8)
        postgresql.stop()
        time.sleep(0.4)
        postgresql.start()
    check_killed(process, url, 12)
    assert list(folder.iterdir()) == []
