"""Bring the tables of a database to the newest revision, whoever else opens it at the same time.

Users need no `alembic.ini`: the revisions are found beside this file. Imports Alembic.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from plop_lora.errors import StoreError

VERSION_TABLE = "plop_revision"
"""Name of the table that holds the revision; that of another program's Alembic is left alone."""
_FOLDER = Path(__file__).parent / "migrations"
_LOCK = 0x706C6F705F6162
"""Number of the lock that PostgreSQL gives to one migration at a time."""


def migrate(connection: Connection, revision: str = "head", *, shown: str = "the store") -> None:
    """Bring the tables to a revision, in the transaction of the connection.

    A transaction of SQLite that may write is the only one; PostgreSQL is asked for a lock, which
    ends with the transaction.

    Args:
        connection: Connection within a transaction that may write.
        revision: Revision to reach, the newest one by default.
        shown: Address of the store for errors.

    Raises:
        StoreError: The tables are those of a newer release.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    scripts = ScriptDirectory(str(_FOLDER))
    current = current_revision(connection)
    if current is not None and current not in revisions():
        raise StoreError(
            f"The tables of {shown} have the revision {current!r}; this release of plop-lora "
            f"knows {', '.join(revisions())}. A newer release has opened it: install that one, "
            "pip install --upgrade 'plop-lora[ab]', or give another database."
        )

    def upgrade(now: str, _context: MigrationContext) -> Iterable[Any]:
        return scripts._upgrade_revs(revision, now)

    with EnvironmentContext(Config(), scripts, fn=upgrade) as environment:
        environment.configure(
            connection=connection, version_table=VERSION_TABLE, transactional_ddl=True
        )
        environment.run_migrations()


def current_revision(connection: Connection) -> str | None:
    """Return the revision of the tables, or None for a database without them."""
    options = {"version_table": VERSION_TABLE}
    return MigrationContext.configure(connection, opts=options).get_current_revision()


def revisions() -> list[str]:
    """Return all revisions that this release knows, the oldest first."""
    scripts = ScriptDirectory(str(_FOLDER)).walk_revisions()
    return [script.revision for script in scripts][::-1]
