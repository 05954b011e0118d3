"""A section of a recipe as YAML that explains itself: every key with its description and value.

Imports PyYAML; no torch.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import yaml

from plop_lora.recipe.section import Section, field_of

_WIDTH = 96
_BELOW = "; the keys are listed below"
"""What a description says in the reference, where the keys of a section have a table."""


def explained(name: str, section: Section, indent: str = "") -> list[str]:
    """Return the lines of one key of a section: its description as a comment, and its value.

    Of several sections under names of the user's, the first one alone explains its keys.

    Args:
        name: Name of the key.
        section: Section that holds it.
        indent: Spaces before every line.
    """
    field, value = type(section).model_fields[name], getattr(section, name)
    about = _comment(field.description or "", indent)
    if isinstance(value, Section):
        return [*about, f"{indent}{name}:", *_keys(value, f"{indent}  ")]
    if isinstance(value, Mapping) and any(isinstance(entry, Section) for entry in value.values()):
        lines = [*about, f"{indent}{name}:"]
        for order, (key, entry) in enumerate(value.items()):
            inner = _keys(entry, f"{indent}    ")
            lines += [f"{indent}  {_plain(key)}:", *(_without_comments(inner) if order else inner)]
        return lines
    return [*about, f"{indent}{name}: {_plain(value)}"]


def commented(document: Mapping[str, Any], recipes: Sequence[type[Section]]) -> list[str]:
    """Return the lines of a recipe in which every key that is given has its description.

    Args:
        document: Values by key; a section is a mapping.
        recipes: Recipes of the verbs that read them.
    """
    lines: list[str] = []
    for name, value in document.items():
        recipe = next(one for one in recipes if name in one.model_fields)
        lines += [*_described(recipe, name, name, value, ""), ""]
    return lines[:-1]


def _described(recipe: type[Section], path: str, name: str, value: Any, indent: str) -> list[str]:
    about = _comment((field_of(recipe, path).description or "").replace(_BELOW, ""), indent)
    if not isinstance(value, Mapping):
        return [*about, f"{indent}{name}: {_plain(value)}"]
    inner = [
        line
        for key, entry in value.items()
        for line in _described(recipe, f"{path}.{key}", key, entry, f"{indent}  ")
    ]
    return [*about, f"{indent}{name}:", *inner]


def _keys(section: Section, indent: str) -> list[str]:
    return [line for key in type(section).model_fields for line in explained(key, section, indent)]


def _comment(text: str, indent: str) -> list[str]:
    mark = f"{indent}# "
    return textwrap.wrap(text, _WIDTH, initial_indent=mark, subsequent_indent=mark)


def _without_comments(lines: list[str]) -> list[str]:
    return [line for line in lines if not line.lstrip().startswith("#")]


def _plain(value: Any) -> str:
    """Return a value as one line of YAML."""
    plain = list(value) if isinstance(value, tuple) else value
    plain = str(plain) if isinstance(plain, StrEnum) else plain
    text = yaml.safe_dump(plain, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
