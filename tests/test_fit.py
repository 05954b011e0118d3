"""Rows that no trial could read are found before the first of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers
from conftest import HEADS, SMALL
from trials import checkpoint, tokenizer

from plop_lora.demo import MODEL
from plop_lora.errors import DataError, UsageError
from plop_lora.models.loading import load_skeleton
from plop_lora.models.positions import learned_positions
from plop_lora.recipe import VerifyRecipe
from plop_lora.study.fit import check_rows_fit
from plop_lora.study.splits import Splits
from plop_lora.training.tasks import task_named
from plop_lora.training.weights import TrainedModel, trained_model

LONG = {"text": "day " * 100, "label": "good"}
SHORT = {"text": "day", "label": "bad"}


def fits(recipe: VerifyRecipe, model: TrainedModel, rows: Splits) -> None:
    check_rows_fit(task_named(recipe.task), recipe.training, model, rows)


def splits(*rows: dict[str, Any]) -> Splits:
    return Splits(rows, (), (), labels=(), overlap=0, digests={}, notes=())


def recipe(task: str = "classify", **training: Any) -> VerifyRecipe:
    return VerifyRecipe.parse(
        {"task": task, "train": "a", "eval": "b", "training": training}, "the recipe"
    )


def test_rows_beyond_the_positions(tmp_path: Path) -> None:
    """Nine trials took 229 seconds to say "index out of range"."""
    model = trained_model(checkpoint(tmp_path, "BertModel", max_position_embeddings=64))
    with pytest.raises(UsageError, match=r"has 64 positions, and a row would take \d+ of them"):
        fits(recipe(), model, splits(SHORT, LONG))
    fits(recipe(max_length=64), model, splits(SHORT, LONG))
    fits(recipe(), model, splits(SHORT))


def test_a_model_that_computes_its_positions_has_no_such_end() -> None:
    fits(recipe("sft"), trained_model(str(MODEL)), splits({"text": "word " * 2000}))


def test_a_pad_token_beyond_the_vocabulary(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, "BertModel")
    extended = tokenizer()
    extended.add_tokens([f"more{n}" for n in range(100)])
    extended.pad_token = "more99"
    extended.save_pretrained(folder)
    with pytest.raises(UsageError, match="and the model has 64 embeddings"):
        fits(recipe(), trained_model(folder), splits(SHORT))


def test_a_template_that_refuses_a_role(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, "LlamaForCausalLM")
    strict = tokenizer()
    strict.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
        "{% endif %}{{ m.content }} {% endfor %}"
    )
    strict.save_pretrained(folder)
    answer = {"role": "assistant", "content": "fine"}
    good = {"messages": [{"role": "user", "content": "a day"}, answer]}
    bad = {"messages": [{"role": "system", "content": "a day"}, answer]}
    with pytest.raises(DataError, match=r"refuses row 2 of the training rows.*no system"):
        fits(recipe("sft"), trained_model(folder), splits(good, bad))
    fits(recipe("sft"), trained_model(folder), splits(good))


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        (transformers.BertConfig(**SMALL, **HEADS, max_position_embeddings=50), 50),
        (transformers.RobertaConfig(**SMALL, **HEADS, max_position_embeddings=52), 50),
        (transformers.GPT2Config(n_embd=32, n_layer=1, n_head=4, n_positions=50), 50),
        (transformers.LlamaConfig(**SMALL, **HEADS, max_position_embeddings=50), None),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_positions_are_those_of_a_table(tmp_path: Path, config: Any, wanted: int | None) -> None:
    """RoBERTa's first position stands behind the row for padding."""
    config.save_pretrained(tmp_path)
    assert learned_positions(load_skeleton(str(tmp_path))) == wanted
