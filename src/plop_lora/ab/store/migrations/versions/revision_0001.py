"""Revision 0001: experiments, events and changes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "plop_experiments",
        sa.Column("number", _NUMBER, primary_key=True),
        sa.Column("digest", sa.Text, nullable=False, unique=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("received", _TIME, nullable=False),
    )
    experiment = sa.ForeignKey("plop_experiments.number")
    op.create_table(
        "plop_events",
        sa.Column("experiment", _NUMBER, experiment, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("unit", sa.Text, nullable=False),
        sa.Column("arm", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("value", sa.Double, nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("received", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", "experiment", name="plop_events_key"),
    )
    op.create_table(
        "plop_changes",
        sa.Column("number", _NUMBER, primary_key=True),
        sa.Column("experiment", _NUMBER, sa.ForeignKey("plop_experiments.number"), nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("arm", sa.Text, nullable=False),
        sa.Column("coverage", sa.Double),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("received", _TIME, nullable=False),
    )
