"""Check that a checkpoint holds the weights of the model that its config.json describes.

transformers initialises missing weights at random and drops unknown ones, with a warning at most.
Random weights have an NFN near 1, which looks like a recommendation to adapt them. Every weight
that a forward pass uses must therefore be in the checkpoint, under a name that the model knows and
in its shape. Only weights after the body may be new: a head for another task, or a pooler.

Training wrappers save weights under prefixed names; these prefixes are removed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers.utils import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from plop_lora.errors import ModelError
from plop_lora.models.architectures import OLD_BUFFERS, UNUSED_PARTS
from plop_lora.models.folders import CONFIG, with_adapter
from plop_lora.models.wrappers import WRAPPERS

_CHAIN = rf"(?:(?:{'|'.join(WRAPPERS)})\.)+"
_LEADING = rf"^(?:(?:module|{'|'.join(WRAPPERS)})\.)+"
KEY_MAPPING = {
    _LEADING: "",
    # A rule removes one chain per name, and a block may be wrapped as well as its parts.
    rf"(?<=\.){_CHAIN}": "",
    rf"(?<=[.]){_CHAIN}": "",
}
"""Key mapping for transformers that removes the prefixes of wrappers."""
_WRAPPED = re.compile(rf"{_LEADING}|\.{_CHAIN}")
_SHOWN = 4

Mismatch = tuple[str, Sequence[int], Sequence[int]]


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A model from a checkpoint.

    Attributes:
        model: The model with the weights of the checkpoint.
        new: Names of the weights that the checkpoint lacks, such as those of a new head.
        notes: Notes for the record, such as on prefixes that were removed.
    """

    model: Any
    new: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def load_checked(
    wanted: Any, name: str, *, ignore_mismatched_sizes: bool = False, **options: Any
) -> Loaded:
    """Load a checkpoint with a class of transformers and check that its weights fit the model.

    Args:
        wanted: Class of the model, or one of the Auto classes.
        name: Hub id or local folder.
        ignore_mismatched_sizes: Whether a head of another shape is replaced by a new one.
        **options: Further arguments of `from_pretrained`.

    Raises:
        ModelError: Weights of the body are missing, unknown or of another shape, or the folder
            also holds an adapter.
    """
    refuse_adapter(name, revision=options.get("revision"), token=options.get("token"))

    def load(**more: object) -> tuple[Any, dict[str, Any]]:
        model, report = wanted.from_pretrained(
            name, output_loading_info=True, ignore_mismatched_sizes=True, **options, **more
        )
        return model, report

    model, report = load()
    notes: tuple[str, ...] = ()
    wrapped = any(map(is_wrapped, report["unexpected_keys"]))
    if wrapped:
        model, report = load(key_mapping=KEY_MAPPING)
        notes = (unwrapped_note(name),)
    new = check_weights(
        name,
        model,
        missing=report["missing_keys"],
        unexpected=report["unexpected_keys"],
        mismatched=report["mismatched_keys"],
        new_head=ignore_mismatched_sizes,
    )
    return Loaded(model, new, notes)


def refuse_adapter(name: str, *, revision: str | None = None, token: str | None = None) -> None:
    """Refuse a folder or repository that holds an adapter.

    Loading the model into memory would add the adapter, and streaming it would not, so the two
    engines would give different scores.

    Raises:
        ModelError: There is an adapter; the message says what to give instead.
    """
    adapter = find_adapter_config_file(name, revision=revision, token=token)
    if adapter is None:
        return
    config = cached_file(
        name, CONFIG, revision=revision, token=token,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )  # fmt: skip
    raise ModelError(with_adapter(name, Path(adapter), is_model=config is not None))


def is_wrapped(key: str) -> bool:
    """Return whether a name in a checkpoint has the prefix of a wrapper."""
    return _WRAPPED.search(key) is not None


def unwrapped_note(name: str) -> str:
    """Return the note for a record of a model whose weight names had prefixes."""
    return (
        f"the weights of {name} carry the prefix of a wrapper (such as _orig_mod. of "
        "torch.compile), which was taken off their names"
    )


