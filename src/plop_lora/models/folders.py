"""Check whether a model name is a local folder with a model, another path, or a hub id.

The checks need only file names and a few bytes of some files; they run before torch is imported and
before any request to the hub. The error for a folder that transformers could not load says what the
folder holds instead.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from plop_lora.errors import ModelError, nearest
from plop_lora.models.hub import out_of_reach

CONFIG = "config.json"
_GIVE = "Give a folder with config.json or a hub id such as Qwen/Qwen3-0.6B."
_ADAPTER = "adapter_config.json"
_SAVED_DATA = ("dataset_dict.json", "dataset_info.json", "state.json")
_DATA_SUFFIXES = {".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt", ".arrow", ".gz"}
_WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".ckpt"}
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
)
LFS_POINTER = b"version https://git-lfs"
"""First bytes of a Git LFS pointer, which stands for a large file that was not fetched."""


def model_name(name: str, *, weights: bool = True, gguf: str | None = None) -> str:
    """Return the name from which to load a model, with `~` expanded.

    Args:
        name: Name as the user typed it.
        weights: Whether the weights are loaded, which an adapter in the folder would change.
        gguf: Name of the GGUF file that is loaded from the folder, which then needs no config.json.

    Raises:
        ModelError: The name is a file, a folder without a model, or a path that does not exist.
            The message says what it is and what to give instead.
    """
    path = Path(expanded(name))
    if path.is_dir():
        if gguf is None:
            _check_folder(name, path, weights)
    elif path.exists():
        raise ModelError(_is_a_file(name, path))
    elif name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(
            f"The model folder {name} is not there.{nearest(path.name, folders_beside(path))} "
            f"{_GIVE}"
        )
    return expanded(name)


def expanded(name: str) -> str:
    """Return a name with a leading `~` replaced by the home folder."""
    if not name.startswith("~"):
        return name
    try:
        return str(Path(name).expanduser())
    except RuntimeError:  # a user without a home folder, or ~other of an unknown user
        return name


def check_reach(name: str, what: str, revision: str | None = None) -> None:
    """Check within seconds that a hub id can be loaded from the hub or the cache.

    Raises:
        ModelError: The hub cannot be reached, and the cache does not hold the model.
    """
    reason = out_of_reach(name, "model")
    if reason:
        raise ModelError(not_given(name, what, reason, revision))


def not_given(name: str, what: str, reason: str, revision: str | None = None) -> str:
    """Return the error message for a name that is not a folder and was not found on the hub."""
    version = f" in revision {revision!r}" if revision else ""
    return (
        f"No {what} {name!r}{version}: it is not a folder here, and the hub did not give one "
        f"({reason}).{nearest(Path(name).name, folders_beside(Path(name)))} {_GIVE}"
    )


def check_tokenizer(name: str) -> None:
    """Refuse a local folder without a tokenizer, before transformers guesses one.

    Raises:
        ModelError: The folder has none of the files of a tokenizer.
    """
    if Path(name).is_dir() and not has_tokenizer(name):
        raise ModelError(
            f"The folder {name} holds no tokenizer (tokenizer.json, or the files of an older one). "
            "Give the folder or hub id of the tokenizer that the model was trained with as "
            "--tokenizer."
        )


def has_tokenizer(name: str) -> bool:
    """Return whether a local folder has one of the files of a tokenizer."""
    return any((Path(name) / file).exists() for file in _TOKENIZER)


def own_code(name: str) -> list[str]:
    """Return the Python files that the config.json of a local folder would run."""
    mapped = _read(Path(name) / CONFIG).get("auto_map")
    places = [place for place in mapped.values() if isinstance(place, str)] if mapped else []
    files = {f"{place.rpartition('--')[2].partition('.')[0]}.py" for place in places}
    return sorted(files)


def folders_beside(path: Path) -> list[str]:
    """Return the names of the folders beside a path, as candidates for a mistyped name."""
    parent = Path(expanded(str(path))).parent
    return [entry.name for entry in parent.iterdir() if entry.is_dir()] if parent.is_dir() else []


# --------------------------------------------------------------------------- what is there


def _is_a_file(name: str, path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix == ".gguf":
        return _gguf(name)
    if suffix in _WEIGHT_SUFFIXES:
        return f"{name} is a file of weights. Give the folder that holds it and its config.json."
    if suffix in _DATA_SUFFIXES and path.name != CONFIG:
        return (
            f"{name} is a data file, and the model comes first: plop score MODEL --data {name}. "
            f"{_GIVE}"
        )
    return f"The model {name} is a file, not a folder. {_GIVE}"


def _check_folder(name: str, path: Path, weights: bool) -> None:
    is_model, adapts = (path / CONFIG).exists(), (path / _ADAPTER).exists()
    if adapts and (weights or not is_model):
        raise ModelError(with_adapter(name, path / _ADAPTER, is_model=is_model))
    if not is_model:
        raise ModelError(_without_config(name, path))
    _check_fetched(name, path)


def with_adapter(name: str, config: Path, *, is_model: bool) -> str:
    """Return the error message for a folder or repository that holds an adapter.

    Args:
        name: Name as the user typed it.
        config: Local path of its adapter_config.json.
        is_model: Whether it holds a model as well.
    """
    if is_model:
        return (
            f"{name} holds a model and an adapter, which transformers puts on it: its layers would "
            "be taken for the model's own. Move adapter_config.json and adapter_model.safetensors "
            "to a folder of their own, or merge them and give the folder of the merged model."
        )
    base = _read(config).get("base_model_name_or_path")
    return (
        f"{name} holds an adapter and not a model. Score its base model"
        f"{f': {base}' if base else ', which its adapter_config.json does not name'}."
    )


def _check_fetched(name: str, path: Path) -> None:
    """Refuse a clone whose large files are still Git LFS pointers, which no library recognises.

    Only the files to load are checked, because many users fetch the weights in one format only.
    """
    weights = sorted(path.glob("model*.safetensors")) or sorted(path.glob("pytorch_model*.bin"))
    needed = [path / CONFIG, *(path / file for file in _TOKENIZER), *weights]
    pointers = [entry.name for entry in needed if is_lfs_pointer(entry)]
    if pointers:
        more = f" and {len(pointers) - 1} more" if len(pointers) > 1 else ""
        raise ModelError(
            f"{pointers[0]}{more} in {name} is a pointer of Git LFS and not the file itself. Fetch "
            f"the files: git -C {name} lfs pull."
        )


def is_lfs_pointer(path: Path) -> bool:
    """Return whether a file is the Git LFS pointer of a file that was not fetched."""
    try:
        with path.open("rb") as file:
            return file.read(len(LFS_POINTER)) == LFS_POINTER
    except OSError:
        return False


def _without_config(name: str, path: Path) -> str:
    files = sorted(entry.name for entry in path.iterdir())
    suffixes = {Path(file).suffix.lower() for file in files}
    if not files:
        return f"The model folder {name} is empty. {_GIVE}"
    if ".gguf" in suffixes:
        return _gguf(name)
    if any(file in files for file in _SAVED_DATA):
        return f"{name} is a saved data set and not a model; give it as --data. {_GIVE}"
    if suffixes & _WEIGHT_SUFFIXES:
        return (
            f"The model folder {name} holds weights but no config.json, which says what they are "
            "weights of. Copy the config.json of the model beside them."
        )
    inner = [entry.name for entry in path.iterdir() if (entry / CONFIG).exists()]
    if inner:
        return f"{name} holds no config.json, but {name.rstrip('/')}/{min(inner)} does. Give that."
    if suffixes & _DATA_SUFFIXES:
        return f"{name} is a folder of data ({files[0]}) and not of a model. {_GIVE}"
    return f"The folder {name} holds no config.json, so it is no model. {_GIVE}"


def _gguf(name: str) -> str:
    return (
        f"{name} holds GGUF, the format of llama.cpp, which only plop score reads. Give the folder "
        "or hub id of the model that the file was made from."
    )


def _read(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, or an empty one if the file is missing or damaged."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
