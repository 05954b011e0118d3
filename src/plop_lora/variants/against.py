"""Other checkpoints of the family: saved scores, models, and adapters to merge."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from plop_lora.errors import UsageError
from plop_lora.exports.adapters import CONFIG_FILE, read_adapter
from plop_lora.models.folders import CONFIG, expanded, model_name
from plop_lora.models.gguf import locate
from plop_lora.records import Scores
from plop_lora.variants.sample import eligible_types

SUFFIX = ".json"


@dataclass(frozen=True, slots=True)
class Rival:
    """Another checkpoint: its name, and its scores where they were saved.

    An adapter is the checkpoint that merging it makes.
    """

    name: str
    scores: Scores | None = None
    is_adapter: bool = False

    def check(self, types: AbstractSet[str], model: str) -> None:
        """Compare the module types of saved scores with those of the model.

        Raises:
            UsageError: They are not the same.
        """
        if self.scores is None:
            return
        own = set(eligible_types(self.scores))
        if not own <= types:
            raise UsageError(
                f"{self.name} has scores of {', '.join(sorted(own))}, and {model} has the module "
                f"types {', '.join(sorted(types))}. Give --against a checkpoint of the same "
                "architecture, or its scores."
            )


def rivals_of(given: Sequence[str | Path | Scores]) -> list[Rival]:
    """Return other checkpoints; scores are read, and adapters and names of models are checked.

    Raises:
        RecordError: A file of scores cannot be read.
        ModelError: A name is that of no model.
        AdapterError: An adapter is damaged.
    """
    return [_rival(one) for one in given]


def _rival(given: str | Path | Scores) -> Rival:
    if isinstance(given, Scores):
        return Rival(f"scores of {given.model.name}", given)
    if Path(given).suffix.lower() == SUFFIX and not Path(given).is_dir():
        return Rival(str(given), Scores.load(expanded(str(given))))
    path = Path(expanded(str(given)))
    if (path / CONFIG_FILE).is_file() and not (path / CONFIG).is_file():
        read_adapter(path)
        return Rival(str(given), is_adapter=True)
    folder, gguf = locate(str(given), None)
    model_name(folder, gguf=gguf)
    return Rival(str(given))
