"""Classification: training that learns and logs, and a judge that counts row by row."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from placements import placed
from torch.nn import functional
from trials import NO_DATA, rows, spec_of

from plop_lora.errors import DataError
from plop_lora.records import EvaluationSettings
from plop_lora.training import classifier as classify
from plop_lora.training.adapters import prepare
from plop_lora.training.task import Session

BERT = placed("bert", {"attention.self.value": 4, "output.dense": 4})
LLAMA = placed("llama", {"self_attn.v_proj": 4, "mlp.down_proj": 4})


def session(folder: Path, log: Any = None, size: int = 8) -> Session:
    return Session(folder, log or (lambda row: None), size)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "placement"), [("encoder", BERT), ("decoder", LLAMA)])
def test_training_learns(request, tmp_path: Path, family: str, placement: Any) -> None:
    """A label that follows from one word is learnt, with a pad token and without."""
    spec = spec_of(request.getfixturevalue(family), placement, NO_DATA, steps=80)
    prepared = prepare(spec)
    evaluation = rows(24, start=200)
    before = classify.judge(spec, prepared, evaluation).metrics
    trained = classify.train(spec, prepared, rows(32), session(tmp_path))
    after = classify.judge(spec, prepared, evaluation).metrics
    assert trained.steps == 80
    assert after["loss"] < 0.6 * before["loss"]
    assert min(after["accuracy"], after["macro-f1"]) > 0.9
    assert not list(tmp_path.iterdir()), "no checkpoints, no logs"


@pytest.mark.slow
def test_rows_of_the_curve(encoder: str, tmp_path: Path, capsys) -> None:
    """The first step and every twentieth of the way is logged, and nothing is printed."""
    logged: list[Any] = []
    spec = spec_of(encoder, BERT, NO_DATA, steps=20)
    trained = classify.train(spec, prepare(spec), rows(32), session(tmp_path, logged.append))
    steps = [row["step"] for row in logged if "loss" in row]
    assert steps == list(range(1, 21))
    assert all(math.isfinite(row["loss"]) for row in logged if "loss" in row)
    assert trained.last_log["step"] == 20
    words = sum(len(row["text"].split()) for row in rows(32))
    assert trained.tokens == 5 * words, "twenty batches of 8 are five passes, padding not counted"
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_accumulation_keeps_the_batch(encoder: str, tmp_path: Path) -> None:
    """Half the batch and twice the accumulation, as after a lack of memory, train the same."""
    losses = []
    for size, more in ((8, 1), (4, 2)):
        logged: list[Any] = []
        spec = spec_of(encoder, BERT, NO_DATA, steps=4, batch_size=size, accumulation=more)
        prepared = prepare(spec)
        disable_dropout(prepared.model)
        classify.train(spec, prepared, rows(32), session(tmp_path, logged.append, size))
        losses.append([row["loss"] for row in logged if "loss" in row])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def disable_dropout(model: torch.nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


@pytest.mark.slow
def test_checkpointing_changes_no_number(encoder: str, tmp_path: Path) -> None:
    losses = []
    for recompute in (False, True):
        logged: list[Any] = []
        spec = spec_of(encoder, BERT, NO_DATA, steps=3, checkpointing=recompute)
        prepared = prepare(spec)
        disable_dropout(prepared.model)
        classify.train(spec, prepared, rows(32), session(tmp_path, logged.append))
        losses.append([row["loss"] for row in logged if "loss" in row])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][0] != losses[0][-1]


@pytest.mark.slow
def test_nan_is_logged_as_nan(encoder: str, tmp_path: Path) -> None:
    """The trainer's own filter would show a mean in its place."""
    spec = spec_of(encoder, BERT, NO_DATA)
    prepared = prepare(spec)
    prepared.model.base_model.model.bert.encoder.layer[0].output.LayerNorm.weight.data.fill_(
        math.nan
    )
    logged: list[Any] = []
    classify.train(spec, prepared, rows(32), session(tmp_path, logged.append))
    assert math.isnan(logged[0]["loss"])
    assert logged[0]["step"] == 1


@pytest.mark.slow
def test_half_precision_trains_and_judges(encoder: str, tmp_path: Path) -> None:
    """Frozen bfloat16 weights, float32 adapters and head."""
    spec = spec_of(encoder, BERT, NO_DATA, steps=40, dtype="bfloat16")
    prepared = prepare(spec)
    classify.train(spec, prepared, rows(32), session(tmp_path))
    assert classify.judge(spec, prepared, rows(24, start=200)).metrics["accuracy"] == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 5, 16])
def test_judge_counts_row_by_row(encoder: str, size: int) -> None:
    """Items are those of a forward of one row alone, whatever the batches; means are metrics."""
    spec = spec_of(encoder, BERT, NO_DATA, evaluation=EvaluationSettings(batch_size=size))
    prepared = prepare(spec)
    data = rows(11, start=300)
    judged = classify.judge(spec, prepared, data)
    prepared.model.eval()
    for n, row in enumerate(data):
        encoded = prepared.tokenizer([row["text"]], return_tensors="pt")
        with torch.inference_mode():
            logits = prepared.model(**encoded).logits
        number = spec.labels.index(row["label"])
        loss = functional.cross_entropy(logits, torch.tensor([number])).item()
        assert judged.items["loss"][n] == pytest.approx(loss, abs=1e-5)
        assert judged.items["accuracy"][n] == float(logits.argmax().item() == number)
    for name in ("loss", "accuracy"):
        assert judged.metrics[name] == pytest.approx(sum(judged.items[name]) / len(data))


def test_macro_f1() -> None:
    """By hand: F1 of 0 is 2·2/(3+2), of 1 is 2·1/(1+3), of 2 is 0; a label never seen has none."""
    truths, guesses = [0, 0, 0, 1, 2], [0, 0, 1, 1, 1]
    assert classify.macro_f1(truths, guesses) == pytest.approx((0.8 + 0.5 + 0.0) / 3)


def test_labels_and_texts_are_checked(encoder: str, tmp_path: Path) -> None:
    spec = spec_of(encoder, BERT, NO_DATA)
    prepared = prepare(spec)
    wrong = [*rows(2), {"text": "a day", "label": "godo"}]
    with pytest.raises(DataError, match=r"row 3 has the label 'godo'\. Did you mean 'good'"):
        classify.train(spec, prepared, wrong, session(tmp_path))
    with pytest.raises(DataError, match="Row 2 has no text"):
        classify.judge(spec, prepared, [*rows(1), {"label": "good"}])
    with pytest.raises(DataError, match="no evaluation rows"):
        classify.judge(spec, prepared, [])
