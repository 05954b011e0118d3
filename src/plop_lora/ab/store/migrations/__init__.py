"""Revisions of the store's tables, one file each in `versions`, which Alembic applies in order."""
