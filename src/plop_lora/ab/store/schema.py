"""The tables of the store, as queries see them. Its revisions are in `migrations`.

All rows are only ever appended. Imports SQLAlchemy.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    TypeDecorator,
)


class UtcTime(TypeDecorator[datetime]):
    """A time with its zone, kept in UTC; SQLite has no zones and would drop it."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the time as the database keeps it."""
        if value is None:
            return None
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the time of the database with its zone."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


_Number = BigInteger().with_variant(Integer(), "sqlite")
"""SQLite numbers the rows of INTEGER keys alone."""

METADATA = MetaData()
EXPERIMENTS = Table(
    "plop_experiments",
    METADATA,
    Column("number", _Number, primary_key=True),
    Column("digest", Text, nullable=False, unique=True),
    Column("name", Text, nullable=False, unique=True),
    Column("document", Text, nullable=False),
    Column("received", UtcTime, nullable=False),
)
"""The experiments that were started. `document` is the record without its salt: whoever reads the
database could tell the ids of units from their pseudonyms with it."""
EVENTS = Table(
    "plop_events",
    METADATA,
    Column("experiment", _Number, ForeignKey("plop_experiments.number"), nullable=False),
    Column("id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("unit", Text, nullable=False),
    Column("arm", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("value", Double, nullable=False),
    Column("at", UtcTime, nullable=False),
    Column("received", UtcTime, nullable=False),
    PrimaryKeyConstraint("id", "experiment", name="plop_events_key"),
)
"""What happened to units, see `Event`. `received` is when the database was given the event.

The id comes first in the key: SQLite would read all events of an experiment through an index that
begins with it, row by row in the order of random ids, which takes ten times as long as a scan."""
CHANGES = Table(
    "plop_changes",
    METADATA,
    Column("number", _Number, primary_key=True),
    Column("experiment", _Number, ForeignKey("plop_experiments.number"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("arm", Text, nullable=False),
    Column("coverage", Double),
    Column("reason", Text, nullable=False),
    Column("at", UtcTime, nullable=False),
    Column("received", UtcTime, nullable=False),
)
"""Steps of the coverage, switches of arms, and the decision; see `Change`."""
