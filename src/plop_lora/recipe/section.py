"""A section of the user's YAML as a frozen model: how it is read, and how errors describe a key.

Imports pydantic and PyYAML; no torch.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from plop_lora.errors import UsageError, nearest
from plop_lora.records.wording import fault_at

THE_OPTIONS = "the options"
"""The name of the command line as a source of values; errors then name the option of a key."""


class Section(BaseModel):
    """Base class of the parts of a recipe, which are frozen and reject unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def of(cls, given: object, settings: Mapping[str, object]) -> Self:
        """Return a recipe from a recipe, a YAML file or nothing, updated with settings.

        Args:
            given: A recipe of this class, the path of a file, a mapping, or None.
            settings: Plain values by key, which take precedence. A mapping updates the section of
                that name.

        Raises:
            UsageError: `given` is not a recipe, or an error of `read` occurs.
        """
        if isinstance(given, cls):
            document = given.model_dump(mode="json")
            return cls.parse(_merged(document, settings), "the settings") if settings else given
        if given is None or isinstance(given, str | Path):
            return cls.read(given, settings, source="the settings")
        if isinstance(given, Mapping):
            document = _own_keys(cls, given, "the recipe")
            return cls.parse(_merged(document, settings), "the recipe")
        raise UsageError(
            f"A recipe is needed here, not an object of the class {type(given).__name__}. Give "
            f"a YAML file, {cls.__name__}.read(path), or the keys of one: task=, train=, eval=."
        )

    @classmethod
    def read(
        cls,
        path: str | Path | None = None,
        given: Mapping[str, object] | None = None,
        *,
        source: str = THE_OPTIONS,
    ) -> Self:
        """Read a YAML file and update it with the values in `given`.

        Args:
            path: Path of the file, or None to use the values of `given` alone.
            given: Plain values by key, which take precedence. A mapping updates the section of
                that name.
            source: Name of the values in `given`, used in errors.

        Raises:
            UsageError: The file does not exist or is not YAML, a key is unknown, or a value is out
                of range. The text names the key.
        """
        where = source if path is None else f"the recipe {path}"
        document = {} if path is None else _read_yaml(path)
        if isinstance(document, dict):
            document = _merged(_own_keys(cls, document, where), given or {})
        options = given if source == THE_OPTIONS else None
        return cls.parse(document, where, options)

    @classmethod
    def parse_own(cls, document: Mapping[str, Any], source: str) -> Self:
        """Build a recipe from the values of a file that may hold the keys of other verbs too.

        Raises:
            UsageError: A key is unknown or a value is out of range. The text names the key.
        """
        return cls.parse(_own_keys(cls, document, source), source)

    @classmethod
    def parse(
        cls, document: object, source: str, options: Mapping[str, object] | None = None
    ) -> Self:
        """Build a section from plain values.

        Args:
            document: Values by key.
            source: Name of the values, used in errors.
            options: Values that were set on the command line; errors about them name the option.

        Raises:
            UsageError: A key is unknown or a value is out of range. The text names the key.
        """
        if not isinstance(document, Mapping):
            raise UsageError(
                f"In {source} there are no keys with values, such as task: sft, but "
                f"{_kind(document)}."
            )
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            first = error.errors()[0]
            where = [str(part) for part in first["loc"]]
            raise UsageError(_fault(cls, where, first, source, options or {})) from error


class Recipe(Section):
    """The top level of a recipe for one verb; a file may hold the keys of the other verbs too."""


