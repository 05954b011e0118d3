"""Rows as tokens, and chats as their template renders them: one way for training and judging.

What a row gives its template beside the messages, `tools` and `chat_template_kwargs`, reaches it
wherever the row is rendered. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plop_lora.data.texts import UnreadableError, template_value
from plop_lora.errors import DataError, ModelError
from plop_lora.evaluation.judged import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOOLS, ARGUMENTS = "tools", "chat_template_kwargs"
"""Columns that a row gives its template."""
KINDS = (("prompt", "completion"), ("messages",), ("text",))
"""Columns of each kind of row, in the order in which they are looked for."""


def columns_kept(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the columns that rows are trained on; all must have those of the first.

    Raises:
        DataError: There are no rows, or a row lacks one of the columns.
    """
    if not rows:
        raise DataError("There are no rows to train on or to judge by. Give a file with some.")
    kept = next((kind for kind in KINDS if all(rows[0].get(c) is not None for c in kind)), None)
    if kept is None:
        raise DataError(
            f"Row 1 has the columns {', '.join(rows[0])}; the task sft needs prompt and "
            "completion, or messages, or text."
        )
    for number, row in enumerate(rows, start=1):
        absent = [column for column in kept if row.get(column) is None]
        if absent:
            raise DataError(
                f"Row {number} has no {absent[0]!r}, which row 1 has. All rows of a trial must be "
                "of one kind."
            )
    return kept


@dataclass(frozen=True, slots=True)
class Example:
    """A tokenised row.

    Attributes:
        tokens: Token numbers of the whole row.
        start: Index of the first token that is learnt and judged; so are all after it.
    """

    tokens: tuple[int, ...]
    start: int


def example_of(row: Row, tokenizer: PreTrainedTokenizerBase) -> Example:
    """Tokenise a row of sft: a prompt with its completion, as texts or as messages, a chat, a text.

    A text ends with the end-of-sequence token, once, and a chat as its template ends it. Of a
    prompt and its completion the completion is learnt, of a chat or a text everything.

    Raises:
        DataError: The row has `tools` or `chat_template_kwargs` that no template can take.
        ModelError: It is a chat, but the tokenizer has no chat template.
    """
    if row.get("prompt") is not None:
        prompt = prompt_tokens(row["prompt"], tokenizer, template_arguments(row))
        whole = _whole(row, tokenizer)
        # A token can reach across the border; the completion starts where the two part.
        pairs = zip(prompt, whole, strict=False)
        start = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(prompt), len(whole)))
        return Example(tuple(whole), start)
    if row.get("messages") is not None:
        return Example(tuple(chat_tokens(row["messages"], tokenizer, template_arguments(row))), 0)
    return Example(tuple(_closed(row["text"], tokenizer)), 0)


def _whole(row: Row, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, str):
        return _closed(prompt + completion, tokenizer)
    return chat_tokens([*prompt, *completion], tokenizer, template_arguments(row))


