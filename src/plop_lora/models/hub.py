"""Determine within seconds, instead of minutes, whether the hub can be reached.

Without a network, each file of a model is retried on its own, and a name server that drops requests
delays every retry. Therefore one request with a deadline is made first. If it fails, loading uses
only the cache, as with HF_HUB_OFFLINE=1.
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
"""Deadline in seconds for the first response of the hub."""


@contextlib.contextmanager
def hub_or_cache(name: str) -> Iterator[None]:
    """Use only the cache inside the `with` block if the hub cannot be reached.

    Args:
        name: Hub id, or a local folder, for which no request is made.
    """
    if Path(name).is_dir() or is_offline() or reachable():
        yield
        return
    with _offline():
        yield


def is_offline() -> bool:
    """Return whether requests to the hub are disabled, by the user or by `hub_or_cache`."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def why_not(error: BaseException) -> str:
    """Return why the hub was not asked; the string is empty if the error came from the hub."""
    return _reason() if is_offline() and isinstance(error, OSError) else ""


def out_of_reach(name: str, kind: str) -> str:
    """Return why a name cannot be loaded, without importing any slow library.

    Args:
        name: Local folder or hub id.
        kind: `model` or `dataset`.

    Returns:
        The reason. It is empty if the name is a folder or in a cache, or if the hub responds.
    """
    if Path(name).is_dir() or _is_cached(name, kind):
        return ""
    return "" if not is_offline() and reachable() else _reason()


def _reason() -> str:
    if reachable.cache_info().currsize:
        return "the hub cannot be reached, and the cache does not hold it"
    return "HF_HUB_OFFLINE is set, and the cache does not hold it"


def _is_cached(name: str, kind: str) -> bool:
    """Return whether a cache holds any file of a name; `datasets` has a cache of its own."""
    from huggingface_hub import constants

    folders = [Path(constants.HF_HUB_CACHE) / f"{kind}s--{name.replace('/', '--')}"]
    if kind == "dataset":
        home = os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets"
        folders.append(Path(home) / name.replace("/", "___"))
    return any(folder.is_dir() for folder in folders)


@functools.cache
def reachable() -> bool:
    """Return whether the hub responds at all; the request is made once per process.

    It is made in a thread, because a name lookup has no deadline.
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
    except Exception:  # any error of the client, a proxy or TLS means that the hub is unreachable
        return False
    return True


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Switch the libraries of Hugging Face to offline mode inside the `with` block."""
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
