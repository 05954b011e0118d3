"""A recipe to start from, with every key of the gate and its meaning. No torch."""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from plop_lora.recipe import GateRecipe
from plop_lora.recipe.template import explained

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
    lines = [*explained("task", recipe), *explained("eval", recipe)]
    for name in _WHOLE:
        lines += ["", *explained(name, recipe)]
    rest = {key: value for key, value in given.items() if key not in ("task", "eval", *_WHOLE)}
    text = "\n".join(lines) + "\n"
    return text + (f"\n{yaml.safe_dump(rest, allow_unicode=True)}" if rest else "")
