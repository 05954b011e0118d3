"""A database with its transactions, whose errors are those of plop-lora.

Imports SQLAlchemy.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from plop_lora.ab.store.address import read_address, shown_address, sqlite_file, without_secrets
from plop_lora.ab.store.migrate import current_revision, migrate, revisions
from plop_lora.errors import PlopError, StoreError

BUSY_SECONDS = 10
"""How long SQLite waits for another process that writes."""
_POSTGRESQL = {
    "application_name": "plop-lora",
    "connect_timeout": 5,
    "keepalives_idle": 30,
    "tcp_user_timeout": 15_000,
}
"""What a connection has unless the address says otherwise: a machine that is gone is noticed."""
_SMALLEST_FILE = 512
"""Bytes of the smallest database of SQLite."""
_WRITES = "plop_writes"
"""Option of a connection whose transactions write."""


@dataclass(frozen=True, slots=True, eq=False)
class Database:
    """An open database.

    Attributes:
        engine: Engine of SQLAlchemy.
        url: Address.
    """

    engine: Engine
    url: URL

    @classmethod
    def open(cls, address: str) -> Self:
        """Open a database, and make its tables or bring them to the newest revision.

        Raises:
            UsageError: The address is none.
            StoreError: The database cannot be reached, is none, or is that of a newer release.
            MissingExtraError: The driver is not installed.
        """
        url = read_address(address)
        file = sqlite_file(url)
        database = cls(_engine(url), url)
        try:
            with database._translated("open"), _opening(file):
                if file is not None:
                    _prepare(file, database.engine)
                with database._begin(writes=False) as connection:
                    # Who only reads need not wait for those who write.
                    is_current = current_revision(connection) == revisions()[-1]
                if not is_current:
                    with database._begin(writes=True) as connection:
                        migrate(connection, shown=shown_address(url))
        except BaseException:
            database.close()
            raise
        return database

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a file of SQLite."""
        return self.engine.dialect.name == "sqlite"

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """Yield a connection that reads.

        Raises:
            StoreError: The database cannot be read now.
        """
        with self._translated("read"), self._begin(writes=False) as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """Yield a connection whose changes are committed together at the end of the block.

        Raises:
            StoreError: The database cannot be written now; nothing of the block is kept.
        """
        with self._translated("write"), self._begin(writes=True) as connection:
            yield connection

    @contextlib.contextmanager
    def _begin(self, *, writes: bool) -> Iterator[Connection]:
        with self.engine.connect() as connection:
            connection = connection.execution_options(**{_WRITES: writes})
            with connection.begin():
                yield connection

    @contextlib.contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except PlopError:
            raise
        except (SQLAlchemyError, sqlite3.Error, OSError, ValueError, ArithmeticError) as error:
            raise StoreError(
                f"Cannot {what} the store {shown_address(self.url)}: {self._reason(error)}"
            ) from error

    def _reason(self, error: Exception) -> str:
        """Return the words of the database, and what the user can do."""
        cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
        text = (str(cause).strip() or type(cause).__name__).splitlines()[0].rstrip(".")
        advice = next((todo for sign, todo in _ADVICE.items() if sign in text.lower()), _ELSE)
        return f"{without_secrets(text, self.url)}. {advice}"


_ELSE = "Check the address and that the database runs, then try again."
_ADVICE = {
    "connection": _ELSE,
    "locked": f"Another process has been writing for more than {BUSY_SECONDS} s; try again.",
    "not a database": "Give the address of another file; this one was left as it is.",
    "malformed": "The file is damaged: put a copy of it in its place.",
    "full": "Make room on the disk, then try again; nothing was lost.",
    "readonly": "Give this user the right to write the file and its folder.",
    "permission denied": "Give this user the right to write there, or choose another address.",
    "unable to open": "Make its folder, and give this user the right to write there.",
    "no such file or directory": "Make its folder, or give another address.",
    "isoformat": "A time in it is damaged: put a copy of the database in its place.",
    "does not exist": "Make it first, such as with: createdb DATABASE.",
}
"""Part of what a database says → what the user can do."""


@contextlib.contextmanager
def _opening(file: Path | None) -> Iterator[None]:
    """Let one process at a time prepare a file.

    SQLite waits for nobody when the first of several processes turns the write-ahead log on.
    """
    if file is None:
        yield
        return
    _check_file(file)
    try:
        with FileLock(f"{file}.lock", timeout=BUSY_SECONDS, mode=0o600):
            yield
    except Timeout as error:
        raise OSError(f"{file}.lock is locked by another process") from error


def _check_file(file: Path) -> None:
    """Refuse a file that is no database, before a lock is made beside it.

    SQLite takes a file that is too short for a database for an empty one, and would replace it. A
    longer one it checks itself; to open it here would end the locks that this process has on it.
    """
    if not file.parent.is_dir():  # the lock would make it
        raise OSError(f"No such file or directory: {file.parent}")
    if file.is_dir() or (file.exists() and 0 < file.stat().st_size < _SMALLEST_FILE):
        raise OSError("file is not a database")


def _prepare(file: Path, engine: Engine) -> None:
    """Make a file that only this user can read, and turn its write-ahead log on."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    connection = engine.raw_connection()
    try:
        connection.cursor().execute("PRAGMA journal_mode=WAL").fetchone()
    finally:
        connection.close()


def _engine(url: URL) -> Engine:
    if sqlite_file(url) is None:
        arguments = {key: value for key, value in _POSTGRESQL.items() if key not in url.query}
        # A server that was started again has dropped the connections of the pool.
        return create_engine(url, hide_parameters=True, pool_pre_ping=True, connect_args=arguments)
    engine = create_engine(url, hide_parameters=True)
    event.listen(engine, "connect", _set_up)
    event.listen(engine, "begin", _begin)
    return engine


def _set_up(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver would begin and commit by rules of its own
    for setting in (
        f"busy_timeout={BUSY_SECONDS * 1000}",
        "synchronous=FULL",
        "foreign_keys=ON",
        "trusted_schema=OFF",
    ):
        connection.execute(f"PRAGMA {setting}")


def _begin(connection: Connection) -> None:
    """Begin a transaction; one that turned from reading to writing later could not wait."""
    writes = connection.get_execution_options().get(_WRITES, True)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
