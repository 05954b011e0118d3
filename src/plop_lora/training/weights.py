"""The identity of the weights that a trial trains.

The content of a folder or the commit of a hub id may change between two starts, and a study must
not continue with other weights. So a checkpoint is identified by its content: a hub id by its
commit, a folder by the SHA-256 of its files. Imports no torch.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from plop_lora.errors import ModelError, OutputError
from plop_lora.files import atomic_file, cache_folder, file_digest
from plop_lora.models.folders import CONFIG
from plop_lora.models.pinning import commit_of
from plop_lora.records import TrialSpec

_FILES = ("*.safetensors", "*.bin")
_BESIDE = (CONFIG, "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json",
           "added_tokens.json", "chat_template*")  # fmt: skip
"""Further files on which a trial depends: those of the architecture and of the tokenizer."""
_KNOWN = "files.json"
_MOST_KNOWN = 4096
_LETTERS = 32
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """The model of a trial.

    Attributes:
        name: Hub id, or absolute path of a folder.
        revision: Commit of a hub id; None if it is unknown, and for a folder.
        weights: Key of a folder's content; None for a hub id, and for a folder without weights.
    """

    name: str
    revision: str | None = None
    weights: str | None = None


def trained_model(name: str, revision: str | None = None) -> TrainedModel:
    """Return a model with the identity of its weights, without downloading anything.

    Args:
        name: Hub id or folder.
        revision: Commit or branch of a hub id; by default the one in the hub's cache.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return TrainedModel(str(folder.resolve()), weights=weights_key(folder))
    found = _cached_config(name, revision)
    return TrainedModel(name, commit_of(found) or revision)


def is_commit(revision: str | None) -> bool:
    """Whether a revision is a commit, which unlike a branch cannot change."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def read_config(model: TrainedModel, *, download: bool) -> dict[str, object] | None:
    """Return the `config.json` of a model, or None if it is not on this machine.

    Args:
        model: Model to be trained.
        download: Whether to download a missing file from the hub; the result is then never None.

    Raises:
        ModelError: There is no such model, or the file is not a configuration.
    """
    folder = Path(model.name)
    path = folder / CONFIG if folder.is_dir() else _cached_config(model.name, model.revision)
    if path is None and download:
        path = _downloaded_config(model)
    if path is None:
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"Cannot read {path}: {error}. Give a folder that transformers can load, or a hub id "
            "such as Qwen/Qwen3-0.6B, with --model."
        ) from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} is not a configuration of a model: it holds no JSON object.")
    return config


def check_weights(spec: TrialSpec) -> None:
    """Check that the weights are those for which a trial was planned.

    Raises:
        ModelError: The content of the model's folder is not that of the spec.
    """
    if spec.weights is None:
        return
    found = weights_key(Path(spec.model))
    if found != spec.weights:
        raise ModelError(
            f"The weights in {spec.model} have changed since the trial was planned: their key is "
            f"{found or 'none'}, not {spec.weights}. Put the old weights back, or plan again with "
            "plop verify and a --folder of its own."
        )


# --------------------------------------------------------------------------- content of a folder


def weights_key(folder: Path) -> str | None:
    """Return a hash of the content of a checkpoint's files, or None if it has no weights.

    It depends only on the names and contents, so that a copy of a checkpoint has the same key on
    any machine.
    """
    weights = [path for pattern in _FILES for path in folder.glob(pattern)]
    if not weights:
        return None
    paths = {*weights, *(path for pattern in _BESIDE for path in folder.glob(pattern))}
    digest = hashlib.sha256()
    try:
        for path in sorted(paths):
            digest.update(f"{path.name} {_content(path)}\n".encode())
    except OSError as error:
        raise ModelError(f"Cannot read {error.filename}: {error.strerror or error}.") from error
    return digest.hexdigest()[:_LETTERS]


def _content(path: Path) -> str:
    """Return the SHA-256 of a file, from a cache if the file has not changed.

    A change of the content updates the change time of the inode, which no program can set. So
    large checkpoints are read once, and not by each of the trials.
    """
    status = path.stat()
    place = f"{path.resolve()} {status.st_size} {status.st_ino}"
    identity = f"{place} {status.st_mtime_ns} {status.st_ctime_ns}"
    known = _known()
    if identity not in known:
        known[identity] = _sha256(path, identity)
        _remember(known)
    return known[identity]


@functools.lru_cache(maxsize=_MOST_KNOWN)
def _sha256(path: Path, identity: str) -> str:
    """Return the SHA-256 of a file; `identity` changes with its content."""
    return file_digest(path)


def _memory() -> Path | None:
    """Return the file of the cache, or None if there is no cache."""
    folder = cache_folder()
    return None if folder is None else folder / _KNOWN


def _known() -> dict[str, str]:
    path = _memory()
    if path is None:
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    sound = isinstance(document, dict) and all(isinstance(v, str) for v in document.values())
    return document if sound else {}


def _remember(known: dict[str, str]) -> None:
    """Save the most recent entries of the cache, ignoring a folder that cannot be written."""
    path = _memory()
    if path is not None:
        newest = dict(list(known.items())[-_MOST_KNOWN:])
        with contextlib.suppress(OutputError), atomic_file(path) as file:
            json.dump(newest, file)


# --------------------------------------------------------------------------- the hub


def _cached_config(name: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, CONFIG, revision=revision)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def _downloaded_config(model: TrainedModel) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(hf_hub_download(model.name, CONFIG, revision=model.revision))
    except (OSError, ValueError, HFValidationError, HfHubHTTPError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(". ")
        raise ModelError(
            f"There is no model {model.name!r} to train: it is not a folder here, and the hub did "
            f"not give one ({reason}). Give a folder with config.json or a hub id with --model."
        ) from error
