"""What every export has in common: a target renders a placement, and says what it loses.

Pure; imports neither torch nor any trainer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from plop_lora.records import Placement


@dataclass(frozen=True, slots=True)
class Loss:
    """Something of the placement that a trainer's file cannot say, and what that changes."""

    what: str
    effect: str


@dataclass(frozen=True, slots=True)
class Rendered:
    """A trainer's file: its text, what it loses, and how many parameters it would train.

    `trainable_parameters` equals the placement's where nothing about modules or ranks is lost.
    """

    text: str
    trainable_parameters: int
    losses: tuple[Loss, ...] = ()


@dataclass(frozen=True, slots=True)
class Target:
    """One row of the registry of exports.

    Attributes:
        name: what `--to` takes.
        file_name: the file that is written into the folder.
        render: from a placement to the file's text; pure.
        check: applies a rendered file with the real library and reads it back, or None where
            that library cannot be installed beside us; raises ExportError.
        description: what to do with it, one sentence; `{file}` and `{folder}` are filled in.
        source: where the format is documented.
        read_by: the library that `check` applies, where it is not the trainer itself.
    """

    name: str
    file_name: str
    render: Callable[[Placement], Rendered]
    check: Callable[[Placement, Rendered], None] | None
    description: str
    source: str
    read_by: str | None = None
