"""The text of a row by which rows are compared: what is asked, and what is answered.

Fields are recognised as they are for scoring. Of a template the values count and not the words
between them, and of a chat the messages without the system's: what every row has in common would
make rows look alike. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plop_lora.acquisition.ngrams import normalised
from plop_lora.data.fields import LABELS
from plop_lora.data.reading import Row
from plop_lora.data.recognising import Fields, Reader, demand_fields, fields_of, reader_of
from plop_lora.data.texts import UnreadableError, as_chat, field_names
from plop_lora.errors import DataError, UsageError
from plop_lora.recipe import AcquireRecipe

CLASSIFY = "classify"


@dataclass(frozen=True, slots=True)
class Passage:
    """The text of a row, normalised.

    Attributes:
        asked: What is asked, or all of the text where nothing is answered.
        answered: What is answered; empty where nothing is.
        label: Class of the row; None where it has none.
    """

    asked: str
    answered: str = ""
    label: str | None = None

    @property
    def whole(self) -> str:
        """All of the text."""
        return f"{self.asked}\n{self.answered}" if self.answered else self.asked


@dataclass(frozen=True, slots=True, eq=False)
class Passages:
    """The text of every row of a source, None where a row has none, and the fields it is in."""

    items: tuple[Passage | None, ...]
    fields: str


def passages_of(rows: Sequence[Row], source: str, recipe: AcquireRecipe) -> Passages:
    """Return the text of every row.

    Raises:
        DataError: There are no rows, a field is missing or cannot be told, or a field of a row
            holds no text. The text names the row by its number and does not show its values.
        UsageError: The keys that name fields exclude each other, or a template cannot be read.
    """
    if not rows:
        raise DataError(f"{source} holds no rows. Give a file with some hundreds.")
    fields = fields_of(rows)
    whole = _reader(fields, source, recipe, _template(recipe.prompt, recipe.completion))
    asked = None
    if recipe.prompt is not None and recipe.completion is not None:
        asked = _reader(fields, source, recipe, _template(recipe.prompt))
    label = _label_field(fields, source, recipe)
    names = whole.field if recipe.prompt is None else _named(recipe)
    items = []
    for number, row in enumerate(rows, start=1):
        try:
            items.append(_passage(row, whole, asked, label))
        except UnreadableError:
            # The error that is caught shows the value, which may be personal.
            raise DataError(
                f"{source}, row {number}: {names} holds something else than text or messages. Name "
                "another field with --text, or reach inside it with --prompt and --completion, "
                'such as "{field[key]}".'
            ) from None
    return Passages(tuple(items), names)


def _reader(fields: Fields, source: str, recipe: AcquireRecipe, template: str | None) -> Reader:
    return reader_of(fields, source, recipe.text, template, _said, option="--prompt")


def _template(*templates: str | None) -> str | None:
    """Return the fields of some templates, each on a line, as one template."""
    given = [template for template in templates if template is not None]
    if not given:
        return None
    if None in templates and templates[0] is None:
        raise UsageError("--completion answers a --prompt. Give both, or the prompt alone.")
    names = dict.fromkeys(name for template in given for name in field_names(template))
    return "\n".join(f"{{{name}}}" for name in names)


def _named(recipe: AcquireRecipe) -> str:
    templates = [text for text in (recipe.prompt, recipe.completion) if text is not None]
    return ", ".join(dict.fromkeys(name for text in templates for name in field_names(text)))


def _label_field(fields: Fields, source: str, recipe: AcquireRecipe) -> str | None:
    """Return the field of the classes, which the task classify needs and others have no use for."""
    if recipe.label is not None:
        demand_fields([recipe.label], fields.names, source)
        return recipe.label
    if recipe.task != CLASSIFY:
        return None
    found = next((name for name in LABELS if name in fields.names), None)
    if found is None:
        raise DataError(
            f"{source} has no field with the class of a row; it has: {', '.join(fields.names)}. "
            "Name it with --label."
        )
    return found


def _passage(row: Row, whole: Reader, asked: Reader | None, label: str | None) -> Passage | None:
    document = whole.read(row)
    if document is None:
        return None
    known = None if label is None else str(row.get(label))
    if document.rendered:
        return _of_chat(row, whole.field, known)
    if asked is not None:
        first = asked.read(row)
        question = "" if first is None else first.text
        return Passage(normalised(question), normalised(document.text[len(question) :]), known)
    return _filled(normalised(document.text), normalised(document.target or ""), known)


def _of_chat(row: Row, field: str, label: str | None) -> Passage | None:
    """Return a chat: its last message answers what stands before it."""
    messages = [message for name in field.split(", ") for message in as_chat(row.get(name)) or ()]
    last = messages.pop() if len(messages) > 1 and messages[-1]["role"] == "assistant" else None
    answered = "" if last is None else normalised(_said([last]))
    return _filled(normalised(_said(messages)), answered, label)


def _filled(asked: str, answered: str, label: str | None) -> Passage | None:
    return Passage(asked, answered, label) if asked or answered else None


def _said(messages: Sequence[Mapping[str, Any]], tools: object = None) -> str:
    """Return what the messages of a chat say, in place of a chat template."""
    said = []
    for message in messages:
        content = message.get("content")
        if message.get("role") == "system" or not content:
            continue
        parts = content if isinstance(content, list) else [content]
        said += [str(part.get("text", "") if isinstance(part, dict) else part) for part in parts]
    return "\n".join(said) or " "
