"""The commit of a model on the hub, so that all of its files are read at the same one. No torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from plop_lora.models.folders import CONFIG
from plop_lora.models.origin import Origin

_SNAPSHOTS = "snapshots"


def commit_of(path: Path | None) -> str | None:
    """Return the commit of a file in the hub's cache, which keeps one folder for each."""
    if path is None or _SNAPSHOTS not in path.parts:
        return None
    return path.parts[path.parts.index(_SNAPSHOTS) + 1]


def pinned(name: str, origin: Origin) -> Origin:
    """Return the origin at the commit that its branch or tag has now.

    Weights, configuration and tokenizer are requested one after the other, and a branch may move
    in between. Where the hub cannot be reached, the commit is that of the cache. A folder, and a
    repository whose configuration cannot be had, keep their origin; loading says what is wrong.

    Args:
        name: Hub id or local folder.
        origin: How its files are requested.
    """
    if Path(name).expanduser().is_dir():
        return origin
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        file = hf_hub_download(name, origin.gguf or CONFIG, **origin.files())
    except (OSError, ValueError, HFValidationError, HfHubHTTPError):
        return origin
    return replace(origin, revision=commit_of(Path(file)) or origin.revision)
