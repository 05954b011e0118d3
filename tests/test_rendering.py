"""What is trained, what is judged and what is asked are the template's rendering of the row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from finetunes import prepared, session, spec

from plop_lora.data.texts import UnreadableError, messages_of
from plop_lora.errors import DataError
from plop_lora.evaluation.chats import example_of, prompt_tokens, template_arguments
from plop_lora.evaluation.judged import Prepared
from plop_lora.evaluation.losses import judgeable
from plop_lora.recipe import VerifyRecipe
from plop_lora.study.rows import read_task_rows
from plop_lora.training.tasks import SFT, sft

TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}\n{% endif %}{% if style %}{{ style }}\n{% endif %}"
    "{% for message in messages %}{{ message['role'] }}:\n{{ message['content'] or '' }}"
    "{% for call in message.get('tool_calls') or [] %}{{ call | tojson }}{% endfor %}</s>\n"
    "{% endfor %}{% if add_generation_prompt %}assistant:\n{% endif %}"
)
TOOLS = [
    {"type": "function", "function": {"name": "sum", "parameters": {"a": {"type": "int"}}}},
    {"type": "function", "function": {"name": "find", "parameters": {"text": {"type": "str"}}}},
]
ASKED = [{"role": "user", "content": "How many is two and two?"}]


def called(name: str, **arguments: Any) -> list[dict[str, Any]]:
    """Return an answer that calls a tool."""
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return [{"role": "assistant", "content": "I look.", "tool_calls": [call]}]


ROWS: list[dict[str, Any]] = [
    {"messages": [*ASKED, *called("sum", a=2)], "tools": TOOLS},
    {"messages": [*ASKED, *called("find", text="two")], "chat_template_kwargs": {"style": "brief"}},
]


@pytest.fixture
def ready() -> Prepared:
    """The bundled model with a template that shows tools, a style and calls."""
    made = prepared()
    made.tokenizer.chat_template = TEMPLATE
    return made


def rendered(ready: Prepared, row: dict[str, Any], messages: list[Any], **more: Any) -> list[int]:
    """Return the tokens of the template applied to a row, by the tokenizer's own means alone."""
    text = ready.tokenizer.apply_chat_template(
        messages,
        tools=row.get("tools"),
        tokenize=False,
        **row.get("chat_template_kwargs", {}),
        **more,
    )
    return list(ready.tokenizer(text, add_special_tokens=False)["input_ids"])


def trained(ready: Prepared, rows: list[Any], folder: Path) -> set[tuple[int, ...]]:
    """Return the sequences that the model sees in one pass of training."""
    seen: set[tuple[int, ...]] = set()
    embedding = ready.model.get_input_embeddings()
    handle = embedding.register_forward_pre_hook(
        lambda _, args: seen.update(tuple(row) for row in args[0].tolist())
    )
    try:
        made = spec(steps=None, epochs=1.0, batch_size=1, max_length=512)
        sft.train(made, ready, rows, session(folder, batch_size=1)[0])
    finally:
        handle.remove()
    return seen


@pytest.mark.slow
def test_tools_and_arguments_reach_the_template(ready: Prepared, tmp_path: Path) -> None:
    """They stayed outside, and a table gave each call the other's arguments as nulls."""
    wanted = [tuple(rendered(ready, row, row["messages"])) for row in ROWS]
    assert [judgeable(row, ready.tokenizer, 512).tokens for row in ROWS] == wanted
    assert trained(ready, ROWS, tmp_path) == set(wanted)
    assert [SFT.tokens(row, ready.tokenizer) for row in ROWS] == wanted


@pytest.mark.slow
def test_an_answer_given_as_messages_is_what_is_learnt(ready: Prepared, tmp_path: Path) -> None:
    """Joined into one chat, the question was learnt and judged as much as the answer."""
    rows = [
        {**{key: value for key, value in row.items() if key != "messages"},
         "prompt": row["messages"][:1], "completion": row["messages"][1:]}
        for row in ROWS
    ]  # fmt: skip
    for row, chat in zip(rows, ROWS, strict=True):
        asked = rendered(ready, row, row["prompt"], add_generation_prompt=True)
        found = example_of(row, ready.tokenizer)
        assert list(found.tokens) == rendered(ready, row, chat["messages"])
        assert found.start == len(asked)
        assert prompt_tokens(row["prompt"], ready.tokenizer, template_arguments(row)) == asked
    assert trained(ready, rows, tmp_path) == {
        tuple(rendered(ready, row, row["messages"])) for row in ROWS
    }


def test_rows_of_a_file_keep_what_they_say(ready: Prepared, tmp_path: Path) -> None:
    """Parquet gives every call the keys of all; what a template is given has only the row's."""
    import pyarrow
    from pyarrow import parquet

    rows = [
        {"prompt": row["messages"][:1], "completion": row["messages"][1:], "tools": TOOLS}
        for row in ROWS
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    path = str(tmp_path / "rows.parquet")
    read = read_task_rows(SFT, VerifyRecipe(task="sft", train=path, eval=path), path).rows
    assert {"prompt", "completion"} <= set(read[0])
    for row, given in zip(read, rows, strict=True):
        assert example_of(row, ready.tokenizer) == example_of(given, ready.tokenizer)


def test_grpo_refuses_what_its_trainer_would_leave_out() -> None:
    """The trainer renders every prompt without the row's tools; judging would have them."""
    from plop_lora.training.tasks.grpo import check_prompts

    with pytest.raises(DataError, match="Row 1 gives its chat template tools"):
        check_prompts([{"prompt": ASKED, "tools": TOOLS}])
    check_prompts([{"prompt": "How many?", "tools": TOOLS}])


def test_tools_may_be_json_and_nothing_else(ready: Prepared) -> None:
    import json

    row = {**ROWS[0], "tools": json.dumps(TOOLS)}
    assert example_of(row, ready.tokenizer) == example_of(ROWS[0], ready.tokenizer)
    with pytest.raises(DataError, match="'tools' holds 'hammer'"):
        example_of({**ROWS[0], "tools": "hammer"}, ready.tokenizer)


class _Closing:
    """The bundled tokenizer as one that puts an end behind every text by itself."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def __call__(self, text: str, **settings: Any) -> dict[str, list[int]]:
        return {"input_ids": [*self.tokenizer(text, **settings)["input_ids"], 1]}


@pytest.mark.parametrize("row", [{"prompt": "a", "completion": " day"}, {"text": "a day"}])
def test_a_tokenizer_that_ends_texts_itself_ends_them_once(ready: Prepared, row: Any) -> None:
    """Two ends were learnt, the second of which no answer has."""
    plain = example_of(row, ready.tokenizer)
    assert example_of(row, _Closing(ready.tokenizer)) == plain
    assert plain.tokens.count(1) == 1


@pytest.mark.parametrize(
    "messages",
    [
        [
            {"from": "human", "value": "Who?"},
            {"from": "gpt", "value": "Me."},
        ],
        [
            {"role": "user", "content": [{"type": "text", "text": "Who?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "Me."}]},
        ],
    ],
    ids=["speakers", "parts"],
)
def test_chats_are_read_as_scoring_reads_them(messages: list[dict[str, Any]]) -> None:
    """`plop score` knew these forms, and `plop verify` refused them or printed their brackets."""
    assert messages_of(messages, "conversations") == [
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "Me."},
    ]


def test_a_part_that_is_no_text_is_refused() -> None:
    image = [{"role": "user", "content": [{"type": "image", "url": "a.png"}]}]
    with pytest.raises(UnreadableError, match="a part that is no text"):
        messages_of(image, "messages")
