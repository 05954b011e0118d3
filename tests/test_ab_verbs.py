"""The verbs of `plop ab` on a running experiment, as a user types them."""

from __future__ import annotations

import io
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from experiments import adapter_folder, arm, experiment, verdict

from plop_lora import ab
from plop_lora.ab.design import recipe_template
from plop_lora.ab.store import Store
from plop_lora.cli.ab.options import options_of, share_of
from plop_lora.errors import UsageError
from plop_lora.records import Experiment, ExperimentStatus, Ramp

Run = Callable[..., tuple[int, str, str]]
DAY = "2026-03-02T09:00:00+00:00"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an adapter that passed its gate, and a recipe; the current one."""
    monkeypatch.chdir(tmp_path)
    made = adapter_folder(Path("adapters/next"))
    verdict(ab.adapter_arm("next", 0.5, made).adapter_digest).save("verdict.json")
    Path("ab.yaml").write_text(recipe_template({"ab": {"coverage": 0.5}}))
    return tmp_path


@pytest.fixture
def started(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """A running experiment, named by the environment."""
    code, _, errors = run("ab", "init", "--recipe", "ab.yaml", "-o", "experiment.json")
    assert code == 0, errors
    monkeypatch.setenv("PLOP_EXPERIMENT", "experiment.json")
    return Experiment.load("experiment.json")


def units_of(design: Experiment, arm_name: str, count: int) -> list[str]:
    """Return units of an arm, in their order."""
    every = (f"account-{number}" for number in range(100_000))
    found = (unit for unit in every if design.assign(unit) == arm_name)
    return [unit for unit, _ in zip(found, range(count), strict=False)]


# --------------------------------------------------------------------------- init


def test_init_writes_an_experiment_and_starts_it(folder: Path, run: Run) -> None:
    code, output, errors = run("ab", "init", "--recipe", "ab.yaml", "-o", "experiment.json")
    assert code == 0
    design = Experiment.load("experiment.json")
    assert design.salt not in output + errors
    assert Path("experiment.json").stat().st_mode & 0o077 == 0
    assert "next  50.0%  adapters/next  pass" in output
    assert "plop ab assign UNIT -e experiment.json" in errors
    with Store.open("sqlite:///experiment.db") as store:
        assert store.run(design).state().ramp.coverage == 0.5
    code, _, errors = run("ab", "init", "--recipe", "ab.yaml", "-o", "experiment.json")
    assert code == 2
    assert "never overwritten" in errors
    assert Experiment.load("experiment.json") == design
    assert run("ab", "init", "--from", "experiment.json", "--format", "quiet") == (0, "", "")


def test_init_leaves_no_file_where_it_cannot_start(folder: Path, run: Run) -> None:
    """A file of an experiment that does not run would be taken for one that does."""
    words = ("ab", "init", "--recipe", "ab.yaml", "--database", "sqlite:///one.db")
    assert run(*words, "-o", "first.json")[0] == 0
    code, _, errors = run(*words, "-o", "second.json")
    assert code == 1
    assert "'support'" in errors
    assert not Path("second.json").exists()
    code, _, errors = run(*words[:-1], "sqlite:///absent/one.db", "-o", "third.json")
    assert code == 1
    assert "Make its folder" in errors
    assert not Path("third.json").exists()


def test_init_refuses_an_arm_without_a_gate_unless_a_reason_is_given(
    folder: Path, run: Run
) -> None:
    words = ("ab", "init", "--recipe", "ab.yaml", "--set", "ab.arms.next.gate=null")
    code, _, errors = run(*words, "-o", "experiment.json")
    assert code == 2
    assert '--force "reason"' in errors
    code, _, _ = run(*words, "-o", "experiment.json", "--force", "a pilot with our own staff")
    assert code == 0
    assert Experiment.load("experiment.json").arms[1].accepted == "a pilot with our own staff"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "Name the file that is to hold the experiment"),
        (("-o", "e.json"), 2, "ab is needed"),
        (("-o", "e.json", "--recipe", "absent.yaml"), 2, "no such file"),
        (("-o", "e.json", "--recipe", "ab.yaml", "--set", "ab.arms.next.weight=0.6"), 2, "1.1"),
        (
            ("-o", "e.json", "--recipe", "ab.yaml", "--set", "ab.arms.now.adapter=adapters/next"),
            2,
            "are the same adapter",
        ),
        (("-o", "e.json", "--recipe", "ab.yaml", "--database", "mysql://x/y"), 2, "'mysql'"),
        (("--from", "absent.json"), 1, "No such file: absent.json"),
        (("--template", "-o", "ab.yaml"), 2, "is there already"),
    ],
)
def test_what_cannot_be_started(
    folder: Path, run: Run, words: tuple[str, ...], code: int, message: str
) -> None:
    found, output, errors = run("ab", "init", *words)
    assert (found, output) == (code, "")
    assert message in errors
    assert not Path("e.json").exists()


def test_the_template_is_printed_and_written(folder: Path, run: Run) -> None:
    code, output, _ = run("ab", "init", "--template")
    assert (code, output) == (0, recipe_template({}))
    assert run("ab", "init", "--template", "-o", "new.yaml")[0] == 0
    assert Path("new.yaml").read_text() == output


# --------------------------------------------------------------------------- assign


def test_assign_prints_the_arm_and_names_the_coverage(started: Experiment, run: Run) -> None:
    unit = units_of(started, "next", 1)[0]
    assert run("ab", "assign", unit) == (0, "next\n", "Coverage 0.5, as of now.\n")
    outside = next(u for u in map(str, range(99)) if started.assign(u) is None)
    assert run("ab", "assign", outside)[1] == "\n"
    assert run("ab", "assign", unit, outside)[1] == f"{unit}\tnext\n{outside}\t\n"
    assert run("ab", "ramp", "100%", "--reason", "no harm")[0] == 0
    code, output, errors = run("ab", "assign", outside)
    assert (code, errors) == (0, "Coverage 1, as of now.\n")
    assert output.strip() == started.assign(outside, coverage=1.0)


def test_assign_works_without_a_database(
    started: Experiment, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway goes on answering while its database is away, and says what it goes by."""
    unit = units_of(started, "next", 1)[0]
    monkeypatch.setenv("PLOP_DATABASE", "postgresql://plop:hunter2@127.0.0.1:1/events")
    code, output, errors = run("ab", "assign", unit)
    assert (code, output) == (0, "next\n")
    assert "Coverage 0.5, that of the start. Cannot open the store" in errors
    assert "hunter2" not in errors
    monkeypatch.delenv("PLOP_DATABASE")
    Path("experiment.db").rename("elsewhere.db")
    code, output, errors = run("ab", "assign", unit)
    assert (code, output) == (0, "next\n")
    assert "there is no database of the experiment" in errors
    assert not Path("experiment.db").exists()


