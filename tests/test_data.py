"""Every kind of data, and every way in which it can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import families
import pytest
from conftest import WordTokenizer

import plop_lora as plop
from plop_lora.data.batches import make_batches
from plop_lora.data.documents import load_documents
from plop_lora.data.texts import Document
from plop_lora.data.tokens import encode
from plop_lora.demo import MODEL
from plop_lora.errors import DataError, ModelError, UsageError

ROWS = [{"question": f"what is {n}?", "answer": f"it is {n * 2}"} for n in range(10)]


def _write(folder: Path, suffix: str, rows: list[dict]) -> str:
    path = folder / f"data{suffix}"
    if suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    elif suffix == ".json":
        path.write_text(json.dumps(rows))
    elif suffix == ".csv":
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
        path.write_text("\n".join(lines))
    elif suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return str(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_formats(tmp_path, suffix: str) -> None:
    source = _write(tmp_path, suffix, ROWS)
    by_field = load_documents(source, text="answer", samples=4, seed=3)
    assert len(by_field.items) == 4
    assert {d.text for d in by_field.items} <= {row["answer"] for row in ROWS}
    joined = load_documents(source, template="{question}\n{answer}")
    assert joined.items[0] == Document("what is 0?\nit is 0")


def test_txt_skips_and_counts_blank_lines(tmp_path) -> None:
    path = tmp_path / "data.txt"
    path.write_text("one\n\n  \ntwo\n")
    documents = load_documents(str(path))
    assert [d.text for d in documents.items] == ["one", "two"]
    assert documents.skipped == 2


def test_recognition(tmp_path) -> None:
    def chat(messages: list[dict]) -> str:
        return "|".join(message["content"] for message in messages)

    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    cases = [
        ({"messages": talk, "text": "no"}, Document("hi|yes", rendered=True)),
        ({"prompt": "a", "completion": "b"}, Document("a", "b")),
        ({"prompt": talk[:1], "completion": talk[1:]}, Document("hi|yes", rendered=True)),
        ({"text": "t", "other": "o"}, Document("t")),
        ({"label": 3, "body": "only string"}, Document("only string")),
    ]
    for row, expected in cases:
        source = _write(tmp_path, ".jsonl", [row])
        assert load_documents(source, chat=chat).items == (expected,)


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ({"a": "x", "b": "y"}, {}, r'it has: a, b. Name one with --text, .*"\{a\}\\n\{b\}"'),
        ({"question": "x"}, {"text": "qestion"}, r"no field 'qestion'. Did you mean 'question'"),
        ({"a": "x", "b": "y"}, {"template": "{a} {c}"}, r"no field 'c'. It has: a, b"),
        ({"text": None}, {}, r"No row of .* has text \(rows read: 1\)"),
        ({"text": "  "}, {}, r"No row of .* has text \(rows read: 1\)"),
        ({"messages": [{"role": "user", "content": "x"}]}, {}, "no chat template"),
    ],
)
def test_rows_that_cannot_be_read(tmp_path, row: dict, options: dict, message: str) -> None:
    source = _write(tmp_path, ".jsonl", [row])
    with pytest.raises(DataError, match=message):
        load_documents(source, **options)


def test_options_that_cannot_work(tmp_path) -> None:
    source = _write(tmp_path, ".jsonl", ROWS)
    with pytest.raises(UsageError, match="not both"):
        load_documents(source, text="question", template="{answer}")
    with pytest.raises(UsageError, match="names no field"):
        load_documents(source, template="nothing")
    with pytest.raises(UsageError, match="--samples 0"):
        load_documents(source, samples=0)


def test_files_that_cannot_be_read(tmp_path) -> None:
    (tmp_path / "problems.jsonl").write_text("")
    with pytest.raises(DataError, match="holds no rows"):
        load_documents(str(tmp_path / "problems.jsonl"))
    with pytest.raises(DataError, match=r"Did you mean 'problems\.jsonl'"):
        load_documents(str(tmp_path / "problem.jsonl"))
    with pytest.raises(DataError, match=r"is a folder; give one file of it \(problems\.jsonl\)"):
        load_documents(str(tmp_path))
    (tmp_path / "broken.jsonl").write_text('{"text": "a"}\n{"text": ')
    with pytest.raises(DataError, match=r"broken\.jsonl, line 2, is not JSON"):
        load_documents(str(tmp_path / "broken.jsonl"))
    (tmp_path / "fake.parquet").write_text("no")
    with pytest.raises(DataError, match="not a Parquet file"):
        load_documents(str(tmp_path / "fake.parquet"))
    (tmp_path / "data.xml").write_text("<a/>")
    with pytest.raises(DataError, match=r"\.xml is not one of"):
        load_documents(str(tmp_path / "data.xml"))


def test_unknown_hub_data_set() -> None:
    with pytest.raises(DataError, match="name:config:split"):
        load_documents("nobody/nothing-at-all:main:train")
    with pytest.raises(DataError, match="write a hub data set as"):
        load_documents("a:b:c:d")
    with pytest.raises(DataError, match="write a hub data set as"):
        load_documents("owner/name::train")


def test_hub_names_reach_the_library(monkeypatch) -> None:
    """`name:config:split` is taken apart as the issue of a hub name says."""
    import datasets

    calls = []

    def load(
        name: str, config: str | None, split: str, token: str | None, revision: str | None
    ) -> list[dict]:
        calls.append((name, config, split))
        return [{"text": "a"}]

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr("plop_lora.data.reading.out_of_reach", lambda name, kind: "")
    for source in ("o/d", "o/d:test", "o/d:main:test"):
        assert load_documents(source).items == (Document("a"),)
    assert calls == [("o/d", None, "train"), ("o/d", None, "test"), ("o/d", "main", "test")]


def test_vocabulary_mismatch(models) -> None:
    with pytest.raises(ModelError, match=r"token number \d+, but the model's embedding has 96"):
        plop.score(models("llama"), WordTokenizer(500), ["some words here"], progress=False)


@pytest.mark.slow
def test_tokenizer_without_a_pad_token(texts) -> None:
    """GPT-2's and Llama's have none; padding is ours, masked, and any token will do."""
    import transformers

    from plop_lora.demo import MODEL

    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    with_pad = plop.score(str(MODEL), tokenizer, texts, batch_size=8, progress=False)
    tokenizer.pad_token = None
    without = plop.score(str(MODEL), tokenizer, texts, batch_size=1, progress=False)
    assert [row.type for row in without.types] == [row.type for row in with_pad.types]
    for one, two in zip(with_pad.types, without.types, strict=True):
        assert one.nfn == pytest.approx(two.nfn, rel=0.01)


def test_zero_tokens(models, tokenizer) -> None:
    """A text without tokens is dropped and counted; nothing but such texts is an error."""

    class Silent(WordTokenizer):
        def __call__(self, text: str, **options: object) -> dict[str, list[int]]:
            return {"input_ids": [] if "drop" in text else [5, 6]}

    scores = plop.score(models("llama"), Silent(), ["drop me", "keep me"], progress=False)
    assert scores.sequences == 1
    assert scores.notes == ("1 text dropped for having no token",)
    assert scores.types[0].low is None
    with pytest.raises(DataError, match="zero tokens"):
        plop.score(models("llama"), Silent(), ["drop"], progress=False)


def test_zero_tokens_in_a_ready_batch(models) -> None:
    import torch

    batch = {"input_ids": torch.ones(2, 3).long(), "attention_mask": torch.eye(2, 3).long()}
    batch["attention_mask"][1] = 0
    with pytest.raises(DataError, match="Batch 0, row 1, has zero tokens"):
        plop.score(models("llama"), batches=[batch], progress=False)
    with pytest.raises(DataError, match="holds no tensors"):
        plop.score(models("llama"), batches=[{"text": "a"}], progress=False)
    with pytest.raises(DataError, match="no batch"):
        plop.score(models("llama"), batches=[], progress=False)


def test_long_texts_are_cut_at_the_models_positions(models, tokenizer) -> None:
    """GPT-2 has 64 positions here; more would be an index error deep inside the model."""
    scores = plop.score(models("gpt2"), tokenizer, ["word " * 300, "short one"], progress=False)
    assert scores.notes == ("1 text cut to 64 tokens",)
    assert scores.tokens == 66


def test_blank_texts_are_skipped_and_counted(models, tokenizer) -> None:
    scores = plop.score(models("llama"), tokenizer, ["a b", None, "", " "], progress=False)
    assert scores.notes == ("3 rows of texts skipped for empty text",)
    with pytest.raises(DataError, match="all of it is blank"):
        plop.score(models("llama"), tokenizer, ["", None], progress=False)


def test_encoder_decoder_sides_have_different_widths() -> None:
    """Equal widths would make the encoder's tokens look like the decoder's."""
    sequences, *_ = encode(
        [Document("a b c", "d e f"), Document("a", "b c")],
        WordTokenizer(), max_length=9, vocabulary=None, encoder_decoder=True,
    )  # fmt: skip
    (batch,) = make_batches(sequences, batch_size=2, token_budget=1, decoder_start=0)
    assert batch.inputs["input_ids"].shape == (2, 3)
    assert batch.inputs["decoder_input_ids"].shape == (2, 4)
    assert batch.inputs["decoder_attention_mask"].sum(1).tolist() == [3, 2]


def test_t5_on_texts(models, tokenizer, texts) -> None:
    scores = plop.score(models("t5"), tokenizer, texts, progress=False)
    assert "decoder.EncDecAttention.k" in scores.type_names()
    assert scores.coverage.share == 1.0


def test_positions_behind_the_padding_token(tmp_path) -> None:
    """RoBERTa's table has rows that no text may use; the longest text must not crash on them."""
    model = families.build("roberta")
    scores = plop.score(model, WordTokenizer(), ["word " * 200], progress=False)
    usable = 64 - model.config.pad_token_id - 1
    assert scores.tokens == usable
    assert scores.notes == (f"1 text cut to {usable} tokens",)


def test_texts_that_are_no_strings(models) -> None:
    with pytest.raises(DataError, match="texts holds 3, which is no string"):
        plop.score(models("llama"), WordTokenizer(), ["a", 3], progress=False)


@pytest.mark.slow
def test_a_path_is_a_model(capfd) -> None:
    """A Path works as well as its text, and `progress=False` prints nothing at all."""
    scores = plop.score(MODEL, texts=["one", "two words"], progress=False)
    assert scores.model.name == str(MODEL)
    assert capfd.readouterr().err == ""
