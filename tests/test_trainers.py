"""What all trials share in training: rates, the order of rows, logits where they are judged."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from finetunes import NEW, ROWS, prepared, session, spec
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from plop_lora.demo import MODEL
from plop_lora.errors import DataError, UsageError
from plop_lora.evaluation.heads import IGNORED, next_token_nats
from plop_lora.evaluation.losses import row_losses
from plop_lora.models.devices import is_slow
from plop_lora.records import TrialData, TrialSpec
from plop_lora.training.rows import read_general
from plop_lora.training.tasks import CLASSIFY, SFT, sft
from plop_lora.training.trainers import LengthSampler, WarmedUp
from plop_lora.training.trial import run_trial

pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:torch.*")


# --------------------------------------------------------------------------- rates


def _rates(steps: int, warmup: float, schedule: str = "linear") -> list[float]:
    """Return the learning rate of every step, as a share of the largest."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    trainer = WarmedUp()
    trainer.lr_scheduler, trainer.optimizer = None, optimizer
    trainer.args = transformers.TrainingArguments(
        output_dir="unused", warmup_steps=warmup, lr_scheduler_type=schedule, use_cpu=True
    )
    scheduler = trainer.create_scheduler(steps)
    rates = []
    for _ in range(steps):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("steps", [1, 2, 10, 60])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant_with_warmup"])
def test_every_step_has_a_rate(steps: int, schedule: str) -> None:
    """A first step at rate 0 is the whole of a trial of one step, which then shows nothing."""
    assert all(rate > 0 for rate in _rates(steps, 0.03, schedule))


def test_the_warm_up_rises_to_the_full_rate() -> None:
    assert _rates(10, 0.3)[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 6 / 7])


def test_without_warm_up_the_schedule_is_the_usual_one() -> None:
    assert _rates(4, 0.0) == pytest.approx([1.0, 0.75, 0.5, 0.25])


@pytest.mark.slow
def test_one_step_changes_the_adapter(tmp_path: Path) -> None:
    ready = prepared()
    sft.train(spec(steps=1, batch_size=8), ready, NEW[:8], session(tmp_path)[0])
    changed = [p for name, p in ready.model.named_parameters() if "lora_B" in name]
    assert all(bool(parameter.abs().sum() > 0) for parameter in changed)


# --------------------------------------------------------------------------- order of the rows


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=90), st.integers(1, 9), st.integers(0, 5))
def test_every_row_is_drawn_once(lengths: list[int], size: int, seed: int) -> None:
    drawn = list(LengthSampler(lengths, size, seed))
    assert sorted(drawn) == list(range(len(lengths)))


def test_batches_have_similar_lengths_in_a_mixed_order() -> None:
    """Padding is computed like a token; and batches sorted by length would bias the schedule."""
    lengths = torch.randint(10, 200, (256,), generator=torch.Generator().manual_seed(0)).tolist()
    drawn = list(LengthSampler(lengths, 8, seed=0))
    batches = [[lengths[place] for place in drawn[n : n + 8]] for n in range(0, 256, 8)]
    padded = sum(max(batch) * len(batch) for batch in batches)
    assert padded < 1.1 * sum(lengths)
    unsorted = [lengths[n : n + 8] for n in range(0, 256, 8)]
    assert sum(max(batch) * 8 for batch in unsorted) > 1.4 * sum(lengths)
    means = [sum(batch) / 8 for batch in batches]
    assert means != sorted(means)
    assert means != sorted(means, reverse=True)


def test_the_order_is_a_function_of_the_seed() -> None:
    lengths = list(range(64))
    sampler = LengthSampler(lengths, 8, seed=1)
    torch.rand(3)
    first, second = list(sampler), list(sampler)
    assert first == list(LengthSampler(lengths, 8, seed=1))
    assert first != second
    assert first != list(LengthSampler(lengths, 8, seed=2))


# --------------------------------------------------------------------------- logits and losses

_SMALL = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
          "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
          "max_position_embeddings": 64, "pad_token_id": 0}  # fmt: skip
CONFIGS = {
    "Llama": {},
    "Gemma2": {"final_logit_softcapping": 2.0},
    "Cohere": {"logit_scale": 0.3},
    "Granite": {"logits_scaling": 3.0},
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "Mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "state_size": 8},
    "Qwen3Moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
}
"""Heads that scale or cap their logits, that share weights, and bodies that are no attention."""


def _model(name: str) -> Any:
    known = _SMALL if name not in ("GPT2", "Mamba2") else {"vocab_size": 96, "hidden_size": 32}
    known = known if name != "GPT2" else {"vocab_size": 96}
    config = getattr(transformers, f"{name}Config")(**{**known, **CONFIGS[name]})
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_of_judged_tokens_are_those_of_all(name: str) -> None:
    """What a model does to its logits after the head must be done to those that are left."""
    model = _model(name)
    ids_BT = torch.randint(1, 96, (3, 12), generator=torch.Generator().manual_seed(1))
    labels_BT = ids_BT.masked_fill(torch.rand(3, 12, generator=torch.manual_seed(2)) < 0.5, IGNORED)
    labels_BT[:, 0] = ids_BT[:, 0]
    inputs = {"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT)}
    with torch.no_grad():
        found = next_token_nats(model, inputs, labels_BT)
        logits = model(**inputs).logits[:, :-1].float()
    wanted = functional.cross_entropy(
        logits.transpose(1, 2), labels_BT[:, 1:], reduction="none", ignore_index=IGNORED
    )
    assert torch.allclose(found, wanted[labels_BT[:, 1:] != IGNORED], atol=1e-5)
    assert len(found) < ids_BT.numel() - 3
    assert not model.get_output_embeddings()._forward_pre_hooks


def test_a_head_that_is_no_module_call_is_read_all_the_same() -> None:
    """Without the hook at work all logits come back, and the same ones are judged."""
    model = _model("Llama")
    weight = model.lm_head.weight
    ids_BT = torch.arange(1, 13).view(2, 6)

    def forward(**given: Any) -> Any:
        hidden = model.model(given["input_ids"]).last_hidden_state
        return SimpleNamespace(logits=functional.linear(hidden, weight))

    inputs = {"input_ids": ids_BT}
    with torch.no_grad():
        usual = next_token_nats(model, inputs, ids_BT)
        other = next_token_nats(model, inputs, ids_BT, forward=forward)
    assert torch.allclose(usual, other, atol=1e-6)


def _adapter(ready: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in ready.model.parameters() if p.requires_grad])


