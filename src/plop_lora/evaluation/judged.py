"""What is judged, and what comes of it. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Row = Mapping[str, Any]
"""A prepared row: `prompt` and `completion`, or `messages`, or `text`, or what else its task reads.
Its other columns are kept and reach reward functions and metrics."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A model with its adapters in place, the only parameters that train, and its tokenizer.

    `notes` say what its result should tell of the weights.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Judged:
    """The outcome of every evaluation row by metric, and the metrics that are no mean over rows.

    `items` are in the order of the rows; the mean of one is its metric. `metrics` has all of them.
    `doubts` say why the outcome may tell nothing of the model.
    """

    items: Mapping[str, tuple[float, ...]]
    metrics: Mapping[str, float]
    doubts: tuple[str, ...] = ()

    @classmethod
    def of(cls, items: Mapping[str, tuple[float, ...]], doubts: tuple[str, ...] = ()) -> Judged:
        """Return an outcome all of whose metrics are means over rows."""
        means = {name: sum(values) / len(values) for name, values in items.items()}
        return cls(items, means, doubts)


# --------------------------------------------------------------------------- what a row asks


def prompt_text(row: Row) -> str:
    """Return what a prepared row asks, as one text; of a chat all but the last answer."""
    if "prompt" in row:
        return _flat(row["prompt"])
    if "messages" in row:
        return _flat(_asked(row["messages"]))
    return str(row["text"])


def answer_text(row: Row) -> str:
    """Return what a prepared row answers, as one text; empty where it is part of the prompt."""
    if "prompt" not in row and "messages" in row:
        return _flat(row["messages"][len(_asked(row["messages"])) :])
    return _flat(row.get("completion", row.get("label", "")))


def _asked(messages: Sequence[Mapping[str, object]]) -> Sequence[Mapping[str, object]]:
    last = messages[-1]["role"] == "assistant"
    return messages[:-1] if last else messages


def _flat(value: object) -> str:
    return "\n".join(_contents(value)) if isinstance(value, list) else str(value)


def _contents(messages: Sequence[Mapping[str, object]]) -> Iterator[str]:
    for message in messages:
        content = message.get("content")
        yield content if isinstance(content, str) else json.dumps(content, default=str)
