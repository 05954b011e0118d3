"""A recipe to start from, with every key of the gate and its meaning. No torch."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import yaml

from plop_lora.recipe import GateRecipe, Section

_WIDTH = 96
_START = {"eval": "eval.jsonl"}
_WHOLE = ("gate", "general")
"""Sections whose keys are all written; of the others, which belong to training, few matter."""


def recipe_template(given: Mapping[str, object]) -> str:
    """Return a recipe as YAML: every key with its description, and the default or given value.

    Args:
        given: Plain values by key, of which a mapping is a section.

    Raises:
        UsageError: A key is unknown or a value is out of range.
    """
    recipe = GateRecipe.of({**_START, **given}, {})
    lines = [*_written("task", recipe, ""), *_written("eval", recipe, "")]
    for name in _WHOLE:
        lines += ["", *_written(name, recipe, "")]
    rest = {key: value for key, value in given.items() if key not in ("task", "eval", *_WHOLE)}
    text = "\n".join(lines) + "\n"
    return text + (f"\n{yaml.safe_dump(rest, allow_unicode=True)}" if rest else "")


def _written(name: str, section: Section, indent: str) -> list[str]:
    field = type(section).model_fields[name]
    value = getattr(section, name)
    about = textwrap.wrap(
        field.description or "", _WIDTH, initial_indent=f"{indent}# ",
        subsequent_indent=f"{indent}# ",
    )  # fmt: skip
    if isinstance(value, Section):
        inner = (line for key in type(value).model_fields
                 for line in _written(key, value, f"{indent}  "))  # fmt: skip
        return [*about, f"{indent}{name}:", *inner]
    return [*about, f"{indent}{name}: {_plain(value)}"]


def _plain(value: Any) -> str:
    """Return a value as one line of YAML."""
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
