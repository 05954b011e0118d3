"""Where a generated answer ends: at what its template writes after an answer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from finetunes import prepared, spec
from torch.nn import functional

from plop_lora.evaluation.chats import Ends, ends_of_turns
from plop_lora.evaluation.judged import Prepared
from plop_lora.training.tasks import task_named

BUNDLED = None
SPECIAL = (
    "{% for message in messages %}{{ message['role'] }}:\n{{ message['content'] }}<s>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:\n{% endif %}"
)
MARKED = SPECIAL.replace("<s>", " [end]")


@pytest.fixture(scope="module")
def model() -> Prepared:
    return prepared()


@contextlib.contextmanager
def memorised(ready: Prepared, text: str) -> Iterator[None]:
    """Let the model say a text as if it had learnt it, and go on with something else."""
    script = ready.tokenizer(text, add_special_tokens=False)["input_ids"]
    script += ready.tokenizer(" many many many many", add_special_tokens=False)["input_ids"]
    said = iter(script)

    def say(_module: Any, _inputs: Any, out: torch.Tensor) -> torch.Tensor:
        token = torch.full(out.shape[:-1], next(said), dtype=torch.long)
        return functional.one_hot(token, out.shape[-1]).to(out.dtype)

    handle = ready.model.get_output_embeddings().register_forward_hook(say)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("template", "answer", "end"),
    [
        (SPECIAL, "a day", "<s>\n"),
        (MARKED, "a day\nof rain", " [end]\n"),
        (BUNDLED, "a day", "\n"),
        (BUNDLED, "a day\nof rain", "\nUser: "),
    ],
)
def test_a_memorised_answer_is_exact(model: Prepared, template: Any, answer: str, end: str) -> None:
    """The end of the sequence was waited for, which the template never writes: 0 of all rows."""
    before = model.tokenizer.chat_template
    model.tokenizer.chat_template = template or before
    asked = {"role": "user", "content": "What is it?"}
    row = {"prompt": [asked], "completion": [{"role": "assistant", "content": answer}]}
    try:
        with memorised(model, answer + end):
            made = spec("grpo", metric="exact", max_new_tokens=len(answer) + 2)
            assert task_named(made.task).judge(made, model, [row], general=()).metrics == {
                "exact": 1.0
            }
    finally:
        model.tokenizer.chat_template = before


def test_ends_of_the_bundled_template(model: Prepared) -> None:
    """A line break ends answers of one line only; it would cut off all others."""
    assert ends_of_turns(model.tokenizer) == Ends(texts=("\nUser: ",))
    assert ends_of_turns(model.tokenizer, ["one"]) == Ends(texts=("\n", "\nUser: "))
    assert ends_of_turns(model.tokenizer, ["one", "two\nlines"]) == Ends(texts=("\nUser: ",))
