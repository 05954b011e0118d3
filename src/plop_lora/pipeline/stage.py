"""A stage of the pipeline: a function of a part of the recipe and of what earlier stages made.

A stage is identified by a key, the SHA-256 of everything that its result depends on: its name and
version, its part of the recipe, the content of the files and of the model that it reads, and the
keys of the stages before it. The same key means the same result, so a stage whose key is known is
not run again. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plop_lora.pipeline.asked import RunRecipe
from plop_lora.records.run import StageEstimate, StageOutcome
from plop_lora.training.runners.events import Watch

_LETTERS = 12
"""Characters of a key in the name of a folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a stage is given to work with.

    Attributes:
        recipe: Recipe of the run.
        folder: Folder of this stage, which may hold what a killed run of it has left.
        scratch: Folder for what outlives the key of the stage, such as the trials of a study that
            goes on with more seeds.
        made: Name of an earlier stage → its folder.
        watch: Function that is told of every trial that starts or ends.
    """

    recipe: RunRecipe
    folder: Path
    scratch: Path
    made: Mapping[str, Path]
    watch: Watch


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A step from the recipe and earlier results to files in a folder.

    Attributes:
        name: Name, that of the verb.
        version: Number that is raised when the stage computes something else than before.
        needs: Names of the stages whose results it reads.
        deciding: Function from the recipe to the plain values that the result depends on.
        inputs: Function from the recipe to the digest of everything that is read from outside the
            run, by name. It raises what is wrong with them before anything runs.
        work: Function that writes the result, and goes on with what is left of an earlier run.
        outcome: Function from the folder of the finished stage to what it says.
        result: Name of the file of its record.
        estimate: Function that returns what the stage would take, without running anything; None
            where that is unknown. Only a plan calls it, once the stages are done whose results it
            reads.
        refresh: Function that looks again at what may have changed elsewhere, such as a branch on
            the hub. It is called before the keys are computed where the stage is to be made again
            on request; otherwise a run keeps to what it has seen.
    """

    name: str
    version: int
    needs: tuple[str, ...]
    deciding: Callable[[RunRecipe], Mapping[str, object]]
    inputs: Callable[[RunRecipe], Mapping[str, str | None]]
    work: Callable[[Work], None]
    outcome: Callable[[Path], StageOutcome]
    result: str
    estimate: Callable[[Work], StageEstimate | None] = lambda work: None
    refresh: Callable[[RunRecipe], None] = lambda recipe: None

    def configuration(self, recipe: RunRecipe, keys: Mapping[str, str]) -> dict[str, Any]:
        """Return everything that the result depends on, as plain values.

        Args:
            recipe: Recipe of the run.
            keys: Name of an earlier stage → its key.
        """
        document = {
            "stage": self.name,
            "version": self.version,
            "recipe": self.deciding(recipe),
            "inputs": self.inputs(recipe),
            "needs": {name: keys[name] for name in self.needs},
        }
        plain: dict[str, Any] = json.loads(json.dumps(document, sort_keys=True))
        return plain


def key_of(configuration: Mapping[str, Any]) -> str:
    """Return the key of a stage with this configuration."""
    text = json.dumps(configuration, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def folder_of(stage: str, key: str) -> Path:
    """Return the folder of a stage, relative to that of the run."""
    return Path("stages") / f"{stage}-{key[:_LETTERS]}"
