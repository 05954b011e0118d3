"""Why a stage is not taken from an earlier run: what of its configuration has changed.

Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from plop_lora.pipeline.folder import CONFIGURATION, DONE

_MOST = 3
"""Changes that a reason names."""


def reason(root: Path, stage: str, configuration: Mapping[str, Any]) -> str:
    """Say why there is no result of a stage with this configuration.

    Args:
        root: Folder of the run.
        stage: Name of the stage.
        configuration: Its configuration now.

    Returns:
        A clause that follows "because", from the newest finished folder of the stage.
    """
    before = _newest(root / "stages", stage)
    if before is None:
        return "it was not run yet"
    changed = list(_changes(before, configuration))
    if not changed:
        return "its folder is gone"
    named = "; ".join(changed[:_MOST])
    more = len(changed) - _MOST
    return f"{named}; and {more} more" if more > 0 else named


def last_seconds(root: Path, stage: str) -> float | None:
    """Return the time that a stage took when it was last made here, None if it never was."""
    for document in _documents(root / "stages", stage, DONE):
        seconds = document.get("seconds")
        if isinstance(seconds, int | float):
            return float(seconds)
    return None


def _newest(stages: Path, name: str) -> Mapping[str, Any] | None:
    return next(_documents(stages, name, CONFIGURATION), None)


def _documents(stages: Path, name: str, file: str) -> Iterator[Mapping[str, Any]]:
    """Yield a file of every finished folder of a stage, the newest first, but no damaged one."""
    done = [path for path in stages.glob(f"{name}-*/{DONE}") if path.is_file()]
    for path in sorted(done, key=lambda one: one.stat().st_mtime, reverse=True):
        try:
            found = json.loads((path.parent / file).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(found, dict):
            yield found


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    if before.get("version") != now.get("version"):
        yield "this version of plop-lora computes it otherwise"
    for name, key in now.get("needs", {}).items():
        if before.get("needs", {}).get(name) != key:
            yield f"{name} has changed"
    for name, digest in now.get("inputs", {}).items():
        if before.get("inputs", {}).get(name) != digest:
            yield _moved(name, before.get("inputs", {}).get(name), digest)
    old, new = (dict(_flat(one.get("recipe", {}))) for one in (before, now))
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            yield f"{name} is {_shown(new.get(name))} and was {_shown(old.get(name))}"


def _moved(name: str, before: str | None, now: str | None) -> str:
    """Say that something outside has changed; a commit of the hub is named, a hash is not."""
    if before and now and "@" in now:
        return f"{name} is {now} and was {before}"
    return f"the content of {name} has changed"


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(value: object) -> str:
    return "not given" if value is None else json.dumps(value, ensure_ascii=False)
