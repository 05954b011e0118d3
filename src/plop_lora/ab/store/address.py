"""The address of a store: which databases there are, and what may be shown of it.

Imports SQLAlchemy.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from plop_lora.errors import UsageError, require
from plop_lora.escapes import escaped

_FORMS = (
    "An address is sqlite:///experiments.db (a relative path; four slashes begin an absolute one) "
    "or postgresql://USER:PASSWORD@HOST/DATABASE."
)
_SECRETS = ("password", "sslpassword", "passfile", "sslkey")
_SQLITE, _POSTGRESQL = "sqlite", "postgresql"


def read_address(text: str) -> URL:
    """Return the address of a store, with the driver that it needs.

    Raises:
        UsageError: It is no address, of a database that is not supported, or of one in memory.
        MissingExtraError: The driver of PostgreSQL is not installed.
    """
    try:
        url = make_url(text)
        _ = url.get_backend_name(), url.port
    except (ArgumentError, ValueError, AttributeError):
        # The text of the error repeats the address, and so its password.
        raise UsageError(f"The address of the store cannot be read. {_FORMS}") from None
    if url.drivername in (_POSTGRESQL, "postgres", "postgresql+psycopg"):
        require("psycopg")
        return url.set(drivername="postgresql+psycopg")
    if url.drivername not in (_SQLITE, "sqlite+pysqlite"):
        name = escaped(url.drivername)
        raise UsageError(f"There is no store on {name!r}, only on SQLite and PostgreSQL. {_FORMS}")
    if url.database in (None, "", ":memory:") or url.query:
        raise UsageError(f"The store is a file that other processes can open. {_FORMS}")
    return url.set(drivername="sqlite+pysqlite")


def sqlite_file(url: URL) -> Path | None:
    """Return the file of a database of SQLite, or None for another one."""
    return Path(url.database or "") if url.get_backend_name() == _SQLITE else None


def shown_address(url: URL) -> str:
    """Return an address without what is secret in it."""
    hidden = {key: "***" for key in url.query if key in _SECRETS}
    plain = url.set(drivername=url.get_backend_name()).update_query_dict(hidden)
    return escaped(plain.render_as_string(hide_password=True))


def without_secrets(text: str, url: URL) -> str:
    """Return a text of the database with the secrets of its address taken out."""
    secrets = [url.password, *(url.query.get(key) for key in _SECRETS)]
    for secret in secrets:
        if isinstance(secret, str) and secret:
            text = text.replace(secret, "***")
    return escaped(text)
