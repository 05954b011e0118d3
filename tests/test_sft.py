from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import finetunes
import pytest
import torch
from finetunes import CHATS, NEW, ROWS, prepared, session, spec, weights

from plop_lora.errors import DataError, ModelError, UsageError
from plop_lora.evaluation.chats import columns_kept
from plop_lora.evaluation.judged import Prepared
from plop_lora.training.task import Session
from plop_lora.training.tasks import sft

pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:torch.*")


@pytest.mark.slow
def test_loss_falls_and_only_adapters_change(tmp_path: Path, capsys: Any) -> None:
    """Ten steps on real rows; a changed base weight would poison every later comparison."""
    ready = prepared("q_proj", "down_proj")
    base, adapters = (weights(ready.model, adapters=kind) for kind in (False, True))
    given, curve = session(tmp_path)
    trained = sft.train(spec(steps=10, batch_size=8), ready, NEW[:80], given)
    assert trained.steps == 10
    losses = [row["loss"] for row in curve if "loss" in row]
    assert len(losses) == 10
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert [row["step"] for row in curve if "loss" in row] == list(range(1, 11))
    assert trained.last_log["loss"] == losses[-1]
    after = weights(ready.model, adapters=False)
    assert all(torch.equal(weight, after[name]) for name, weight in base.items())
    changed = weights(ready.model, adapters=True)
    assert all(not torch.equal(weight, changed[name]) for name, weight in adapters.items())
    trainable = {n for n, p in ready.model.named_parameters() if p.requires_grad}
    assert trainable == adapters.keys()
    assert capsys.readouterr().out == ""
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.slow
def test_tokens_are_those_of_the_rows(tmp_path: Path) -> None:
    """One epoch passes every token of every row once, the end of the sequence included."""
    ready = prepared()
    given, _ = session(tmp_path)
    trained = sft.train(spec(steps=None, epochs=1.0), ready, ROWS[:8], given)
    rows = [row["prompt"] + row["completion"] for row in ROWS[:8]]
    assert trained.tokens == sum(len(ready.tokenizer(row)["input_ids"]) + 1 for row in rows)
    assert trained.steps == 2


def _curve(folder: Path, **settings: Any) -> list[float]:
    given, curve = session(folder, batch_size=settings.pop("used", 4))
    sft.train(spec(**settings), prepared(), ROWS[:40], given)
    return [row["loss"] for row in curve if "loss" in row]


@pytest.mark.slow
def test_same_seed_same_losses_and_another_differs(tmp_path: Path) -> None:
    first = _curve(tmp_path)
    assert first == _curve(tmp_path)
    assert first != _curve(tmp_path, seed=4)


@pytest.mark.slow
def test_a_smaller_batch_takes_the_same_steps(tmp_path: Path) -> None:
    """After running out of memory the optimizer sees the same rows a step, only in parts."""
    whole = _curve(tmp_path, batch_size=4)
    parts = _curve(tmp_path, batch_size=4, used=1)
    assert parts == pytest.approx(whole, rel=1e-4)


def _order(ready: Prepared, folder: Path) -> list[list[int]]:
    """Return the token numbers of every batch in the order in which the model sees them."""
    seen: list[list[int]] = []
    embedding = ready.model.get_input_embeddings()
    handle = embedding.register_forward_pre_hook(lambda _, args: seen.append(args[0].tolist()))
    try:
        sft.train(spec(steps=4), ready, ROWS[:40], session(folder)[0])
    finally:
        handle.remove()
    return seen


@pytest.mark.slow
def test_order_of_the_data_does_not_depend_on_the_arm(tmp_path: Path) -> None:
    """Arms draw different numbers of random weights; the order of the rows must not notice."""
    first = _order(prepared("q_proj"), tmp_path)
    torch.rand(7)
    second = _order(prepared("gate_proj", "up_proj", "down_proj", lora_dropout=0.1), tmp_path)
    assert len(first) == 4
    assert first == second