@pytest.mark.slow
def test_the_loss_and_its_gradients_are_those_of_trl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer logits must not be another loss: weights after three steps, with accumulation."""
    from plop_lora.training import trainers

    ours, curve = prepared(), session(tmp_path)
    sft.train(spec(accumulation=2), ours, ROWS[:24], curve[0])
    monkeypatch.delattr(trainers.LossAtLabels, "compute_loss")
    theirs, usual = prepared(), session(tmp_path)
    sft.train(spec(accumulation=2), theirs, ROWS[:24], usual[0])
    losses = [[row["loss"] for row in rows if "loss" in row] for rows in (curve[1], usual[1])]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    # AdamW gives a rounding error in a gradient near 0 the size of a whole step, so single weights
    # may part; the change as a whole may not.
    start = _adapter(prepared())
    change = (_adapter(ours) - start, _adapter(theirs) - start)
    assert float((change[0] - change[1]).norm()) < 0.02 * float(change[1].norm())


# --------------------------------------------------------------------------- general text


def _trial(folder: Path, general: str | None) -> TrialSpec:
    """Write the files of a short trial and return its spec."""
    from placements import placed

    texts = {"train.jsonl": NEW[:16], "eval.jsonl": ROWS[:4]}
    lines = {name: "".join(json.dumps(row) + "\n" for row in rows) for name, rows in texts.items()}
    lines |= {} if general is None else {"general.jsonl": general}
    for name, text in lines.items():
        (folder / name).write_text(text, encoding="utf-8")
    digest = {name: sha256(text.encode()).hexdigest() for name, text in lines.items()}
    data = TrialData("train.jsonl", digest["train.jsonl"], "eval.jsonl", digest["eval.jsonl"])
    if general is not None:
        data = replace(data, general="general.jsonl", general_sha256=digest["general.jsonl"])
    return replace(spec(), placement=placed("llama", {"self_attn.q_proj": 4}), data=data)


GENERAL = '{"text": "A day and a night."}\n{"text": "Rain, or sun."}\n{"text": "All is well."}\n'


@pytest.mark.slow
def test_general_text_is_judged_beside_the_task(tmp_path: Path) -> None:
    """A placement that costs more elsewhere must show it, item by item."""
    made = prepared_spec(tmp_path)
    result = run_trial(made, tmp_path / "trial", root=tmp_path)
    assert result.done, result.cause
    assert len(result.items["general-loss"]) == 3
    assert result.metric == "loss"
    assert len(result.items["loss"]) == 4
    assert result.dtype == "bfloat16" if not is_slow(torch.bfloat16) else "float32"
    exact = replace(made.training, dtype="float32")  # in bfloat16 a batch changes its rows
    still = replace(made, learning_rate=0.0, training=exact)
    untrained = run_trial(still, tmp_path / "untrained", root=tmp_path)
    rows = [json.loads(line) for line in GENERAL.splitlines()]
    base = row_losses(prepared(), rows, max_length=128, batch_size=4)
    assert untrained.items["general-loss"] == pytest.approx(base, abs=1e-4)
    assert result.items["general-loss"] != pytest.approx(base, abs=1e-4)


def prepared_spec(folder: Path) -> TrialSpec:
    """Return the spec of a trial of the bundled model's own query projections."""
    from plop_lora.placement import place
    from plop_lora.scoring import score

    scores = score(str(MODEL), texts=[row["prompt"] for row in ROWS[:32]], stop="fixed")
    placement = place(scores, strategy="custom", types=["q_proj"], rank=4)
    return replace(_trial(folder, GENERAL), placement=placement)


def test_a_spec_without_general_text_is_the_document_it_was(tmp_path: Path) -> None:
    """Folders of trials are named by the digest: a new field must not orphan those there are."""
    data = _trial(tmp_path, None).to_dict()["data"]
    assert sorted(data) == ["evaluation", "evaluation_sha256", "rows", "train", "train_sha256"]
    made = _trial(tmp_path, GENERAL)
    assert TrialSpec.from_dict(made.to_dict()) == made


def test_general_text_that_cannot_be_judged(tmp_path: Path) -> None:
    made = _trial(tmp_path, '{"prompt": "no text"}\n')
    with pytest.raises(DataError, match=r"general\.jsonl, row 1 has prompt"):
        read_general(SFT, made, tmp_path)
    with pytest.raises(UsageError, match="classify has no loss on general text"):
        read_general(CLASSIFY, made, tmp_path)
    (tmp_path / "general.jsonl").write_text(GENERAL, encoding="utf-8")
    with pytest.raises(DataError, match="has changed"):
        read_general(SFT, made, tmp_path)
