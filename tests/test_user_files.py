"""Files and models of the user's that cannot be scored: one line that says what to do.

None of them is a fault of plop-lora, and none may be called one.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import families
import pytest
import torch
import transformers
from conftest import HEADS, SMALL, WordTokenizer

import plop_lora as plop
from plop_lora.data.documents import load_documents
from plop_lora.demo import MODEL
from plop_lora.errors import DataError, MeasurementError, ModelError, PlopError
from plop_lora.models.folders import model_name
from plop_lora.models.loading import load_model, load_tokenizer

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0a\nsize 123456\n"
LINES = [f"number {n} and more" for n in range(6)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the bundled model, to be damaged."""
    return Path(shutil.copytree(MODEL, tmp_path / "model"))


def _change(path: Path, **keys: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


# --------------------------------------------------------------------------- data


@pytest.mark.parametrize("suffix", [".csv", ".txt", ".jsonl", ".tsv"])
@pytest.mark.parametrize("end", ["\r", "\r\n", "\n"])
def test_every_end_of_a_line_is_one(tmp_path, suffix: str, end: str) -> None:
    """With CR alone a file is one line: no CSV, no JSON, and of .txt one long text."""
    lines = [json.dumps({"text": line}) for line in LINES] if suffix == ".jsonl" else LINES
    header = ["text"] if suffix in (".csv", ".tsv") else []
    path = tmp_path / f"data{suffix}"
    path.write_bytes((end.join([*header, *lines]) + end).encode())
    assert [document.text for document in load_documents(path).items] == LINES


def test_a_header_with_a_stray_carriage_return(tmp_path) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(b"text\rmore,label\na,b\n")
    with pytest.raises(DataError, match=r"line 1, is not CSV"):
        load_documents(path)


@pytest.mark.parametrize("name", ["data.jsonl", "data.csv", "data.txt", "data.parquet"])
def test_a_pointer_of_git_lfs_is_no_data(tmp_path, name: str) -> None:
    """Its three lines would be scored as texts, or be called broken JSON."""
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(DataError, match=r"a pointer of Git LFS.*git lfs pull"):
        load_documents(tmp_path / name)


# --------------------------------------------------------------------------- files of a model


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_pointer_of_git_lfs_is_no_model(folder: Path, name: str) -> None:
    (folder / name).write_text(POINTER)
    with pytest.raises(ModelError, match=rf"{name} in .* is a pointer of Git LFS.*lfs pull"):
        plop.score(folder, texts=LINES, progress=False)


def test_a_pointer_that_nobody_reads_is_no_fault(folder: Path) -> None:
    """Who fetches the weights of one format only leaves those of the others as pointers."""
    (folder / "pytorch_model.bin").write_text(POINTER)
    (folder / "picture.png").write_text(POINTER)
    assert model_name(str(folder)) == str(folder)


def test_a_tokenizer_that_is_newer_than_the_library(folder: Path) -> None:
    """Tokenizers raises a bare Exception for a part that it does not know."""
    path = folder / "tokenizer.json"
    _change(path, model=json.loads(path.read_text())["model"] | {"type": "Novel"})
    with pytest.raises(ModelError, match=r"written by a newer release.*pip install --upgrade"):
        load_tokenizer(str(folder))


def test_a_setting_of_the_wrong_kind(folder: Path) -> None:
    """Transformers checks settings with errors of a class of its own."""
    _change(folder / "config.json", rope_parameters="linear")
    with pytest.raises(ModelError, match=r"Cannot load the model .*rope_parameters.*linear"):
        load_model(str(folder))


# --------------------------------------------------------------------------- kinds of models


@pytest.mark.parametrize(("family", "reads"), [("vit", "pixel_values"), ("whisper", "input_feat")])
def test_a_model_that_does_not_read_texts(family: str, reads: str) -> None:
    with pytest.raises(ModelError, match=rf"reads {reads}.* and not texts.*batches="):
        plop.score(families.build(family), WordTokenizer(), LINES, progress=False)


def test_a_model_that_needs_more_than_texts() -> None:
    with pytest.raises(MeasurementError, match=r"refused a batch of input_ids.*batches="):
        plop.score(families.build("clip"), WordTokenizer(), LINES, progress=False)


def test_a_classifier_without_a_pad_token() -> None:
    """Its head reads the last token of each row, and refuses rows of several lengths."""
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 96, "n_positions": 64}
    model = transformers.GPT2ForSequenceClassification(transformers.GPT2Config(**sizes))
    options = {"include": ["score"], "progress": False}
    with pytest.raises(MeasurementError, match=r"no padding token.*--batch-size 1"):
        plop.score(model, WordTokenizer(), LINES, **options)
    assert plop.score(model, WordTokenizer(), LINES, batch_size=1, **options).types


def test_an_error_of_our_own_is_not_the_models(models, monkeypatch) -> None:
    """A fault in the probe that is called a refusal of the model would never be reported."""
    code = compile("def row_norms(features): raise ValueError('ours')", "probe.py", "exec")
    names: dict = {"__name__": "plop_lora.indicators.expected_norms"}
    exec(code, names)
    monkeypatch.setattr("plop_lora.scoring.measurement.sums.row_norms", names["row_norms"])
    with pytest.raises(ValueError, match="ours") as caught:
        plop.score(models("llama"), WordTokenizer(), LINES, progress=False)
    assert not isinstance(caught.value, PlopError)


def test_a_sentence_transformer_is_its_transformer() -> None:
    """Its modules go one after another and read a dictionary; the adapter goes into the first."""

    class First(torch.nn.Module):
        def __init__(self, model: torch.nn.Module) -> None:
            super().__init__()
            self.auto_model = model

    config = transformers.BertConfig(**SMALL, **HEADS, max_position_embeddings=64)
    inner = transformers.BertModel(config).eval()
    whole = torch.nn.Sequential(First(inner), torch.nn.Identity())
    options = {"texts": LINES, "progress": False}
    got = plop.score(whole, WordTokenizer(), **options)
    wanted = plop.score(inner, WordTokenizer(), **options)
    assert got.sites == wanted.sites
