"""The store of running experiments: a database, and the files that events go to first.

    with Store.open("sqlite:///experiments.db") as store:
        run = store.run(experiment)
        run.start(datetime.now(timezone.utc))

    with Writer("support.json.events", "sqlite:///experiments.db", experiment) as writer:
        writer.write([exposure(experiment.pseudonym("account-17"), "now", at)])

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
    from plop_lora.ab.store.writer import Writer, spill_folder

__all__ = [
    "Decision",
    "LeftOut",
    "RunCounts",
    "Seen",
    "Store",
    "StoredRun",
    "Writer",
    "spill_folder",
]


def __getattr__(name: str) -> object:
    if name in ("Store", "StoredRun"):
        require("sqlalchemy")
        from plop_lora.ab.store import stored

        return getattr(stored, name)
    if name in ("Writer", "spill_folder"):
        from plop_lora.ab.store import writer

        return getattr(writer, name)
    raise AttributeError(f"module 'plop_lora.ab.store' has no attribute {name!r}")
