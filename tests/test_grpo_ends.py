"""Where GRPO's sampled answers end: where judged answers do."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from finetunes import prepared, session, spec
from test_answer_ends import BUNDLED, MARKED, SPECIAL
from torch.nn import functional

from plop_lora.evaluation.judged import Prepared
from plop_lora.evaluation.rewards import until
from plop_lora.training.tasks import grpo

pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:torch.*")

REWARD = """
seen = []
def watch(completions, completion_ids, **rest):
    seen.append((completions, completion_ids))
    return [float(n % 2) for n in range(len(completions))]
"""


@contextlib.contextmanager
def saying(ready: Prepared, text: str) -> Iterator[None]:
    """Let the model sample a text, as if it had learnt it, and go on with something else."""
    many = ready.tokenizer(" many", add_special_tokens=False)["input_ids"]
    script = ready.tokenizer(text, add_special_tokens=False)["input_ids"]
    said = itertools.chain(script, itertools.cycle(many))

    def say(_module: Any, _inputs: Any, out: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() or out.shape[1] > 1:
            return out
        token = torch.full(out.shape[:-1], next(said), dtype=torch.long)
        return 100 * functional.one_hot(token, out.shape[-1]).to(out.dtype)

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
        (BUNDLED, "a day\nof rain", "\nUser: "),
    ],
    ids=["token", "mark", "next turn"],
)
def test_a_sampled_answer_ends_where_a_judged_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: Any, answer: str, end: str
) -> None:
    """All that a model says after its answer was rewarded, trained on and counted as cut."""
    (tmp_path / "plop_test_watch.py").write_text(REWARD)
    monkeypatch.chdir(tmp_path)
    ready = prepared()
    ready.tokenizer.chat_template = template or ready.tokenizer.chat_template
    rows = [{"prompt": [{"role": "user", "content": f"What is {n}?"}]} for n in range(4)]
    settings = {"rewards": ("plop_test_watch:watch",), "generations": 2, "steps": 1}
    given, curve = session(tmp_path)
    base = ready.model.get_base_model()
    before = base.generation_config.eos_token_id
    with saying(ready, answer + end):
        grpo.train(spec("grpo", completion_length=40, **settings), ready, rows, given)
    from plop_test_watch import seen

    completions, tokens = seen[-1]
    assert {said[-1]["content"] for said in completions} == {answer}
    length = len(ready.tokenizer(answer + end, add_special_tokens=False)["input_ids"])
    assert {len(ids) <= length for ids in tokens} == {True}
    assert curve[0]["completions/clipped_ratio"] == 0
    assert base.generation_config.eos_token_id == before
    assert "generate" not in vars(base)


@pytest.mark.slow
def test_answers_to_plain_prompts_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without a chat nothing but the end of the sequence ends an answer."""
    (tmp_path / "plop_test_plain.py").write_text(REWARD)
    monkeypatch.chdir(tmp_path)
    ready = prepared()
    rows = [{"prompt": f"What is {n}?"} for n in range(4)]
    settings = {"rewards": ("plop_test_plain:watch",), "generations": 2, "steps": 1}
    given, curve = session(tmp_path)
    with saying(ready, "a day\nUser: "):
        grpo.train(spec("grpo", completion_length=12, **settings), ready, rows, given)
    from plop_test_plain import seen

    completions, tokens = seen[-1]
    assert {len(ids) for ids in tokens} == {12}
    assert all("many" in said for said in completions)
    assert curve[0]["completions/clipped_ratio"] == 1


def test_rewards_see_the_answer_alone() -> None:
    def length(completions: Any, **rest: Any) -> list[float]:
        return [float(len(said)) for said in completions]

    cut = until(("END", "\nUser: "), length)
    assert cut.__name__ == "length"
    assert cut(prompts=["?", "?"], completions=["one END\nUser: ", "four"]) == [4.0, 4.0]
    assert until((), length) is length
