"""The tables of the store over releases: old ones go on, newer ones are refused. No torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from experiments import START, experiment
from stores import MINUTE, visit
from waiting import PATIENCE

from plop_lora.ab.store import Store
from plop_lora.ab.store.address import read_address
from plop_lora.ab.store.database import Database, _engine
from plop_lora.ab.store.migrate import VERSION_TABLE, current_revision, migrate, revisions
from plop_lora.ab.store.schema import METADATA
from plop_lora.errors import StoreError

DIGEST = experiment().digest()
TIME = "'2026-03-02 09:00:00.000000{zone}'"
ROWS = {
    "0001": [
        "INSERT INTO plop_experiments (number, digest, name, document, received) "
        f"VALUES (7, '{DIGEST}', 'support', '{{}}', {TIME})",
        "INSERT INTO plop_changes (experiment, kind, arm, coverage, reason, at, received) "
        f"VALUES (7, 'coverage', '', 1.0, 'start', {TIME}, {TIME}), "
        f"(7, 'off', 'next', NULL, 'too slow', {TIME}, {TIME})",
        "INSERT INTO plop_events (experiment, id, kind, unit, arm, name, value, at, received) "
        f"VALUES (7, 'a', 'exposure', 'u', 'now', '', 0, {TIME}, {TIME}), "
        f"(7, 'b', 'value', 'u', '', 'latency', 2.5, {TIME}, {TIME}), "
        f"(7, 'c', 'before', 'u', '', 'latency', 3.5, {TIME}, {TIME})",
    ],
}
"""Revision → statements that fill its tables as that release did; they are never edited."""


def test_every_revision_has_rows() -> None:
    """A revision without rows here would be one from which nobody has tried to go on."""
    assert list(ROWS) == revisions()


@pytest.mark.parametrize("revision", ROWS)
def test_a_database_of_an_old_release_goes_on(store_url, revision: str) -> None:
    """An experiment that runs over an upgrade would lose its units, or its coverage."""
    database = Database(_engine(read_address(store_url)), read_address(store_url))
    zone = "" if database.is_sqlite else "+00"
    with database.writing() as connection:
        migrate(connection, revision)
        assert current_revision(connection) == revision
        for statement in ROWS[revision]:
            connection.exec_driver_sql(statement.replace("{zone}", zone))
    database.close()
    with Store.open(store_url) as store:
        run = store.run(experiment())
        state = run.state()
        assert (state.ramp.started, state.ramp.coverage) == (START, 1.0)
        assert state.off == {"next": "too slow"}
        (one,) = run.observations()
        assert (one.unit, one.arm, one.exposed_at) == ("u", "now", START)
        assert (one.values, one.before) == ({"latency": 2.5}, {"latency": 3.5})
        run.switch("next", on=True, reason="mended", at=START + MINUTE)
        assert run.write(visit("v", "next")) == 1
        with store._database.reading() as connection:
            assert current_revision(connection) == revisions()[-1]


def test_the_queries_see_the_tables_as_they_are(store_url) -> None:
    """A column that only one of the two has is an error at the first query that needs it."""
    with Store.open(store_url) as store, store._database.reading() as connection:
        options = {"version_table": VERSION_TABLE, "compare_type": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, METADATA) == []


def test_a_database_of_a_newer_release_is_refused(store_url) -> None:
    """Rows would be written without columns that the newer release relies on."""
    with Store.open(store_url) as store, store._database.writing() as connection:
        connection.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(StoreError, match=r"'9999'; .* knows 0001.*pip install --upgrade"):
        Store.open(store_url)


def test_tables_of_another_program_stay(store_url) -> None:
    """A database may be shared, and `events` is a name that many programs have."""
    database = Database(_engine(read_address(store_url)), read_address(store_url))
    with database.writing() as connection:
        connection.exec_driver_sql("CREATE TABLE events (id TEXT)")
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num TEXT)")
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES ('theirs')")
    database.close()
    with Store.open(store_url) as store, store._database.reading() as connection:
        (theirs,) = connection.exec_driver_sql("SELECT version_num FROM alembic_version").one()
    assert theirs == "theirs"


def test_an_upgrade_that_fails_changes_nothing(store_url, monkeypatch) -> None:
    """Half of the tables would be there, and every later start would fail on them."""
    from alembic.operations import Operations

    made = Operations.create_table

    def fail_at_changes(self, name, *columns, **options):
        if name == "plop_changes":
            raise ValueError("the power is gone")
        return made(self, name, *columns, **options)

    monkeypatch.setattr(Operations, "create_table", fail_at_changes)
    with pytest.raises((StoreError, ValueError), match="the power is gone"):
        Store.open(store_url)
    monkeypatch.undo()
    with Store.open(store_url) as store:
        store.run(experiment()).start(START)


@pytest.mark.slow
def test_processes_that_open_a_new_store_at_once(store_url) -> None:
    """Of four routers that start together three would fail, as the tables are there already."""
    code = (
        "import sys\n"
        "from experiments import START, experiment\n"
        "from plop_lora.ab.store import Store\n"
        "import plop_lora.ab.store.stored\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "with Store.open(sys.argv[1]) as store:\n"
        "    run = store.run(experiment())\n"
        "    run.start(START)\n"
        "    assert run.state().ramp.coverage == 1\n"
    )
    here = Path(__file__).parent
    found = [
        subprocess.Popen(
            [sys.executable, "-c", code, store_url], cwd=here, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )
        for _ in range(6)
    ]  # fmt: skip
    for one in found:
        assert one.stdout.readline() == "ready\n"
    for one in found:
        one.stdin.write("\n")
        one.stdin.flush()
    codes = []
    for one in found:
        one.communicate(timeout=PATIENCE)
        codes.append(one.returncode)
    assert codes == [0] * 6
