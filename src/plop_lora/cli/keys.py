"""Options that set keys of a recipe: their type, help and bounds are those of the recipe's field.

A verb lists the keys that have an option. Those marked as hidden are left out of the help, and
`--set key=value` sets any key.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
import yaml
from pydantic.fields import FieldInfo

from plop_lora.cli.words import RUN
from plop_lora.errors import UsageError, nearest
from plop_lora.recipe import Section, option_of
from plop_lora.recipe.section import field_of

Verb = Callable[..., Any]
Complete = Callable[[str], list[str]]
RENAMED = {"eval": "evaluation"}
"""Keys that are also names of Python, and the parameter that stands for each."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a recipe that has an option.

    Attributes:
        path: Path of the key, such as `training.rewards` for a key inside a section.
        panel: Panel of the help in which the option is listed.
        complete: Function that completes the value in a shell.
        hidden: Whether the help leaves the option out.
        former: Option of the former name of the key, which still sets it.
    """

    path: str
    panel: str
    complete: Complete | None = None
    hidden: bool = False
    former: str | None = None

    @property
    def option(self) -> str:
        """The option, `--rewards`."""
        return self.former or option_of(self.path)

    @property
    def parameter(self) -> str:
        """The name of the option in Python."""
        return RENAMED.get(self.path, self.option.removeprefix("--").replace("-", "_"))


def takes_recipe(
    recipe: type[Section], keys: Sequence[Key], *, example: str = "training.steps=200"
) -> Callable[[Verb], Verb]:
    """Give a verb the options of some keys, and `--set` for all.

    The verb is called with `given`, the values of the command line by key, where a section is a
    mapping.

    Args:
        recipe: Recipe to which the keys belong.
        keys: Keys that have an option, in the order of the help.
        example: Key and value with which the help shows `--set`.
    """

    def decorate(verb: Verb) -> Verb:
        own = inspect.signature(verb, eval_str=True)
        if "given" not in own.parameters:
            raise TypeError(f"{verb.__name__} takes no `given`")

        @functools.wraps(verb)
        def call(*arguments: Any, **options: Any) -> Any:
            values = [(key.path, options.pop(key.parameter, None)) for key in keys]
            document = _document(recipe, options.pop("settings", None) or ())
            for path, value in values:
                if value is not None and value is not False:  # 0 is a value
                    _put(document, path, _value(field_of(recipe, path), value))
            return verb(*arguments, given=document, **options)

        before = [p for p in own.parameters.values() if p.default is inspect.Parameter.empty]
        after = [p for p in own.parameters.values() if p not in before]
        made = [*(_parameter(recipe, key) for key in keys), _set_parameter(example)]
        call.__signature__ = own.replace(  # type: ignore[attr-defined]
            parameters=[p for p in (*before, *made, *after) if p.name != "given"]
        )
        call.__annotations__ = {
            p.name: p.annotation
            for p in call.__signature__.parameters.values()  # type: ignore[attr-defined]
        }
        return call

    return decorate


def _parameter(recipe: type[Section], key: Key) -> inspect.Parameter:
    field = field_of(recipe, key.path)
    kind = _kind(field.annotation)
    option = typer.Option(
        key.option,
        help=f"The former name of {option_of(key.path)}." if key.former else _help(field),
        rich_help_panel=key.panel,
        autocompletion=key.complete,
        hidden=key.hidden,
    )
    annotation = bool if kind is bool else kind | None
    return inspect.Parameter(
        key.parameter,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        default=False if kind is bool else None,
        annotation=Annotated[annotation, option],
    )


def _help(field: FieldInfo) -> str:
    """Return the description of a key, how a list is typed, and the default value."""
    text, default = field.description or "", field.default
    if _is_list(field.annotation):
        text = f"{text} Several are separated by commas."
    plain = isinstance(default, str | int | float) and not isinstance(default, bool)
    return f"{text} Default: {default}." if plain else text


def _kind(annotation: Any) -> type:
    """Return the type that typer should read; lists, and unions with a text, are read as text."""
    options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else ()
    kinds = [kind for kind in options or (annotation,) if kind is not types.NoneType]
    (kind,) = kinds if len(kinds) == 1 else (str,)
    return kind if kind in (bool, int, float) else str


def _is_list(annotation: Any) -> bool:
    return typing.get_origin(annotation) is tuple or any(
        typing.get_origin(kind) is tuple for kind in typing.get_args(annotation)
    )


def _value(field: FieldInfo, value: Any) -> Any:
    """Return a value of the command line as the recipe holds it.

    Lists are split at commas, and the escape for a line break in a template is replaced.
    """
    if not isinstance(value, str):
        return value
    if _is_list(field.annotation):
        return [word for part in value.split(",") if (word := part.strip())]
    return value.replace("\\n", "\n")


def _set_parameter(example: str) -> inspect.Parameter:
    option = typer.Option(
        "--set",
        help=f"Set any key of the recipe, such as --set {example}. Repeatable.",
        metavar="KEY=VALUE",
        rich_help_panel=RUN,
    )
    return inspect.Parameter(
        "settings",
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        default=None,
        annotation=Annotated[list[str] | None, option],
    )


def _document(recipe: type[Section], settings: Sequence[str]) -> dict[str, Any]:
    """Return the values given by `--set` as nested mappings.

    Raises:
        UsageError: An entry lacks a key or a value, a key occurs twice, or a value is not YAML.
    """
    document: dict[str, Any] = {}
    seen: set[str] = set()
    for setting in settings:
        key, equals, text = setting.partition("=")
        path = key.strip()
        if not (path and equals):
            raise UsageError(
                f"--set {setting!r} is not possible; give a key and its value, such as "
                f"--set training.steps=200.{nearest(path, recipe.model_fields)}"
            )
        if path in seen:
            raise UsageError(f"--set {path} was given twice; give one value.")
        seen.add(path)
        try:
            value = yaml.safe_load(text) if text.strip() else None
        except yaml.YAMLError as error:
            first = str(error).splitlines()[0]
            raise UsageError(f"--set {path}: {text!r} is not valid YAML ({first}).") from error
        _put(document, path, value)
    return document


def _put(document: dict[str, Any], path: str, value: Any) -> None:
    """Set the value of a key; `a.b.c` is the key c in the section b of the section a."""
    *sections, last = path.split(".")
    inside = document
    for name in sections:
        there = inside.setdefault(name, {})
        if not isinstance(there, dict):
            raise UsageError(
                f"--set {path} sets a key inside {name}, which was also set as a whole; give one."
            )
        inside = there
    inside[last] = value
