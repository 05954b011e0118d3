"""The place of a weight in a model: component, block, path inside the block, and printed type.

Blocks are the entries of the outermost `ModuleList`s whose entries hold several layers. A list of
single layers (Gemma 3n's `altup_projections`, the heads of a codec) is outside the blocks, as is a
list without attention between the parts of a composite model (a projector). A type is the path
inside the block without list indices, and the printed name is the shortest suffix of that path that
no other type shares. No architecture is known by name here; the words that indicate a role are in
`models.architectures`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from plop_lora.models.architectures import ATTENTION, SENSED_INPUTS, STATE_MIXERS, TOWERS

_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")


@dataclass(frozen=True, slots=True)
class ModulePath:
    """The place of a weight: component, layer, and path inside the block without list indices."""

    component: str
    layer: int | None
    path: tuple[str, ...]
    in_block: bool
    in_tower: bool = False
    """Whether it belongs to the vision or audio part of a larger model."""


def locator(model: nn.Module) -> Callable[[str], ModulePath]:
    """Return a function from the name of a module to its place in the model."""
    outermost = _block_lists(model)
    components = _component_names(model, outermost)
    towers = {name for name in outermost if components[name] in TOWERS or _senses(model, name)}

    def locate(name: str) -> ModulePath:
        for block_list in outermost:
            if name.startswith(f"{block_list}."):
                layer, *path = name[len(block_list) + 1 :].split(".")
                words = _without_indices(model, f"{block_list}.{layer}", path) or (block_list,)
                tower = block_list in towers
                return ModulePath(components[block_list], int(layer), words, True, tower)
        words = tuple(part for part in name.split(".") if not part.isdigit()) or (name,)
        return ModulePath("", None, words, not outermost)

    return locate


def _without_indices(model: nn.Module, start: str, path: list[str]) -> tuple[str, ...]:
    """Return a path without the indices of lists.

    An index in a `Sequential` (CTRL's `ffn.0` and `ffn.2`) distinguishes two layers and is kept.
    """
    words = []
    for index, word in enumerate(path):
        owner = model.get_submodule(".".join([start, *path[:index]]))
        if not word.isdigit() or isinstance(owner, nn.Sequential):
            words.append(word)
    return tuple(words)


def _block_lists(model: nn.Module) -> list[str]:
    """Return the outermost lists of blocks, or of single layers if the model has no blocks."""
    lists = {
        name: list(module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and any(True for _ in module.parameters())
    }
    blocks = {name: entries for name, entries in lists.items() if any(map(_holds_layers, entries))}
    outermost = _outermost(blocks or lists)
    parts = [name for name in outermost if _part_above(model, name)[0]]
    return [
        name
        for name in outermost
        if not _stands_between(model, name, parts) or any(map(_attends, lists[name]))
    ]


def _outermost(names: Iterable[str]) -> list[str]:
    listed = list(names)
    return [name for name in listed if not any(name.startswith(f"{one}.") for one in listed)]


def _holds_layers(entry: nn.Module) -> bool:
    """Return whether an entry of a list has submodules that own a matrix, as a block has."""
    return any(parameter.ndim > 1 for inner in entry.children() for parameter in inner.parameters())


def _stands_between(model: nn.Module, name: str, parts: list[str]) -> bool:
    """Return whether a list belongs directly to a model made of models with their own lists."""
    above = _part_above(model, name)[0]
    inside = f"{above}." if above else ""
    return any(
        part != name and part.startswith(inside) and len(_part_above(model, part)[0]) > len(above)
        for part in parts
    )


def _part_above(model: nn.Module, name: str) -> tuple[str, nn.Module]:
    """Return the innermost transformers model that contains a name, else the model itself."""
    words = name.split(".")
    for end in range(len(words), 0, -1):
        path = ".".join(words[:end])
        owner = model.get_submodule(path)
        if isinstance(owner, PreTrainedModel):
            return path, owner
    return "", model


def _attends(block: nn.Module) -> bool:
    return any(ATTENTION & _words_in(type(module).__name__) for module in block.modules())


def _senses(model: nn.Module, name: str) -> bool:
    """Return whether a list belongs to the vision or audio part of a model that also reads text.

    The encoder of an encoder-decoder for speech is not such a part, but half of the model.
    """
    path, part = _part_above(model, name)
    config: Any = getattr(model, "config", None)
    if not path or "text" not in _modalities(model) or _encodes(model, part, config):
        return False
    return "text" not in _modalities(part) or part.main_input_name in SENSED_INPUTS


def _encodes(model: nn.Module, part: nn.Module, config: PretrainedConfig) -> bool:
    if not getattr(config, "is_encoder_decoder", False):
        return False
    find: Any = getattr(model, "get_encoder", None)
    return find is not None and find() is part


def _modalities(model: nn.Module) -> set[str]:
    """Return the modalities that a model declares as its inputs, as one word or several."""
    declared = getattr(model, "input_modalities", "text")
    return {declared} if isinstance(declared, str) else set(declared)


def _component_names(model: nn.Module, block_lists: list[str]) -> dict[str, str]:
    """Name the part of the model that each list of blocks belongs to.

    The name is that of the sub-configuration its owner was built from (`text` is printed `lm`),
    else the first word of the path in which the lists differ. One list needs no name.
    """
    if len(block_lists) <= 1:
        return dict.fromkeys(block_lists, "")
    names = {}
    for block_list in block_lists:
        sub_config = _sub_config(model, block_list)
        words = block_list.split(".")
        others = [other.split(".") for other in block_lists if other != block_list]
        differing = [w for i, w in enumerate(words) if any(o[i : i + 1] != [w] for o in others)]
        names[block_list] = sub_config or differing[0]
    return names


def _sub_config(model: nn.Module, path: str) -> str | None:
    """Return the name of the sub-configuration, at any depth, that a list's owner is made of."""
    known = dict(_sub_configs(getattr(model, "config", None)))
    owners = [model.get_submodule(path[:end]) for end in _prefix_ends(path)]
    for owner in reversed(owners):
        word = known.get(id(getattr(owner, "config", None)))
        if word is not None:
            return "lm" if word == "text" else word
    return None


def _sub_configs(config: PretrainedConfig) -> Iterator[tuple[int, str]]:
    """Yield the id and the name of each sub-configuration, the outer ones last."""
    for key in getattr(type(config), "sub_configs", {}):
        inner = getattr(config, key, None)
        if inner is not None:
            yield from _sub_configs(inner)
            yield id(inner), key.removesuffix("_config")


def _prefix_ends(path: str) -> list[int]:
    return [i for i, letter in enumerate(path) if letter == "."] + [len(path)]


def printed_types(places: dict[str, ModulePath], stacked: Container[str] = ()) -> dict[str, str]:
    """Return the printed type of each name: component, then the shortest unambiguous suffix.

    Names in `stacked` are parameters, whose types keep the name of the module that holds them.
    """
    paths = {place.path for place in places.values()}
    endings = Counter(
        path[start:] for path in paths for start in range(len(path))
    )  # how many types share an ending
    components = {place.component for place in places.values() if place.in_block}
    printed = {}
    for name, place in places.items():
        path = place.path
        last = len(path) - (2 if name in stacked else 1)
        while last > 0 and path[last].isdigit():
            last -= 1
        shortest = next((path[s:] for s in range(last, -1, -1) if endings[path[s:]] == 1), path)
        words = shortest
        if len(components) > 1 and place.component:
            words = (place.component, *shortest)
        printed[name] = ".".join(words)
    return printed


def role_of(model: nn.Module, name: str, place: ModulePath) -> str:
    """Return `attention`, `mlp` or `other`, from the modules between a weight and its block.

    Whole words in their names and classes indicate attention or a state-space mixer; a convolution
    beside the weight indicates that its module mixes tokens (a short convolution, a gated
    recurrence). The class of the block itself counts if the weight belongs directly to the block,
    as in XLM, which has separate lists of attention and feed-forward modules.
    """
    if not place.in_block:
        return "other"
    above = _modules_above(model, name, place)
    words = set().union(*(_words_in(word) for word in place.path[:-1]), *map(_words_of, above))
    if words & ATTENTION:
        return "attention"
    mixes = bool(above) and any(isinstance(child, nn.Conv1d) for child in above[-1].children())
    return "other" if mixes or words & STATE_MIXERS else "mlp"


def _modules_above(model: nn.Module, name: str, place: ModulePath) -> list[nn.Module]:
    """Return the modules between a weight and its block, or the block if there are none."""
    parts = name.split(".")
    if place.layer is None:
        return [model.get_submodule(".".join(parts[:end])) for end in range(1, len(parts))]
    numbered = (
        end
        for end in range(1, len(parts))
        if parts[end - 1] == str(place.layer)
        and isinstance(model.get_submodule(".".join(parts[: end - 1])), nn.ModuleList)
    )
    block = next(numbered, len(parts))
    ends = range(block + 1, len(parts)) or range(block, block + 1)
    return [model.get_submodule(".".join(parts[:end])) for end in ends]


def _words_of(module: nn.Module) -> set[str]:
    return _words_in(type(module).__name__)


def _words_in(name: str) -> set[str]:
    """Return the whole words of a name: `GptOssMLP` has gpt, oss and mlp, but not ssm."""
    return {word.lower() for word in _WORD.findall(name)}
