"""The environment variables of a launcher such as torchrun, which are ignored unless complete.

transformers and accelerate read each variable by itself. A stale one, left by a shell or a cluster,
would make a trial wait for processes that do not exist, write nothing, or compute in another dtype
than its spec says. Imports the standard library and the errors only.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from plop_lora.errors import UsageError

WHOLE = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""The variables that every launcher sets."""
PLACES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
OVERRIDES = ("ACCELERATE_MIXED_PRECISION", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS")
"""Variables that would override the spec of a trial, by which every arm has the same settings."""
ENGINES = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_MEGATRON_LM")
_NEUTRAL = ("", "no", "1", "false")


def world_size() -> int:
    """Return the number of processes in `WORLD_SIZE`, or 1 if it is not set or not a number."""
    return _number("WORLD_SIZE") or 1


def is_launched() -> bool:
    """Whether the variables of a launcher are complete and consistent."""
    if not all(os.environ.get(name) for name in WHOLE):
        return False
    process_index, local_index = _number("RANK"), _number("LOCAL_RANK")
    count = _number("WORLD_SIZE")
    if process_index is None or local_index is None or count is None:
        return False
    return 0 <= process_index < count and local_index >= 0


def process_count() -> int:
    """Return how many processes train together."""
    return world_size() if is_launched() else 1


def is_first_process() -> bool:
    """Whether this process is the one that prints and writes."""
    return not is_launched() or int(os.environ["RANK"]) == 0


@contextlib.contextmanager
def settled() -> Iterator[tuple[str, ...]]:
    """Remove variables that a trial must ignore inside the block, and restore them afterwards.

    Yields:
        One sentence for each group of variables that was removed.

    Raises:
        UsageError: A variable selects an accelerate engine that trials do not support.
    """
    engine = next((name for name in ENGINES if _is_set(name)), None)
    if engine is not None:
        raise UsageError(
            f"{engine} is set in the environment, but trials do not support this engine. Unset "
            "it, or start trials without this setting in the configuration of accelerate."
        )
    places = {} if is_launched() else _taken(PLACES)
    overrides = {name: value for name, value in _taken(OVERRIDES).items() if _is_set(name)}
    notes = []
    if places:
        missing = [name for name in WHOLE if not os.environ.get(name)]
        lacks = f"lacks {', '.join(missing)}" if missing else "is not consistent"
        notes.append(
            f"{_listed(places)} in the environment is ignored: no launcher has set it, since it "
            f"{lacks}"
        )
    if overrides:
        notes.append(f"{_listed(overrides)} in the environment is ignored: the spec decides")
    for name in (*places, *overrides):
        del os.environ[name]
    try:
        yield tuple(notes)
    finally:
        os.environ.update(places | overrides)


def _number(name: str) -> int | None:
    """Return a variable as a whole number, or None if it is not set or not a number."""
    try:
        return int(os.environ.get(name, ""))
    except ValueError:
        return None


def _taken(names: tuple[str, ...]) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").lower() not in _NEUTRAL


def _listed(values: dict[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())
