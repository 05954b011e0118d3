"""The comments at the top of an exported file: its origin, its use and its losses. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from plop_lora.exports.narrow import Narrowed
from plop_lora.exports.target import Rendered, as_comments, as_yaml

_NO_WRAP = 10**6
"""YAML may fold a long string at spaces; a pattern is easier to check on one line."""


def comment_lines(narrowed: Narrowed, usage: str) -> str:
    """Return the comment lines at the top of a file: its origin, its use and every loss.

    Args:
        narrowed: Placement as the file expresses it, with the losses.
        usage: Text that says how to use the file.
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
    """Return a commented YAML file with the fields in their order, and its losses."""
    text = comment_lines(narrowed, usage) + as_yaml(fields, width=_NO_WRAP)
    return Rendered(text, narrowed.placement.trainable_parameters, narrowed.losses)
