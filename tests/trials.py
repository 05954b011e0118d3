"""Tiny checkpoints with real tokenizers, rows that can be learnt, and specs of trials on them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import transformers
from builders import trial_spec
from placements import SMALL
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from plop_lora.records import Placement, TrainingSettings, TrialData, TrialSpec

LABELS = ("good", "bad")
WORDS = {"good": ("fine", "nice", "great", "lovely"), "bad": ("poor", "awful", "dull", "bleak")}
FILLERS = ("a", "day", "and", "night", "with", "rain", "or", "sun")
VOCABULARY = ("[PAD]", "[UNK]", "[END]", *WORDS["good"], *WORDS["bad"], *FILLERS)
TRAIN, EVALUATION = "train.jsonl", "evaluation.jsonl"
SETTINGS = TrainingSettings(steps=4, batch_size=8, dtype="float32", device="cpu")


def tokenizer(*, pad: bool = True) -> PreTrainedTokenizerFast:
    """Return a tokenizer of one token a word."""
    table = {word: number for number, word in enumerate(VOCABULARY)}
    inner = Tokenizer(models.WordLevel(table, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"unk_token": "[UNK]", "eos_token": "[END]"} | ({"pad_token": "[PAD]"} if pad else {})
    return PreTrainedTokenizerFast(tokenizer_object=inner, **special)


def checkpoint(folder: Path, architecture: str, *, pad: bool = True, **settings: object) -> str:
    """Save a seeded model of the shapes of `placements.MODELS`, and return its folder."""
    config_class = {"BertModel": "BertConfig", "BertForMaskedLM": "BertConfig"}.get(
        architecture, "LlamaConfig"
    )
    config = getattr(transformers, config_class)(**{**SMALL, **settings})
    config.pad_token_id = 0
    torch.manual_seed(7)
    getattr(transformers, architecture)(config).save_pretrained(folder)
    tokenizer(pad=pad).save_pretrained(folder)
    return str(folder)


def rows(number: int, *, start: int = 0) -> list[dict[str, str]]:
    """Return rows whose label follows from one word, of ragged lengths."""
    made = []
    for n in range(start, start + number):
        label = LABELS[n % 2]
        fillers = [FILLERS[(n * 3 + k) % len(FILLERS)] for k in range(n % 5)]
        made.append({"text": " ".join([*fillers, WORDS[label][n // 2 % 4]]), "label": label})
    return made


def write_data(folder: Path) -> TrialData:
    """Write both files of a trial and return what its spec says of them."""
    digests = []
    for name, made in ((TRAIN, rows(32)), (EVALUATION, rows(12, start=100))):
        text = "".join(json.dumps(row) + "\n" for row in made)
        (folder / name).write_text(text)
        digests.append(hashlib.sha256(text.encode()).hexdigest())
    return TrialData(TRAIN, digests[0], EVALUATION, digests[1])


def spec_of(model: str, placement: Placement, data: TrialData, **changes: object) -> TrialSpec:
    """Return the spec of a short trial of the task classify."""
    settings = {name: changes.pop(name) for name in _TRAINING & changes.keys()}
    spec = trial_spec(
        "plop", task="classify", model=model, placement=placement, learning_rate=1e-2, data=data,
        training=replace(SETTINGS, **settings), labels=LABELS,
    )  # fmt: skip
    return replace(spec, **changes)


_TRAINING = {"steps", "batch_size", "accumulation", "dtype", "epochs", "checkpointing"}
NO_DATA = TrialData("", "", "", "")


def first_texts(made: Sequence[dict[str, str]]) -> list[str]:
    """Return the texts of rows."""
    return [row["text"] for row in made]
