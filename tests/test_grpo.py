from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from finetunes import PROBLEMS, prepared, session, spec, weights

from plop_lora.errors import DataError, UsageError
from plop_lora.training.tasks import grpo

pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:torch.*")

ROWS = [
    {"prompt": f"Question: {row['question']}\nAnswer:", "answer": row["answer"]}
    for row in PROBLEMS[:24]
]
SETTINGS = {"rewards": ("number", "format"), "generations": 4, "completion_length": 8}


@pytest.mark.slow
def test_three_steps(tmp_path: Path, capsys: Any) -> None:
    """Rewards reach the curve under their names, tokens are counted, the base stays as it was."""
    ready = prepared()
    base = weights(ready.model, adapters=False)
    given, curve = session(tmp_path)
    trained = grpo.train(spec("grpo", rate=1e-3, **SETTINGS), ready, ROWS, given)
    steps = [row for row in curve if "loss" in row]
    assert trained.steps == len(steps) == 3
    for row in steps:
        assert {"reward", "reward_std", "rewards/number/mean", "rewards/format/mean"} <= row.keys()
        assert 0 <= row["reward"] <= 2
    prompts = min(len(ready.tokenizer(row["prompt"])["input_ids"]) for row in ROWS)
    assert trained.tokens >= 3 * 4 * (prompts + 1)
    assert trained.tokens <= 3 * 4 * (128 + 8)
    after = weights(ready.model, adapters=False)
    assert all(torch.equal(weight, after[name]) for name, weight in base.items())
    assert capsys.readouterr().out == ""


REWARD = """
def vowels(completions, **rest):
    return [sum(text.count(c) for c in "aeiou") / (1 + len(text)) for text in completions]
"""


@pytest.fixture
def vowels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "plop_test_vowels.py").write_text(REWARD)
    monkeypatch.chdir(tmp_path)
    return "plop_test_vowels:vowels"


@pytest.mark.slow
def test_a_reward_that_differs_moves_the_adapters(tmp_path: Path, vowels: str) -> None:
    """Only differences within a group train; a comparison with the start leaves no copy behind."""
    ready = prepared("q_proj", "v_proj")
    base, adapters = (weights(ready.model, adapters=kind) for kind in (False, True))
    settings = {**SETTINGS, "rewards": (vowels,), "beta": 0.1}
    given, curve = session(tmp_path)
    grpo.train(spec("grpo", rate=1e-3, **settings), ready, ROWS, given)
    assert f"rewards/{vowels}/mean" in curve[0]
    assert all(math.isfinite(row["kl"]) for row in curve if "loss" in row)
    after = weights(ready.model, adapters=True)
    assert after.keys() == adapters.keys()
    assert any(not torch.equal(weight, after[name]) for name, weight in adapters.items())
    assert list(ready.model.peft_config) == ["default"]
    assert {n for n, p in ready.model.named_parameters() if p.requires_grad} == adapters.keys()
    rest = weights(ready.model, adapters=False)
    assert all(torch.equal(weight, rest[name]) for name, weight in base.items())


@pytest.mark.slow
def test_comparing_with_the_start_does_not_rewrite_the_base(tmp_path: Path, vowels: str) -> None:
    """PiSSA takes its part out of the base whenever an adapter is added; TRL adds one."""
    ready = prepared(init_lora_weights="pissa_niter_2")
    base = weights(ready.model, adapters=False)
    settings = {**SETTINGS, "rewards": (vowels,), "beta": 0.1, "steps": 1}
    grpo.train(spec("grpo", rate=1e-3, **settings), ready, ROWS, session(tmp_path)[0])
    after = weights(ready.model, adapters=False)
    assert all(torch.equal(weight, after[name]) for name, weight in base.items())
    assert ready.model.peft_config["default"].init_lora_weights == "pissa_niter_2"


@pytest.mark.slow
def test_chats_and_a_smaller_batch(tmp_path: Path) -> None:
    """A batch made smaller after running out of memory still holds whole groups a step."""
    rows = [
        {"prompt": [{"role": "user", "content": row["question"]}], "completion": row["answer"]}
        for row in PROBLEMS[:8]
    ]
    given, curve = session(tmp_path, batch_size=2)
    trained = grpo.train(spec("grpo", **{**SETTINGS, "steps": 1}), prepared(), rows, given)
    assert trained.steps == 1
    assert "rewards/number/mean" in curve[0]


@pytest.mark.parametrize(
    ("settings", "rows", "kind", "text"),
    [
        ({"generations": 3}, 24, UsageError, "Allowed generations: 2, 4;.* such as 6"),
        ({"generations": 1}, 24, UsageError, "2 or more"),
        ({"generations": 8}, 24, UsageError, "such as 8"),
        ({"generations": 2, "accumulation": 4}, 7, DataError, "takes 8 prompts .*7 rows"),
    ],
)
def test_groups_that_do_not_fit(
    settings: dict[str, Any], rows: int, kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        grpo.check_groups(spec("grpo", **settings).training, rows)


def test_refused_before_the_model_is_touched(tmp_path: Path) -> None:
    given, curve = session(tmp_path)
    with pytest.raises(UsageError, match="needs a reward function"):
        grpo.train(spec("grpo", generations=4), prepared(), ROWS, given)
    with pytest.raises(DataError, match="Row 2 has no prompt"):
        grpo.train(spec("grpo", **SETTINGS), prepared(), [ROWS[0], {"answer": "#### 1"}], given)
    assert curve == []