@pytest.mark.slow
@pytest.mark.parametrize("rows", [CHATS[:8], [{"text": row["prompt"]} for row in ROWS[:8]]])
def test_chats_and_texts(tmp_path: Path, rows: list[Any]) -> None:
    given, curve = session(tmp_path)
    trained = sft.train(spec(steps=2), prepared(), [{**row, "id": 1} for row in rows], given)
    assert trained.tokens > 0
    assert all(math.isfinite(row["loss"]) for row in curve if "loss" in row)


@pytest.mark.slow
def test_checkpointing_and_half_precision_train(tmp_path: Path) -> None:
    ready = prepared(dtype="bfloat16")
    before = weights(ready.model, adapters=True)
    assert all(weight.dtype == torch.float32 for weight in before.values())
    sft.train(spec(checkpointing=True), ready, ROWS[:16], session(tmp_path)[0])
    after = weights(ready.model, adapters=True)
    assert all(weight.dtype == torch.float32 for weight in after.values())
    assert any(not torch.equal(weight, after[name]) for name, weight in before.items())


@pytest.mark.slow
def test_what_the_log_raises_ends_the_training(tmp_path: Path) -> None:
    """A trial stops on a loss that is NaN, so the trainer must neither hide it nor go on."""
    seen: list[Any] = []

    def log(row: Any) -> None:
        seen.append(row["loss"])
        if math.isnan(row["loss"]):
            raise ArithmeticError("diverged")

    ready = prepared()
    with torch.no_grad():
        next(p for p in ready.model.parameters() if p.requires_grad).fill_(math.nan)
    with pytest.raises(ArithmeticError, match="diverged"):
        sft.train(spec(), ready, ROWS[:16], Session(tmp_path, log, 4))
    assert len(seen) == 1


@pytest.mark.slow
def test_nothing_is_sent_to_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL reports every trainer that is made unless it is told not to."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _telemetry

    sent: list[Any] = []
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(constants, "is_offline_mode", lambda: False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    monkeypatch.setattr(_telemetry, "_start_telemetry_thread", lambda: None)
    monkeypatch.setattr(_telemetry._TELEMETRY_QUEUE, "put", sent.append)
    _telemetry.send_telemetry("control")
    assert len(sent) == 1
    sft.train(spec(steps=1), prepared(), ROWS[:8], session(tmp_path)[0])
    assert len(sent) == 1
    assert constants.HF_HUB_DISABLE_TELEMETRY is False


@pytest.mark.slow
def test_rows_beyond_the_length_are_counted(tmp_path: Path) -> None:
    rows = [*ROWS[:7], {"prompt": "word " * 300, "completion": "end"}]
    trained = sft.train(spec(), prepared(), rows, session(tmp_path)[0])
    assert trained.rows_dropped == 1
    with pytest.raises(DataError, match="fills the 128 tokens"):
        sft.train(spec(), prepared(), rows[-1:], session(tmp_path)[0])


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([], "no rows"),
        ([{"question": "?"}], "Row 1 has the columns question"),
        ([ROWS[0], {"prompt": "?"}], "Row 2 has no 'completion'"),
        ([ROWS[0], {"text": "?"}], "Row 2 has no 'prompt'"),
    ],
)
def test_rows_that_cannot_be_trained_on(rows: list[Any], text: str) -> None:
    with pytest.raises(DataError, match=text):
        columns_kept(rows)


def test_models_that_cannot_be_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    from plop_lora.training.arguments import _check_device, check_causal

    ready = prepared()
    monkeypatch.setattr(ready.model.get_base_model().config, "is_encoder_decoder", True)
    with pytest.raises(ModelError, match="not a causal language model"):
        check_causal(ready)
    monkeypatch.undo()
    ready.tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no end-of-sequence token"):
        check_causal(ready)
    with pytest.raises(UsageError, match="CUDA_VISIBLE_DEVICES=1"):
        _check_device(torch.device("cuda:1"))


def test_specs_are_built_with_their_settings() -> None:
    """The helper of these tests must not lose a setting on the way."""
    made = finetunes.spec(metric="exact", max_new_tokens=7, generations=2, eval_batch_size=9)
    assert (made.evaluation.metric, made.evaluation.max_new_tokens) == ("exact", 7)
    assert (made.evaluation.batch_size, made.training.generations) == (9, 2)
