"""The JSON schema of a recipe, for editors: one document for the keys of all verbs.

Imports pydantic; no torch.
"""

from __future__ import annotations

from typing import Annotated, Any, Union

from pydantic import Field, create_model
from pydantic.fields import FieldInfo

from plop_lora.recipe.section import Recipe

_TITLE = "A recipe of plop-lora"


def recipe_schema() -> dict[str, Any]:
    """Return the schema of a file that may hold the keys of every verb.

    No key is required, because each verb demands others; a key that no verb knows is an error.
    """
    fields: dict[str, list[FieldInfo]] = {}
    for recipe in Recipe.__subclasses__():
        for name, field in recipe.model_fields.items():
            fields.setdefault(name, []).append(field)
    keys: Any = {name: (_any_of(found), _described(found[0])) for name, found in fields.items()}
    made = create_model("Recipe", **keys)
    schema = made.model_json_schema()
    schema.pop("required", None)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": _TITLE,
        "additionalProperties": False,
    }


def _any_of(fields: list[FieldInfo]) -> Any:
    """Return the type of a key that verbs read: what any of them takes, or nothing."""
    kinds = {
        repr((field.annotation, field.metadata)): (
            Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        )
        for field in fields
    }
    return Union[*kinds.values(), None]


def _described(field: FieldInfo) -> Any:
    return Field(None, description=field.description)
