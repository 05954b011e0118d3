"""The store of running experiments: a database that several processes share.

    with Store.open("sqlite:///experiments.db") as store:
        run = store.run(experiment)
        run.start(datetime.now(timezone.utc))

SQLite serves the processes of one machine, PostgreSQL those of many. `Store` needs SQLAlchemy and
Alembic, the extra `ab`, which are imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plop_lora.ab.store.history import Decision
from plop_lora.ab.store.seen import LeftOut, RunCounts, Seen
from plop_lora.errors import require

if TYPE_CHECKING:
    from plop_lora.ab.store.stored import Store, StoredRun

__all__ = ["Decision", "LeftOut", "RunCounts", "Seen", "Store", "StoredRun"]


def __getattr__(name: str) -> object:
    if name in ("Store", "StoredRun"):
        require("sqlalchemy")
        from plop_lora.ab.store import stored

        return getattr(stored, name)
    raise AttributeError(f"module 'plop_lora.ab.store' has no attribute {name!r}")
