"""Find entries of a PEFT configuration without effect: names, patterns, layers, parameters. Pure.

PEFT silently ignores an entry that matches nothing, unless no entry matches. Here every entry is
compared with the model by PEFT's own matching rules.

Source: peft `tuners/tuners_utils.py` (`check_target_module_exists`, `_inject_parameters`) and
`utils/other.py` (`get_pattern_key`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from plop_lora.exports.names import CONVERTED_LEAVES

_FEW = 3
"""The largest number of names that are listed one by one if they differ only in numbers."""


def dead_entries(
    document: Mapping[str, object], modules: Collection[str], adapted: Collection[str]
) -> tuple[str, ...]:
    """Return one sentence for each field that holds entries which match nothing.

    Args:
        document: Content of an `adapter_config.json` with valid regular expressions.
        modules: Names of all modules of the model.
        adapted: Names of the weights that the configuration adapts: the name of the parameter for
            stacked experts, and otherwise the name of the module.
    """
    fields: dict[str, tuple[Callable[[str], bool], str]] = {
        "target_modules": (lambda entry: _targets(entry, adapted), "adapts nothing"),
        "target_parameters": (lambda entry: _parameter(entry, adapted), "adapts nothing"),
        "exclude_modules": (lambda entry: _ends_any(entry, modules), "excludes nothing"),
        "rank_pattern": (lambda entry: _keyed(entry, adapted), "sets no rank"),
        "alpha_pattern": (lambda entry: _keyed(entry, adapted), "sets no alpha"),
        "layers_to_transform": (lambda entry: _layer(entry, adapted), "adapts nothing"),
        "layers_pattern": (lambda entry: _blocks(entry, modules), "matches no blocks"),
        "modules_to_save": (lambda entry: _saved(entry, modules), "matches no module"),
    }
    return tuple(
        f"{field} {listed(dead)} {effect}"
        for field, (alive, effect) in fields.items()
        if (dead := [entry for entry in _entries(document.get(field)) if not alive(entry)])
    )


def _entries(value: object) -> Iterator[str]:
    """Yield the entries of a field: itself, those of a list, or the keys of a dictionary."""
    if isinstance(value, str | int) and not isinstance(value, bool):
        # A string is one pattern, which is marked to distinguish it from a name.
        yield f"/{value}/" if isinstance(value, str) else str(value)
    elif isinstance(value, Iterable):
        yield from (str(entry) for entry in value)


def _pattern(entry: str) -> str | None:
    return entry[1:-1] if len(entry) > 1 and entry[0] == entry[-1] == "/" else None


def _targets(entry: str, adapted: Collection[str]) -> bool:
    pattern = _pattern(entry)
    if pattern == "all-linear" or _ends_any(entry, adapted):
        return True
    # PEFT turns these names into the stacked experts of a model that has them.
    experts = any(re.search(r"(^|\.)experts\.", name) for name in adapted)
    return experts and entry.rpartition(".")[2] in CONVERTED_LEAVES


def _ends_any(entry: str, names: Iterable[str]) -> bool:
    pattern = _pattern(entry)
    if pattern is not None:
        return any(re.fullmatch(pattern, name) for name in names)
    return any(name == entry or name.endswith(f".{entry}") for name in names)


def _parameter(entry: str, adapted: Collection[str]) -> bool:
    return _ends_any(entry.removesuffix(".weight"), adapted)


def _keyed(entry: str, adapted: Iterable[str]) -> bool:
    regex = re.compile(rf"(?:.*\.)?(?:{entry})$")
    return any(regex.match(name) or regex.match(f"{name}.weight") for name in adapted)


def _layer(entry: str, adapted: Iterable[str]) -> bool:
    return any(re.match(rf".*?\.[^.]*\.{entry}\.", name) for name in adapted)


def _blocks(entry: str, modules: Iterable[str]) -> bool:
    word = _pattern(entry) or entry
    return any(re.match(rf"(?:^|.*?\.){word}\.\d+(\.|$)", name) for name in modules)


def _saved(entry: str, modules: Iterable[str]) -> bool:
    word = _pattern(entry) or entry
    return any(re.match(rf"(^|.*\.){word}($|\..*)", name) for name in modules)


def listed(entries: Iterable[str]) -> str:
    """Return the entries as text; of many that differ only in numbers, the first and the last."""
    groups: dict[str, list[str]] = defaultdict(list)
    for entry in dict.fromkeys(entries):
        groups[re.sub(r"\d+", "0", entry)].append(entry)
    words = []
    for alike in groups.values():
        shown = [repr(_pattern(entry) or entry) for entry in alike]
        many = len(shown) > _FEW
        words += [f"{shown[0]} to {shown[-1]} ({len(shown)} names)"] if many else shown
    return ", ".join(words)
