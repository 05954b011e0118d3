"""The configuration of LoRA in one call: what it is, when it scores again, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import plop_lora as plop
from plop_lora.demo import DATA, MODEL
from plop_lora.errors import UsageError

LINES = (DATA / "problems.jsonl").read_text(encoding="utf-8").splitlines()[:40]
TEXTS = [json.loads(line)["question"] for line in LINES]
QUICK = {"max_length": 32, "reference": False}


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[object]:
    """The models that were scored, in a cache of this test."""
    monkeypatch.setenv("PLOP_CACHE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found: list[object] = []
    from plop_lora import scoring

    real: Callable[..., plop.Scores] = scoring.score

    def score(model: object, *given: object, **keys: object) -> plop.Scores:
        found.append(model)
        return real(model, *given, **keys)

    monkeypatch.setattr(scoring, "score", score)
    return found


def test_it_is_the_three_steps(scored: list[object]) -> None:
    """Another answer than that of the steps would be a second method."""
    model = AutoModelForCausalLM.from_pretrained(MODEL)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    config = plop.lora_config(model, tokenizer, TEXTS, r=8, top=2, **QUICK)
    steps = plop.place(plop.score(model, tokenizer, TEXTS, **QUICK), top=2, rank=8).to_peft(model)
    assert isinstance(config, LoraConfig)
    assert config.to_dict() == steps.to_dict()
    assert config.r == 8
    adapted = get_peft_model(model, config)
    assert sum("lora_A" in name for name, _ in adapted.named_parameters()) == 2 * 6


def test_a_model_by_name_is_scored_once(scored: list[object]) -> None:
    first = plop.lora_config(MODEL, texts=TEXTS, **QUICK)
    again = plop.lora_config(str(MODEL), texts=list(TEXTS), **QUICK)
    other_rank = plop.lora_config(MODEL, texts=TEXTS, r=4, **QUICK)
    assert len(scored) == 1
    assert first.to_dict() == again.to_dict()
    assert (first.r, other_rank.r) == (16, 4)
    assert first.target_modules == other_rank.target_modules


def test_what_decides_a_score_decides_the_cache(scored: list[object], tmp_path: Path) -> None:
    """A cache that is wider than that would give the answer for other weights or texts."""
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder)
    plop.lora_config(folder, texts=TEXTS, **QUICK)
    plop.lora_config(folder, texts=TEXTS[:30], **QUICK)
    plop.lora_config(folder, texts=TEXTS, max_length=16, reference=False)
    assert len(scored) == 3
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-2] ^= 1
    weights.write_bytes(content)
    plop.lora_config(folder, texts=TEXTS, **QUICK)
    assert len(scored) == 4
    for file in (tmp_path / "cache" / "plop-lora" / "scores").iterdir():
        file.write_text("{")
    plop.lora_config(folder, texts=TEXTS, **QUICK)
    assert len(scored) == 5, "a damaged file is made again"
    plop.lora_config(folder, texts=TEXTS, **QUICK)
    assert len(scored) == 5


def test_a_module_is_scored_at_every_call(scored: list[object]) -> None:
    """Its weights may have been trained in between."""
    model = AutoModelForCausalLM.from_pretrained(MODEL)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    for _ in range(2):
        plop.lora_config(model, tokenizer, TEXTS, **QUICK)
    assert len(scored) == 2


def test_a_data_set_of_rows(scored: list[object]) -> None:
    rows = Dataset.from_dict({"text": TEXTS})
    by_rows = plop.lora_config(MODEL, texts=rows, **QUICK)
    by_texts = plop.lora_config(MODEL, texts=TEXTS, **QUICK)
    assert by_rows.target_modules == by_texts.target_modules


def test_targets_in_the_form_of_peft(scored: list[object]) -> None:
    fields = plop.find_target_modules(MODEL, texts=TEXTS, top=1, **QUICK)
    assert set(fields) == {"target_modules", "target_parameters"}
    assert fields["target_parameters"] is None
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(MODEL), LoraConfig(**fields, r=2))
    names = {name.split(".lora_A")[0] for name, _ in adapted.named_parameters() if "lora_A" in name}
    assert len(names) == 6


def test_a_budget_takes_the_place_of_the_rank(scored: list[object]) -> None:
    config = plop.lora_config(MODEL, texts=TEXTS, budget="1%", **QUICK)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(MODEL), config)
    trained, every = adapted.get_nb_trainable_parameters()
    assert 0.008 < trained / (every - trained) <= 0.01


def test_wrong_keys_are_told() -> None:
    with pytest.raises(UsageError, match=r"no key 'max_lenght'.*Did you mean 'max_length'"):
        plop.lora_config(MODEL, texts=TEXTS, max_lenght=3)
    with pytest.raises(UsageError, match="texts or batches"):
        plop.lora_config(MODEL)
    with pytest.raises(UsageError, match="one string"):
        plop.lora_config(MODEL, texts="data.jsonl")