def check_weights(
    name: str,
    model: nn.Module,
    *,
    missing: Iterable[str],
    unexpected: Iterable[str],
    mismatched: Iterable[Mismatch],
    new_head: bool = False,
) -> tuple[str, ...]:
    """Refuse a checkpoint whose weights are not those of the model.

    Args:
        name: Name of the checkpoint, for the error message.
        model: Model that was built from its config.json.
        missing: Names in the model that the checkpoint lacks.
        unexpected: Names in the checkpoint that the model does not know.
        mismatched: Names of weights with their shapes in the checkpoint and in the model.
        new_head: Whether a head may have another shape.

    Returns:
        The sorted names of the new weights, such as those of a head.

    Raises:
        ModelError: Weights of the body are missing, unknown or of another shape.
    """
    missing = sorted(missing)
    lacking = [key for key in missing if _is_body(model, key)]
    strange = sorted(key for key in unexpected if _is_of_a_block(model, key))
    shapes = sorted(
        (key, list(found), list(wanted))
        for key, found, wanted in mismatched
        if not new_head or _is_body(model, key)
    )
    if shapes:
        key, found, wanted = shapes[0]
        raise ModelError(
            f"{key} is {found} in the weights of {name} and {wanted} in the model that its "
            f"config.json describes{_others(len(shapes))}. They do not belong together: give the "
            "config.json that the weights were saved with."
        )
    if lacking:
        raise ModelError(
            f"{name} lacks weights that its config.json describes: {_listed(lacking)}."
            f"{_instead(strange)} They would be random numbers. Give a complete checkpoint."
        )
    if strange:
        raise ModelError(
            f"{name} holds weights that the model of its config.json does not have: "
            f"{_listed(strange)}. The model would run without them: give the config.json that the "
            "weights were saved with."
        )
    new = {*missing, *(key for key, *_ in mismatched)}
    return tuple(sorted(new))


def _is_body(model: nn.Module, key: str) -> bool:
    """Return whether a weight belongs to the body: the base model without its poolers."""
    prefix = getattr(model, "base_model_prefix", "")
    has_base = bool(prefix) and isinstance(getattr(model, prefix, None), nn.Module)
    if has_base and not key.startswith(f"{prefix}."):
        return False
    if key.rpartition(".")[0] in _output_heads(model):
        return False
    return not any(part in UNUSED_PARTS for part in key.split("."))


def _output_heads(model: nn.Module) -> list[str]:
    getter = getattr(model, "get_output_embeddings", None)
    head = getter() if getter is not None else None
    return [name for name, module in model.named_modules() if module is head and name]


def _is_of_a_block(model: nn.Module, key: str) -> bool:
    """Return whether an unknown name is in a block, with or without the prefix of the base model.

    Buffers that older versions of a model saved do not count.
    """
    if key.rpartition(".")[2] in OLD_BUFFERS or _is_mask(model, key):
        return False
    lists = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    stems = {f"{name}." for name in lists if name}
    stems |= {stem.removeprefix(prefix) for stem in stems} | {prefix + stem for stem in stems}
    return any(key.startswith(stem) for stem in stems)


def _is_mask(model: nn.Module, key: str) -> bool:
    """Return whether a `bias` is the causal mask of an attention module, as GPT-2 saved it.

    Unlike the bias of a layer, it belongs to a module that has submodules.
    """
    owner, _, leaf = key.rpartition(".")
    if leaf != "bias":
        return False
    prefix = getattr(model, "base_model_prefix", "")
    names = {owner, owner.removeprefix(f"{prefix}."), f"{prefix}.{owner}"}
    modules = dict(model.named_modules())
    return any(True for name in names & set(modules) for _ in modules[name].children())


def _listed(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more


def _others(count: int) -> str:
    return f" (and {count - 1} more weights differ)" if count > 1 else ""


def _instead(strange: Sequence[str]) -> str:
    return f" It holds instead: {_listed(strange)}." if strange else ""
