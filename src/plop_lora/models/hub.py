"""Whether the hub can be asked, told in seconds instead of minutes.

Without a network every file of a model costs its own retries, and a name server that drops
questions keeps each of them waiting. So the hub is asked once, with a deadline; where nobody
answers, everything goes on with what the cache holds, as under HF_HUB_OFFLINE=1.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SECONDS = 6.0
"""How long the hub has for its first answer."""


@contextlib.contextmanager
def hub_or_cache(name: str) -> Iterator[None]:
    """Load what `name` means inside this block; a hub that does not answer is left alone.

    Args:
        name: a local folder, for which nobody is asked, or a hub id.
    """
    if Path(name).is_dir() or is_offline() or reachable():
        yield
        return
    with _offline():
        yield


def is_offline() -> bool:
    """Whether the user, or `hub_or_cache`, forbids to ask the hub."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def why_not(error: BaseException) -> str:
    """Return why the hub gave nothing, where it was not asked; empty for an error of its own."""
    return _reason() if is_offline() and isinstance(error, OSError) else ""


def out_of_reach(name: str, kind: str) -> str:
    """Return why a name cannot be had, before anything that takes seconds to import is.

    Args:
        name: a local folder or a hub id.
        kind: `model` or `dataset`.

    Returns:
        Empty where it is a folder, in a cache, or where the hub answers.
    """
    if Path(name).is_dir() or _is_cached(name, kind):
        return ""
    return "" if not is_offline() and reachable() else _reason()


def _reason() -> str:
    if reachable.cache_info().currsize:
        return "the hub cannot be reached, and the cache does not hold it"
    return "HF_HUB_OFFLINE is set, and the cache does not hold it"


def _is_cached(name: str, kind: str) -> bool:
    """Whether a cache holds anything of a name; `datasets` has one of its own."""
    from huggingface_hub import constants

    folders = [Path(constants.HF_HUB_CACHE) / f"{kind}s--{name.replace('/', '--')}"]
    if kind == "dataset":
        home = os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets"
        folders.append(Path(home) / name.replace("/", "___"))
    return any(folder.is_dir() for folder in folders)


@functools.cache
def reachable() -> bool:
    """Whether the hub answers, whatever it says; asked once a process.

    Asked in a thread, since a question to a name server knows no deadline.
    """
    answered: list[bool] = []
    thread = threading.Thread(target=lambda: answered.append(_asked()), daemon=True)
    thread.start()
    thread.join(SECONDS)
    return bool(answered and answered[0])


def _asked() -> bool:
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception:  # of the client, of proxies, of TLS: nobody can be asked
        return False
    return True


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Switch the libraries of Hugging Face to their caches for the length of the block."""
    import sys

    from huggingface_hub import constants

    owners: list[Any] = [constants, sys.modules.get("datasets.config")]
    before = [(owner, owner.HF_HUB_OFFLINE) for owner in owners if owner is not None]
    try:
        for owner, _ in before:
            owner.HF_HUB_OFFLINE = True
        yield
    finally:
        for owner, value in before:
            owner.HF_HUB_OFFLINE = value