def _own_keys(section: type[Section], document: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the keys that a recipe reads, without those that only other verbs read.

    Raises:
        UsageError: No verb knows a key, or every verb that reads it rejects its value.
    """
    if not issubclass(section, Recipe):
        return dict(document)
    own = {key: value for key, value in document.items() if key in section.model_fields}
    for key, value in document.items():
        if key not in own:
            _check_of_others(key, value, source)
    return own


def _check_of_others(key: Any, value: Any, source: str) -> None:
    """Check a key of other verbs as they do, so that every verb reports an error in it."""
    recipes = Recipe.__subclasses__()
    readers = [recipe for recipe in recipes if key in recipe.model_fields]
    if not readers:
        known = list(dict.fromkeys(name for recipe in recipes for name in recipe.model_fields))
        raise UsageError(_unknown_key(str(key), str(key), known, source))
    faults = [_fault_of_value(recipe, key, value) for recipe in readers]
    if None not in faults:
        where = [str(part) for part in faults[0]["loc"]]
        raise UsageError(_fault(readers[0], where, faults[0], source, {}))


def _fault_of_value(recipe: type[Recipe], key: str, value: Any) -> Any:
    """Return the first fault that a recipe finds in the value of one key, or None."""
    try:
        recipe.model_validate({key: value})
    except ValidationError as error:
        return next((fault for fault in error.errors() if fault["loc"][0] == key), None)
    return None


RENAMED = {
    "price.hourly": "--price", "runner.kind": "--runner", "score.indicators": "--indicator",
}  # fmt: skip
"""Keys whose option is not named after the key."""
WITH_OPTION = frozenset({
    "train", "eval", "task", "evaluation.metric", "model", "revision", "budget", "rank", "top",
    "training.rewards", "prompt", "completion", "text", "label", "runner.workers", "arms",
    "seeds", "margin", "design", "decide_by", "quick", "placements", "trials", "hours",
    "score.max_length", "score.seed", "score.dtype", "score.revision", "score.gguf",
    "score.denominator", "score.stop", "score.tolerance", "score.top", "score.engine",
    "score.device", "score.ray_address", "score.batch_size", "place.strategy", "place.indicator",
    "place.top", "place.rank", "place.budget", "place.types", "place.learned", "place.layers",
    "place.scaling", "place.seed", "place.rslora", "place.loraplus_ratio", "place.init",
    "place.dropout",
    "score.include", "score.exclude", "score.token", "score.special_tokens",
    "score.trust_remote_code", "finetune.epochs", "finetune.learning_rate", "finetune.patience",
    "gate.against", "gate.base", "gate.checks", "acquire.licence", "run.adapter", *RENAMED,
})  # fmt: skip
"""Keys that have an option of their own. The others are set with `--set`."""
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


def _fault(
    section: type[Section],
    where: list[str],
    fault: Any,
    source: str,
    options: Mapping[str, object],
) -> str:
    """Return one sentence that says what is wrong with a key and what is allowed."""
    key = ".".join(where) or "top level"
    if fault["type"] in _UNKNOWN and where:
        return _unknown_key(key, where[-1], _keys(section, where[:-1]), source)
    if fault["type"] == "missing":
        return _missing(section, where, source)
    place = option_of(key) if _holds(options, where) else f"In {source}, {key}"
    return f"{fault_at(place, fault)}."


def _unknown_key(key: str, name: str, known: Sequence[str], source: str) -> str:
    return (
        f"In {source}, {key}: there is no such key.{nearest(name, known)} Keys: {', '.join(known)}."
    )


def _missing(section: type[Section], where: list[str], source: str) -> str:
    """Return a sentence that says what a missing key means and how to give it."""
    key = ".".join(where)
    field = getattr(_section(section, where[:-1]), "model_fields", {}).get(where[-1])
    text = field.description.rstrip(".") if field and field.description else ""
    what = f": {text[:1].lower()}{text[1:]}" if text else ""
    if source == THE_OPTIONS:
        return f"{option_of(key)} is needed{what}. Give it, or a recipe that has {key}."
    return f"In {source}, {key} is needed, but is not there{what}. Write it there."


def _holds(document: object, where: list[str]) -> bool:
    """Whether the value at a path of the merged document comes from this one."""
    for part in where:
        if not isinstance(document, Mapping):
            return document is not None
        if part not in document:
            return False
        document = document[part]
    return bool(where)


def _kind(value: object) -> str:
    return {str: "a text", list: "a list", int: "a number", float: "a number"}.get(
        type(value), f"a {type(value).__name__}"
    )


def field_of(recipe: type[Section], path: str) -> FieldInfo:
    """Return the field of a key, with its type, description and bounds."""
    first, _, rest = path.partition(".")
    field = recipe.model_fields[first]
    if not rest:
        return field
    inner: Any = field.annotation
    if hasattr(inner, "model_fields"):
        return field_of(inner, rest)
    hint = typing.get_type_hints(inner, include_extras=True)[rest]
    return FieldInfo.from_annotation(hint)


def option_of(key: str) -> str:
    """Return the option of the command line that sets a key, as errors name it.

    >>> option_of("price.hourly"), option_of("seeds"), option_of("training.steps")
    ('--price', '--seeds', '--set training.steps')
    """
    if key not in WITH_OPTION:
        return f"--set {key}"
    return RENAMED.get(key, f"--{key.rpartition('.')[2].replace('_', '-')}")


class _OneValueAKey(yaml.SafeLoader):
    """Loader that rejects duplicate keys, of which PyYAML would silently keep the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[object, object]:
        """Build a mapping and reject a key that occurs twice."""
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is not None and key in seen and key != "<<":
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key!r} occurs twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return dict(super().construct_mapping(node, deep=deep))