def test_units_come_from_standard_input(
    started: Experiment, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "\ufeffaccount-1\r\n\nkonto-ä\n\x1b[2Jevil\n"
    stdin = SimpleNamespace(buffer=io.BytesIO(lines.encode()), isatty=lambda: False)
    monkeypatch.setattr(sys, "stdin", stdin)
    code, output, _ = run("ab", "assign", "-")
    assert code == 0
    assert [line.split("\t")[0] for line in output.splitlines()] == [
        "account-1", "konto-ä", "\\x1b[2Jevil",
    ]  # fmt: skip
    stdin.buffer = io.BytesIO(b"one\n\xff\n")
    code, _, errors = run("ab", "assign", "-")
    assert code == 1
    assert "line 2, is not UTF-8" in errors


# --------------------------------------------------------------------------- log


def test_a_value_is_stored_once_and_told_if_its_unit_is_unknown(
    started: Experiment, run: Run
) -> None:
    unit = units_of(started, "now", 1)[0]
    assert run("ab", "assign", unit, "--expose")[0] == 0
    assert run("ab", "log", unit, "resolved", "1", "--id", "a") == (0, "", "")
    assert "known already" in run("ab", "log", unit, "resolved", "1", "--id", "a")[2]
    assert "has not met an arm" in run("ab", "log", "stranger", "resolved", "1")[2]
    assert run("ab", "log", unit, "resolved", "0.5", "--before", "--at", DAY)[0] == 0
    with Store.open("sqlite:///experiment.db") as store:
        counts = store.run(started).counts()
    assert (counts.events, counts.before) == ({"resolved": 2}, {"resolved": 1})


@pytest.mark.parametrize("value", ["-0.5", "-.5e0", "-5e-1"])
def test_negative_values_are_no_options(started: Experiment, run: Run, value: str) -> None:
    """`-5e-1` was read as an option -5 and as -e, the file of the experiment."""
    assert run("ab", "log", "-5", "latency_last", value, "--at", DAY, "--id", "-1")[0] == 0
    with Store.open("sqlite:///experiment.db") as store:
        run_now = store.run(started)
        assert run_now.counts().events == {"latency_last": 1}
    rows = (
        sqlite3.connect("experiment.db").execute("select unit, value from plop_events").fetchall()
    )
    assert rows == [(started.pseudonym("-5"), -0.5)]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("u", "resolvd", "1"), 2, "Did you mean 'resolved'"),
        (("u", "resolved", "two"), 2, "VALUE is 'two'"),
        (("u", "resolved", "nan"), 2, "must be a finite number"),
        (("u", "resolved", "-inf"), 2, "VALUE is '-inf'"),
        (("u", "resolved", "2"), 1, "must be from 0 to 1"),
        (("u", "resolved", "1", "--at", "2026-03-02T09:00:00"), 2, "has no time zone"),
        (("u", "resolved", "1", "--at", "yesterday"), 2, "--at is 'yesterday'"),
        (("u", "resolved", "1", "--at", DAY, "--timezone", "Mars"), 2, "no time zone 'Mars'"),
        (("", "resolved", "1"), 2, "not empty"),
        (("u", "resolved"), 2, "Missing argument 'VALUE'"),
        (("u", "resolved", "1", "--bfore"), 2, "--bfore"),
    ],
)
def test_values_that_are_refused(
    started: Experiment, run: Run, words: tuple[str, ...], code: int, message: str
) -> None:
    found, output, errors = run("ab", "log", *words)
    assert (found, output) == (code, "")
    assert message in errors
    with Store.open("sqlite:///experiment.db") as store:
        assert store.run(started).counts().events == {}


