"""What every export has in common: a target renders a placement, and says what it loses.

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

    Names and notes of a record stand in them, so a line break inside one is written as an escape:
    as it is, it would end the comment, and what follows would be read as configuration or code.
    """
    return "".join(f"# {escaped(line)}\n" for line in lines)


def check_placed(placement: Placement) -> None:
    """Refuse a placement without an adapter, of which no trainer can make anything.

    Raises:
        ExportError: it has none.
    """
    if not placement.sites:
        raise ExportError(
            f"This placement of {placement.model.name} holds no adapter, so there is nothing to "
            "export. Make one with: plop place scores.json -o placement.json"
        )


def as_yaml(fields: Mapping[str, object], *, width: int) -> str:
    """Return fields as YAML in their order.

    Args:
        fields: plain values.
        width: column at which a long text may be folded.
    """
    return yaml.dump(
        dict(fields), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=width,
        default_flow_style=False,
    )  # fmt: skip


class _Dumper(yaml.SafeDumper):
    """Writes a text with acting characters in double quotes, the one style that escapes them all.

    In single quotes PyYAML keeps U+0085 and U+2028 as they are, which are line breaks when read.
    """


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if acting(text) is None else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


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
        check: reads a rendered file back on the model's skeleton: with the real library, or, where
            that cannot be installed beside us, by its rules; raises ExportError.
        description: what to do with it, one sentence; `{file}` and `{folder}` are filled in.
        source: where the format is documented.
        read_by: by what `check` reads, where it is not the trainer itself: `from peft`, or `by the
            rules of` a trainer.
    """

    name: str
    file_name: str
    render: Callable[[Placement], Rendered]
    check: Callable[[Placement, Rendered], None]
    description: str
    source: str
    read_by: str | None = None
