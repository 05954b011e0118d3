"""The text around an exported configuration: what it is, how to use it, what it lost. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from plop_lora.exports.narrow import Narrowed
from plop_lora.exports.target import Rendered, as_comments, as_yaml

_NO_WRAP = 10**6
"""YAML may fold a long string at spaces; a pattern is easier to check on one line."""


def comment_lines(narrowed: Narrowed, usage: str) -> str:
    """Return the head of a file as comment lines: origin, use, and every loss.

    Args:
        narrowed: what the file says.
        usage: how to use the file, in lines.
    """
    placement = narrowed.placement
    lines = [
        f"LoRA placement by plop-lora {placement.plop_version}: strategy {placement.strategy}, "
        f"{len(placement.sites)} adapters, {placement.trainable_parameters:,} parameters.",
        *usage.strip().splitlines(),
        *(f"Lost: {loss.what}: {loss.effect}." for loss in narrowed.losses),
    ]
    return as_comments(lines)


def rendered_yaml(narrowed: Narrowed, usage: str, fields: Mapping[str, object]) -> Rendered:
    """Return a commented YAML file with the fields in their order, and what it loses."""
    text = comment_lines(narrowed, usage) + as_yaml(fields, width=_NO_WRAP)
    return Rendered(text, narrowed.placement.trainable_parameters, narrowed.losses)