def _read_yaml(path: str | Path) -> object:
    try:
        return yaml.load(Path(path).read_bytes(), Loader=_OneValueAKey) or {}
    except FileNotFoundError as error:
        raise UsageError(
            f"Cannot read the recipe {path}: there is no such file. Give an existing file, or "
            "write one with: plop init MODEL TRAIN"
        ) from error
    except IsADirectoryError as error:
        raise UsageError(f"The recipe {path} is a folder. Give the YAML file in it.") from error
    except OSError as error:
        raise UsageError(
            f"Cannot read the recipe {path}: {(error.strerror or str(error)).lower()}. Give a "
            "YAML file."
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = "" if mark is None else f", line {mark.line + 1},"
        raise UsageError(
            f"The recipe {path}{line} is not valid YAML: {error.problem}. Write keys with "
            "values, such as task: sft."
        ) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UsageError(
            f"The recipe {path} is not YAML in UTF-8. Write keys with values, such as task: sft."
        ) from error


def read_document(path: str | Path, given: Mapping[str, object]) -> dict[str, Any]:
    """Return the values of a YAML file by key, updated with those in `given`.

    Raises:
        UsageError: The file does not exist, is not YAML, or holds no keys.
    """
    document = _read_yaml(path)
    if not isinstance(document, dict):
        raise UsageError(
            f"In the recipe {path} there are no keys with values, such as task: sft, but "
            f"{_kind(document)}."
        )
    return _merged(document, given)


def _merged(document: Mapping[str, object], given: Mapping[str, object]) -> dict[str, object]:
    """Return the document updated with values, section by section."""
    merged = dict(document)
    for key, value in given.items():
        old = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(old, Mapping)
        merged[key] = _merged(old, value) if both else value  # type: ignore[arg-type]
    return merged


def _keys(section: Any, path: list[str]) -> list[str]:
    """Return the keys of the section at `path` inside a section."""
    found = _section(section, path)
    return [f.name for f in fields(found)] if is_dataclass(found) else [*found.model_fields]


def _section(section: Any, path: list[str]) -> Any:
    """Return the section at `path` inside a section."""
    for part in path:
        held = typing.get_args(section)
        section = _entry(held) if held else section.model_fields[part].annotation
    return section


def _entry(held: tuple[Any, ...]) -> Any:
    """Return the kind of the entries of a list, `tuple[X, ...]`, or of a mapping."""
    return held[0] if held[-1] is ... else held[-1]


def one_of(word: str, allowed: tuple[str, ...]) -> str:
    """Return the word if it is allowed.

    Raises:
        ValueError: It is not. The text lists the allowed words.
    """
    if word not in allowed:
        raise ValueError(f"{word!r} is unknown; allowed: {', '.join(allowed)}")
    return word