def _closed(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens of a text with one end-of-sequence token at its end."""
    tokens = _tokens(text, tokenizer)
    end = tokenizer.eos_token
    if not end or text.endswith(end) or tokens[-1:] == [tokenizer.eos_token_id]:
        return tokens
    # As one text, since the end may stand before a separator that the tokenizer adds.
    return _tokens(text + end, tokenizer)


def _tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return list(tokenizer(text, verbose=False)["input_ids"])


def prompt_tokens(
    prompt: Any, tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any] | None = None
) -> list[int]:
    """Return the tokens of a prompt, a text or a chat that waits for its answer.

    Args:
        prompt: The text, or the messages.
        tokenizer: The tokenizer, with a template where the prompt is a chat.
        arguments: What the row gives its template; see `template_arguments`.

    Raises:
        ModelError: It is a chat, but the tokenizer has no chat template.
    """
    if not isinstance(prompt, str):
        return chat_tokens(prompt, tokenizer, arguments, waiting=True)
    tokens = _tokens(prompt, tokenizer)
    # Some tokenizers close every text; a prompt has to stay open.
    if tokens and tokens[-1] == tokenizer.eos_token_id and not prompt.endswith(tokenizer.eos_token):
        tokens.pop()
    return tokens


# --------------------------------------------------------------------------- chats


def chat_tokens(
    messages: Sequence[object],
    tokenizer: PreTrainedTokenizerBase,
    arguments: Mapping[str, object] | None = None,
    *,
    waiting: bool = False,
) -> list[int]:
    """Return the tokens of a chat; `waiting` adds the beginning of the assistant's turn.

    Raises:
        ModelError: The tokenizer has no chat template.
    """
    if not tokenizer.chat_template:
        raise ModelError(
            f"The rows are chats, but the tokenizer ({type(tokenizer).__name__}) has no chat "
            "template. Give prompt and completion as plain text, or an instruct model."
        )
    given = tokenizer.apply_chat_template(
        list(messages),
        add_generation_prompt=waiting,
        tokenize=True,
        return_dict=True,
        **(arguments or {}),
    )
    return list(given["input_ids"])


@dataclass(frozen=True, slots=True)
class Ends:
    """What ends an answer beside the end-of-sequence token.

    Attributes:
        tokens: Token numbers that end an answer wherever they come.
        texts: Texts that end an answer wherever they come.
    """

    tokens: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()


def before_ends(text: str, ends: Sequence[str]) -> str:
    """Return a text up to the first of the texts that end an answer.

    >>> before_ends("5. User: and 6?", ["User:", "."])
    '5'
    """
    return text[: min((place for end in ends if (place := text.find(end)) >= 0), default=None)]


def ends_of_turns(
    tokenizer: PreTrainedTokenizerBase, references: Sequence[str] | None = None
) -> Ends:
    """Return what a chat template writes after an answer, which a model learns to write there.

    A special token ends the answer wherever it comes. Plain text does so where no right answer
    holds it: a template that only breaks the line would cut every answer of several lines. What
    it writes up to the next question ends an answer in any case.

    Args:
        tokenizer: The tokenizer, with its template.
        references: The right answers, if they are known.
    """
    asked, answered, again = ({"role": role, "content": text} for role, text in _TURNS)
    after = _after_answer(tokenizer, [asked, answered], None)
    ids = tokenizer(after, add_special_tokens=False)["input_ids"] if after else []
    special = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", ())}
    token = next((number for number in ids if number in special), None)
    if token is not None:
        return Ends(tokens=(token,))
    texts = []
    if after.strip() or (references and not any(after in text.strip() for text in references)):
        texts.append(after)
    onwards = _after_answer(tokenizer, [asked, answered, again], again["content"])
    if onwards.strip():
        texts.append(onwards)
    return Ends(texts=tuple(filter(None, texts)))


_TURNS = (("user", "plopfirst"), ("assistant", "plopanswer"), ("user", "plopsecond"))
"""Turns whose words no template writes by itself."""


def _after_answer(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], until: str | None
) -> str:
    """Return what stands after the answer of a rendered chat, up to a text; "" if it is unknown."""
    try:
        text = str(tokenizer.apply_chat_template(messages, tokenize=False))
    except Exception:  # templates are programs and raise what they like
        return ""
    _, found, rest = text.rpartition(messages[1]["content"])
    if until is not None:
        rest, found, _ = rest.partition(until)
    return rest if found else ""


def template_arguments(row: Row) -> dict[str, Any]:
    """Return what a row gives its chat template beside the messages.

    Raises:
        DataError: `tools` is no list, or `chat_template_kwargs` is no object, nor the JSON of one.
    """
    arguments = _value(row, ARGUMENTS, dict)
    tools = _value(row, TOOLS, list)
    return {**(arguments or {}), **({TOOLS: tools} if tools else {})}


def _value(row: Row, name: str, kind: type) -> Any:
    try:
        return template_value(row, name, kind)
    except UnreadableError as error:
        raise DataError(f"In a chat, {error}") from error