def test_a_value_waits_in_a_file_while_the_database_is_away(
    started: Experiment, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was acknowledged must not be lost because a database was restarted."""
    unit = units_of(started, "now", 1)[0]
    assert run("ab", "assign", unit, "--expose")[0] == 0
    Path("experiment.db").rename("away.db")
    Path("experiment.db").mkdir()
    code, _, errors = run("ab", "log", unit, "resolved", "1")
    assert code == 0
    assert "The events are kept beside the experiment" in errors
    Path("experiment.db").rmdir()
    Path("away.db").rename("experiment.db")
    code, output, errors = run("ab", "status")
    assert code == 0, errors
    assert "Values: resolved 1." in output
    assert "wait" not in output


# --------------------------------------------------------------------------- status


def test_status_shows_arms_values_and_the_next_command(started: Experiment, run: Run) -> None:
    code, output, _ = run("ab", "status", "--format", "json")
    assert code == 0
    found = ExperimentStatus.from_dict(json.loads(output))
    assert (found.units, found.last_event, found.days_left) == (0, None, None)
    assert found.next == "plop ab assign UNIT"
    run("ab", "log", "stranger", "resolved", "1")
    assert "Next: plop ab assign UNIT" in run("ab", "status")[1]
    run("ab", "assign", *units_of(started, "now", 3), "--expose")
    run("ab", "switch", "next", "off", "--reason", "wrong language")
    code, output, _ = run("ab", "status", "-o", "status.json")
    assert code == 0
    assert "off: wrong language" in output
    assert "3 of 14,700 planned units." in output
    assert ExperimentStatus.load("status.json").arms[0].units == 3


def test_the_rate_counts_the_coverage(started: Experiment) -> None:
    """Units that came under 1 % say nothing of the days to go under 50 % unless weighed."""
    from plop_lora.ab.events import exposure
    from plop_lora.ab.status import status_of

    with Store.open("sqlite:///experiment.db") as store:
        stored = store.run(started)
        at = stored.state().ramp.started
        met = [exposure(started.pseudonym(str(n)), "now", at) for n in range(147)]
        stored.write(met)
        later = at + timedelta(days=2)
        found = status_of(stored, later, waiting=None, command="")
        assert found.days_left == pytest.approx((14_700 - 147) / 73.5)
        stored.raise_coverage(1.0, later)
        found = status_of(stored, later, waiting=None, command="")
    assert found.days_left == pytest.approx((14_700 - 147) / 147)


# --------------------------------------------------------------------------- ramp, switch


def test_the_coverage_is_only_raised(started: Experiment, run: Run) -> None:
    code, output, _ = run("ab", "ramp", "60%", "--reason", "no harm", "--format", "json")
    assert code == 0
    assert Ramp.from_dict(json.loads(output)).coverage == 0.6
    for wrong, message in (
        ("5", "Write 5% or 0.05"),
        ("1", "Write 1% or 0.01"),
        ("10%", "it is only raised"),
        ("0%", "plop ab stop"),
        ("500%", "from 0% to 100%"),
        ("lots", "give a percentage"),
        ("-5%", "ab ramp"),
    ):
        code, output, errors = run("ab", "ramp", wrong, "--reason", "no")
        assert (code, output) == (2, ""), wrong
        assert message in errors
    assert "--reason" in run("ab", "ramp", "70%")[2]
    assert "--reason is empty" in run("ab", "ramp", "70%", "--reason", " ")[2]


def test_a_clock_that_goes_back_is_told(
    started: Experiment, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that stood before the one that it follows would give units of no arm an arm."""
    verb = sys.modules["plop_lora.cli.ab.ramp"]
    monkeypatch.setattr(verb, "now", lambda: datetime(2001, 1, 1, tzinfo=UTC))
    code, output, errors = run("ab", "ramp", "90%", "--reason", "more")
    assert (code, output) == (2, "")
    assert "before the last change" in errors


@pytest.mark.parametrize(
    ("text", "share"), [("5%", 0.05), ("0.05", 0.05), ("100%", 1.0), ("1.0", 1.0), (" 2 %", 0.02)]
)
def test_a_share_is_read_as_it_is_written(text: str, share: float) -> None:
    assert share_of(text, "COVERAGE") == pytest.approx(share)


@pytest.mark.parametrize("text", ["5", "1", "100", "1.5", "-0.1", "nan", "", "%"])
def test_a_share_that_could_be_two_things_is_refused(text: str) -> None:
    """`ramp 1` for one percent would have given every user the candidate, for good."""
    with pytest.raises(UsageError, match="COVERAGE is"):
        share_of(text, "COVERAGE")


def test_an_arm_that_is_off_gives_its_units_the_control(started: Experiment, run: Run) -> None:
    unit = units_of(started, "next", 1)[0]
    code, _, errors = run("ab", "switch", "next", "off", "--reason", "wrong language")
    assert code == 0
    assert "its units get now" in errors
    code, output, errors = run("ab", "assign", unit)
    assert (code, output) == (0, "now\n")
    assert "next is off (wrong language)" in errors
    assert run("ab", "switch", "next", "on", "--reason", "mended")[0] == 0
    assert run("ab", "assign", unit)[1] == "next\n"
    assert "Did you mean 'next'" in run("ab", "switch", "nxt", "off", "--reason", "x")[2]
    assert "is the control and stays on" in run("ab", "switch", "now", "off", "--reason", "x")[2]


# --------------------------------------------------------------------------- analyze, stop


def write_events(path: Path, design: Experiment, shares: dict[str, float], count: int) -> None:
    """Write a file of exposures and values, with an exact share that is resolved in each arm."""
    lines = ["unit,at,arm,resolved,latency_last"]
    for name, share in shares.items():
        for number, unit in enumerate(units_of(design, name, count)):
            resolved = int(number < share * count)
            lines.append(
                f"{unit},2036-03-02T{number % 24:02}:00:00Z,{name},{resolved},1.{number % 9}"
            )
    path.write_text("\n".join(lines) + "\n")


def test_an_arm_that_is_better_ships(started: Experiment, run: Run) -> None:
    """From the file of events to the decision that is kept, with the exit codes of each step."""
    write_events(Path("events.csv"), started, {"now": 0.2, "next": 0.9}, 400)
    code, output, errors = run("ab", "analyze", "--from", "events.csv")
    assert code == 0, errors
    assert "next: ship (better)" in output
    assert run("ab", "import", "events.csv")[0] == 0
    code, output, errors = run("ab", "analyze", "--format", "md", "-o", "analysis.md")
    assert code == 0
    assert output == Path("analysis.md").read_text()
    assert output.startswith("# plop ab analyze: support, 800 units")
    assert "plop ab stop --decision ship --arm next" in errors
    assert run("ab", "analyze", "-o", "analysis.md", "--format", "quiet") == (0, "", "")
    keep = ("ab", "stop", "--decision", "keep", "--reason", "we are used to it")
    code, _, errors = run(*keep)
    assert code == 2
    assert "says that 'next' may ship" in errors
    code, _, errors = run("ab", "stop", "--decision", "ship", "--reason", "resolves more")
    assert code == 0, errors
    code, output, _ = run("ab", "status")
    assert "Ended: ship next at" in output
    assert "has ended" in run("ab", "ramp", "90%", "--reason", "more")[2]
    code, _, errors = run("ab", "stop", "--decision", "ship", "--reason", "again")
    assert code == 2
    assert "ended" in errors
    unit = units_of(started, "next", 1)[0]
    assert run("ab", "assign", unit)[1] == "\n"


def test_every_database_gives_the_same_way_to_a_decision(
    folder: Path, run: Run, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several machines share PostgreSQL."""
    monkeypatch.setenv("PLOP_EXPERIMENT", "experiment.json")
    words = ("ab", "init", "--recipe", "ab.yaml", "-o", "experiment.json")
    code, _, errors = run(*words, "--database", store_url)
    assert code == 0, errors
    assert "--database" in errors
    design = Experiment.load("experiment.json")
    monkeypatch.setenv("PLOP_DATABASE", store_url)
    unit = units_of(design, "now", 1)[0]
    assert run("ab", "assign", unit, "--expose")[0] == 0
    assert run("ab", "log", unit, "resolved", "1", "--id", "a") == (0, "", "")
    write_events(Path("events.csv"), design, {"now": 0.2, "next": 0.9}, 200)
    assert run("ab", "import", "events.csv")[0] == 0
    code, _, errors = run("ab", "analyze")
    assert code == 0, errors
    assert "Ship next: plop ab stop --decision ship --arm next --reason REASON" in errors
    assert run("ab", "stop", "--decision", "ship", "--reason", "it resolves more")[0] == 0
    assert "Ended: ship next" in run("ab", "status")[1]


def test_an_arm_that_harms_is_stopped(started: Experiment, run: Run) -> None:
    write_events(Path("events.csv"), started, {"now": 0.9, "next": 0.2}, 400)
    assert run("ab", "import", "events.csv", "--format", "quiet")[0] == 0
    code, output, errors = run("ab", "analyze")
    assert code == 3
    assert "next: stop (harm)" in output
    assert "plop ab stop --decision keep" in errors
    code, _, errors = run("ab", "stop", "--decision", "ship", "--reason", "hope")
    assert code == 2
    assert "says 'stop' of 'next'" in errors
    assert '--force "reason"' in errors
    code, _, _ = run("ab", "stop", "--decision", "ship", "--reason", "hope", "--force", "the boss")
    assert code == 0
    assert "the boss" in run("ab", "status")[1]


def test_nothing_is_decided_without_data(started: Experiment, run: Run) -> None:
    code, _, errors = run("ab", "analyze")
    assert code == 1
    assert "There are no observations" in errors
    code, _, errors = run("ab", "stop", "--decision", "ship", "--reason", "hope")
    assert code == 2
    assert "There are no observations by which 'next' could be judged" in errors
    assert (
        "Did you mean 'next'"
        in run("ab", "stop", "--decision", "ship", "--arm", "nxt", "--reason", "hope")[2]
    )
    run("ab", "assign", *units_of(started, "now", 3), "--expose")
    run("ab", "log", "stranger", "resolved", "1")
    code, output, errors = run("ab", "analyze")
    assert code == 4
    assert "Note: values that were left out: 1 of units that met no arm." in " ".join(
        output.split()
    )
    assert "Let it go on" in errors
    assert run("ab", "stop", "--decision", "keep", "--reason", "no budget")[0] == 0


def test_one_of_several_candidates_has_to_be_named(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = (arm("now", 0.4), arm("next", 0.3), arm("other", 0.3))
    experiment(arms=arms).save("three.json")
    assert run("ab", "init", "--from", "three.json")[0] == 0
    words = ("ab", "stop", "-e", "three.json", "--decision", "ship", "--reason", "x")
    assert "Say which arm ships with --arm: next, other" in run(*words)[2]


# --------------------------------------------------------------------------- what goes wrong


def test_commands_that_are_proposed_can_be_typed_and_show_no_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the environment gives need not be typed; a password would stay in a log of a job."""
    monkeypatch.delenv("PLOP_EXPERIMENT", raising=False)
    monkeypatch.delenv("PLOP_DATABASE", raising=False)
    url = "postgresql://plop:hunter2@db/events"
    assert options_of(Path("an e.json"), None) == "-e 'an e.json'"
    assert (
        options_of(Path("e.json"), url) == "-e e.json --database 'postgresql://plop:***@db/events'"
    )
    monkeypatch.setenv("PLOP_EXPERIMENT", "e.json")
    monkeypatch.setenv("PLOP_DATABASE", url)
    assert options_of(Path("e.json"), url) == ""


VERBS = (
    ("assign", "u"),
    ("log", "u", "resolved", "1"),
    ("status",),
    ("analyze",),
    ("ramp", "90%", "--reason", "x"),
    ("switch", "next", "off", "--reason", "x"),
    ("stop", "--decision", "keep", "--reason", "x"),
)


@pytest.mark.parametrize("words", VERBS, ids=lambda words: words[0])
def test_an_experiment_that_was_changed_is_refused(
    started: Experiment, run: Run, words: tuple[str, ...]
) -> None:
    """With another split in the file, the units of one arm would be those of another."""
    document = started.to_dict() | {"error": 0.1}
    Path("experiment.json").write_text(json.dumps(document))
    code, output, errors = run("ab", *words)
    assert (code, output) == (1, "")
    assert "was changed after its start" in errors


@pytest.mark.parametrize("words", VERBS, ids=lambda words: words[0])
def test_an_experiment_that_was_not_started_is_told(
    folder: Path, run: Run, words: tuple[str, ...]
) -> None:
    experiment().save("other.json")
    with Store.open("sqlite:///other.db"):
        pass
    code, output, errors = run("ab", *words, "-e", "other.json")
    assert (code, output) == (2, "")
    assert "plop ab init" in errors


@pytest.mark.parametrize("words", VERBS[2:], ids=lambda words: words[0])
def test_a_database_that_is_damaged_is_left_as_it_is(
    started: Experiment, run: Run, words: tuple[str, ...]
) -> None:
    Path("bad.db").write_bytes(b"no database at all, but long enough" * 100)
    before = Path("bad.db").read_bytes()
    code, output, errors = run("ab", *words, "--database", "sqlite:///bad.db")
    assert (code, output) == (1, "")
    assert "Cannot" in errors
    assert Path("bad.db").read_bytes() == before


def test_hostile_texts_in_the_database_move_no_cursor(started: Experiment, run: Run) -> None:
    run("ab", "switch", "next", "off", "--reason", "\x1b[2Jgone\u202e")
    run("ab", "assign", *units_of(started, "now", 2), "--expose")
    for words in (("status",), ("assign", "u"), ("analyze",)):
        _, output, errors = run("ab", *words)
        assert not re.search("[\x1b\u202e]", output + errors)
    assert "\\x1b[2Jgone\\u202e" in run("ab", "status")[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [("plan", "--baseline", "0.1", "--effect", "0.02"), *VERBS],
    ids=lambda words: words[0],
)
def test_no_verb_imports_torch(started: Experiment, words: tuple[str, ...]) -> None:
    """A gateway or a cron job has no GPU stack."""
    code = (
        f"import sys; sys.argv[1:] = {['ab', *words]!r}\n"
        "from plop_lora.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "found = {'torch', 'transformers', 'peft', 'datasets'} & set(sys.modules)\n"
        "assert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
