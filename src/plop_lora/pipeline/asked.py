"""What a run was asked for: one recipe, from which every stage reads its own keys.

Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import yaml

from plop_lora.errors import UsageError
from plop_lora.files import atomic_file
from plop_lora.recipe import Price, RunKeys, RunSettings
from plop_lora.recipe.section import Section, read_document

S = TypeVar("S", bound=Section)


@dataclass(frozen=True)
class RunRecipe:
    """The values of a recipe by key, which the stages read section by section.

    Attributes:
        document: Plain values by key, options of the command line included.
        source: Name of the recipe, for errors.
    """

    document: Mapping[str, Any]
    source: str

    @classmethod
    def read(cls, path: str | Path, given: Mapping[str, object] | None = None) -> RunRecipe:
        """Read a YAML file and update it with the values in `given`.

        Raises:
            UsageError: The file does not exist or is not YAML, or `model` is missing.
        """
        document = read_document(path, given or {})
        source = f"the recipe {path}"
        if not isinstance(document.get("model"), str):
            raise UsageError(
                f"In {source}, model is needed, but is not there: the hub id of the model, or its "
                "folder. Write it there, or write a new recipe with: plop init MODEL TRAIN"
            )
        return cls(document, source)

    @property
    def model(self) -> str:
        """Hub id or folder of the model."""
        return str(self.document["model"])

    @cached_property
    def run(self) -> RunSettings:
        """The keys of the section `run`."""
        return self.section(RunKeys).run

    def section(self, kind: type[S], **values: object) -> S:
        """Return the keys that a verb reads.

        Args:
            kind: Recipe of the verb.
            values: Values that take precedence over the document.

        Raises:
            UsageError: A key is unknown or a value is out of range. The text names the key.
        """
        return kind.parse_own({**self.document, **values}, self.source)

    @property
    def price(self) -> Price:
        """The price of a device."""
        return Price.parse(self.document.get("price") or {}, self.source)

    def write(self, path: Path) -> None:
        """Write the values as YAML.

        Raises:
            OutputError: The file cannot be written.
        """
        with atomic_file(path) as file:
            yaml.safe_dump(dict(self.document), file, sort_keys=False, allow_unicode=True)

    def digest(self) -> str:
        """Return the SHA-256 of the document."""
        text = json.dumps(self.document, sort_keys=True, ensure_ascii=False, default=str)
        return hashlib.sha256(text.encode()).hexdigest()
