"""The adapter under judgement: its folder, its base, and whether the two fit.

Imports no torch by itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from plop_lora.errors import AdapterError, ModelError, UsageError
from plop_lora.exports.adapters import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Adapter,
    check_adapter_folder,
    read_adapter,
    read_header,
)
from plop_lora.placement.inits import PREPARED, moves_base
from plop_lora.training.weights import TrainedModel, read_config, trained_model

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """An adapter and its base, as they are identified in records.

    Attributes:
        folder: Folder of the adapter.
        digest: SHA-256 of the files of the adapter.
        base: Base model with the identity of its weights.
        adapter: Configuration and factors of the adapter.
        shapes: Shape of every tensor of the adapter.
    """

    folder: Path
    digest: str
    base: TrainedModel
    adapter: Adapter
    shapes: Mapping[str, tuple[int, ...]]


def read_judged(folder: Path, base: str | None) -> Judged:
    """Read the folder of an adapter and find its base, without loading either.

    Args:
        folder: Folder that PEFT saved.
        base: Hub id or folder of the base; None takes the one that the configuration names.

    Raises:
        AdapterError: The folder is none of an adapter, or a file in it is damaged.
        ModelError: The folder of the base does not exist.
        UsageError: The adapter cannot be switched off to give its base, or names no base.
    """
    adapter = read_adapter(folder)
    _refuse_other_base(folder, adapter.config)
    shapes, _ = read_header(folder / WEIGHTS_FILE)
    name = base or adapter.config.get("base_model_name_or_path")
    if not name:
        raise UsageError(
            f"{folder / CONFIG_FILE} names no base model. Give it with --base (hub id or folder)."
        )
    _check_there(str(name), base)
    return Judged(folder, adapter_digest(folder), trained_model(str(name)), adapter, shapes)


def _refuse_other_base(folder: Path, config: Mapping[str, object]) -> None:
    """Refuse an adapter that is not the whole difference to the original base model.

    Raises:
        UsageError: The adapter trained biases, or was initialised by a part of the base weights.
    """
    if config.get("bias", "none") != "none":
        raise UsageError(
            f"{folder} trained biases beside its adapters (bias {config['bias']!r}). They stay "
            "when the adapters are switched off, so there would be no base to compare with."
        )
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and (moves_base(init) or init in PREPARED):
        raise UsageError(
            f"{folder} was initialised by {init}, which changes the base weights, so it is not an "
            "adapter of the original base. Convert it: save it with model.save_pretrained(FOLDER, "
            "path_initial_model_for_weight_conversion=INITIAL)."
        )


def _check_there(name: str, given: str | None) -> None:
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
    if looks_local and not Path(name).expanduser().is_dir():
        source = "--base" if given else f"The base model of {CONFIG_FILE},"
        raise ModelError(
            f"{source} {name} is not there. Give the folder or the hub id of the base model with "
            "--base."
        )


def adapter_digest(folder: Path) -> str:
    """Return the SHA-256 of the files of an adapter, which identifies it in records.

    Raises:
        AdapterError: The folder does not exist, or a file cannot be read.
        UsageError: It is a file.
    """
    check_adapter_folder(folder)
    digest = hashlib.sha256()
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        try:
            with (folder / name).open("rb") as file:
                hashlib.file_digest(file, lambda: digest)
        except OSError as error:
            raise AdapterError(
                f"Cannot read {folder / name}: {error.strerror or error}. Save the adapter again."
            ) from error
    return digest.hexdigest()


def check_fits(judged: Judged) -> None:
    """Refuse an adapter whose factors do not fit the base; only the base's config.json is read.

    Raises:
        AdapterError: A module of the adapter is not in the base, or has another shape there.
        ModelError: The base cannot be found.
    """
    from plop_lora.models.loading import load_skeleton
    from plop_lora.models.origin import Origin

    read_config(judged.base, download=True)
    skeleton = load_skeleton(judged.base.name, Origin(judged.base.revision))
    for pair in judged.adapter.pairs:
        sizes = _sizes(skeleton, pair.module, pair.parameter)
        rank_in = judged.shapes[pair.tensor_A]
        rank_out = judged.shapes[pair.tensor_B]
        found = {rank_in[-1], rank_out[0]}
        if sizes is None or found != sizes:
            there = "is not there" if sizes is None else f"has the sizes {_words(sizes)}"
            raise AdapterError(
                f"{judged.folder} is an adapter of another base: it adapts {pair.name} with the "
                f"sizes {_words(found)}, which {there} in {judged.base.name}. Give the base that "
                "it was trained on with --base."
            )


def _words(sizes: set[int]) -> str:
    return " and ".join(map(str, sorted(sizes)))


def _sizes(skeleton: nn.Module, module: str, parameter: str | None) -> set[int] | None:
    """Return the two sizes of an adapted weight; None where the model does not have it."""
    try:
        owner = skeleton.get_submodule(module)
    except AttributeError:
        return None
    weight = getattr(owner, parameter or "weight", None)
    return None if weight is None else set(weight.shape[-2:])
