"""What all exports share: a target renders a placement as a file and reports the losses.

Pure; imports neither torch nor any trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import yaml

from plop_lora.errors import ExportError
from plop_lora.escapes import acting, escaped
from plop_lora.records import Placement


def as_comments(lines: Iterable[str]) -> str:
    """Return lines as comments of YAML or Python, which end where the line ends.

    Comments contain names and notes of a record. A line break inside one is written as an escape,
    because it would end the comment and the rest would be read as configuration or code.
    """
    return "".join(f"# {escaped(line)}\n" for line in lines)


def check_placed(placement: Placement) -> None:
    """Check that a placement has at least one adapter.

    Raises:
        ExportError: It has none.
    """
    if not placement.sites:
        raise ExportError(
            f"This placement of {placement.model.name} holds no adapter, so there is nothing to "
            "export. Make one with: plop place scores.json -o placement.json"
        )


def as_yaml(fields: Mapping[str, object], *, width: int) -> str:
    """Return fields as YAML in their order.

    Args:
        fields: Plain values by name.
        width: Column at which a long text may be folded.
    """
    return yaml.dump(
        dict(fields), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=width,
        default_flow_style=False,
    )  # fmt: skip


class _Dumper(yaml.SafeDumper):
    """Dumper that writes texts with control characters in double quotes, which escape them all.

    In single quotes PyYAML keeps U+0085 and U+2028, which YAML reads as line breaks.
    """


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if acting(text) is None else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


@dataclass(frozen=True, slots=True)
class Loss:
    """A part of the placement that a trainer's file cannot express, and the effect of that."""

    what: str
    effect: str


@dataclass(frozen=True, slots=True)
class Rendered:
    """A trainer's file: its text, its losses and the number of parameters that it would train.

    `trainable_parameters` is that of the placement unless modules or ranks are lost.
    """

    text: str
    trainable_parameters: int
    losses: tuple[Loss, ...] = ()


@dataclass(frozen=True, slots=True)
class Target:
    """One row of the registry of exports.

    Attributes:
        name: Value of `--to`.
        file_name: Name of the file that is written into the folder.
        render: Pure function from a placement to the file's text.
        check: Function that checks a rendered file on the model's architecture: with the real
            library, or by its rules if it cannot be installed beside plop-lora. It raises
            ExportError.
        description: One sentence on how to use the file; `{file}` and `{folder}` are filled in.
        source: Where the format is documented.
        read_by: How `check` reads the file, if not with the trainer itself: `from peft`, or `by
            the rules of` a trainer.
    """

    name: str
    file_name: str
    render: Callable[[Placement], Rendered]
    check: Callable[[Placement, Rendered], None]
    description: str
    source: str
    read_by: str | None = None
