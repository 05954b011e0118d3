"""Rows that a model is judged on, the model itself, and the outcome. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Row = Mapping[str, Any]
"""A prepared row: `prompt` and `completion`, or `messages`, or `text`, or what its task reads.
All other columns are kept, and reach reward functions and metrics."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A model that is ready to be trained or judged.

    Attributes:
        model: The model with its adapters, which are its only trainable parameters.
        tokenizer: The model's tokenizer.
        notes: Sentences about the weights that the result repeats for the reader.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Judged:
    """The outcome of an evaluation.

    Attributes:
        items: For each metric that is a mean over rows, the outcome of every row in their order.
        metrics: Value of every metric, those that are no mean over rows included.
        doubts: Reasons why the outcome may say nothing about the model.
        notes: What a reader should know about how it was judged.
        general_tokens: Number of tokens of each general text, where these were judged.
        answers: Generated answer to every row, where some were generated.
    """

    items: Mapping[str, tuple[float, ...]]
    metrics: Mapping[str, float]
    doubts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    general_tokens: tuple[int, ...] = ()
    answers: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        items: Mapping[str, tuple[float, ...]],
        doubts: tuple[str, ...] = (),
        notes: tuple[str, ...] = (),
        answers: tuple[str, ...] = (),
    ) -> Judged:
        """Return an outcome all of whose metrics are means over rows."""
        means = {name: sum(values) / len(values) for name, values in items.items()}
        return cls(items, means, doubts, notes, answers=answers)


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
