"""Where a weight stands in a model: component, block, path inside the block, and its printed type.

Blocks are the outermost `ModuleList`s, a type is the path inside the block without numbers, and
the printed name is the shortest ending of that path that no other type shares. Nothing here knows
an architecture by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

from torch import nn

_STATE_MIXERS = ("mamba", "ssm", "recurrent", "rglru")
_TOWERS = frozenset({"vision", "audio"})


@dataclass(frozen=True, slots=True)
class Place:
    """Where a weight stands: component, layer, and the path inside the block without numbers."""

    component: str
    layer: int | None
    path: tuple[str, ...]
    in_block: bool

    @property
    def in_tower(self) -> bool:
        """Whether it belongs to the vision or audio part of a larger model."""
        return self.component in _TOWERS


def locator(model: nn.Module) -> Callable[[str], Place]:
    """Return what finds the place of a module name in the model's blocks."""
    lists = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and any(True for _ in module.parameters())
    ]
    outermost = [n for n in lists if not any(n.startswith(f"{other}.") for other in lists)]
    components = _component_names(model, outermost)

    def locate(name: str) -> Place:
        for block_list in outermost:
            if name.startswith(f"{block_list}."):
                layer, *path = name[len(block_list) + 1 :].split(".")
                words = tuple(part for part in path if not part.isdigit()) or (block_list,)
                return Place(components[block_list], int(layer), words, True)
        words = tuple(part for part in name.split(".") if not part.isdigit()) or (name,)
        return Place("", None, words, not outermost)

    return locate


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
    config: Any = getattr(model, "config", None)
    sub_configs = getattr(type(config), "sub_configs", {})
    owners = [model.get_submodule(path[:end]) for end in _prefix_ends(path)]
    for owner in reversed(owners):
        for key in sub_configs:
            own: Any = getattr(owner, "config", None)
            if own is not None and own is getattr(config, key, None):
                word = key.removesuffix("_config")
                return "lm" if word == "text" else word
    return None


def _prefix_ends(path: str) -> list[int]:
    return [i for i, letter in enumerate(path) if letter == "."] + [len(path)]


def printed_types(places: dict[str, Place], stacked: Container[str] = ()) -> dict[str, str]:
    """Return the printed type of each name: component, then the shortest unambiguous ending.

    Names in `stacked` are parameters of a module and keep that module's name.
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
        shortest = next((path[s:] for s in range(last, -1, -1) if endings[path[s:]] == 1), path)
        words = shortest
        if len(components) > 1 and place.component:
            words = (place.component, *shortest)
        printed[name] = ".".join(words)
    return printed


def role_of(model: nn.Module, name: str, place: Place) -> str:
    """Tell attention, mlp and other apart, from the names and classes above a module."""
    if not place.in_block:
        return "other"
    words = [word.lower() for word in place.path[:-1]]
    depth = len(place.path)
    parts = name.split(".")
    for end in range(max(1, len(parts) - depth), len(parts)):
        owner = model.get_submodule(".".join(parts[:end]))
        if end > len(parts) - depth:
            words.append(type(owner).__name__.lower())
    if any("attn" in word or "attention" in word for word in words):
        return "attention"
    return "other" if any(mark in word for word in words for mark in _STATE_MIXERS) else "mlp"
