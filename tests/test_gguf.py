"""GGUF files are scored as what they stand for, or refused with the file and the way out named."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import plop_lora as plop
from plop_lora.demo import MODEL
from plop_lora.errors import MissingExtraError, ModelError, UsageError
from plop_lora.models.gguf import locate
from plop_lora.models.loading import load_tokenizer
from plop_lora.models.origin import Origin
from plop_lora.recipe import VerifyRecipe
from plop_lora.records import Scores
from plop_lora.scoring.measurement.expected_norm_cache import checkpoint_key
from plop_lora.study.study import Study

gguf = pytest.importorskip("gguf", reason="extra gguf")
import gguf_files  # noqa: E402  # needs the package

KINDS = gguf.GGMLQuantizationType
TEXTS = [f"{word} {i} and {i * i}" for i in range(8) for word in ("one", "  two", "three")]
TOLERANCE = 1e-6
"""Of an NFN: the weights are the same numbers, and the epsilon of the norms is kept in float32."""


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """A GGUF in Q8_0, alone in its folder."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    gguf_files.write_gguf(path, KINDS.Q8_0)
    return path


# --------------------------------------------------------------------------- what is scored


@pytest.mark.parametrize("kind", [KINDS.F32, KINDS.F16, KINDS.Q8_0, KINDS.Q5_1, KINDS.Q4_0])
def test_the_scores_are_those_of_the_dequantised_weights(tmp_path: Path, kind) -> None:
    """A wrong order of rows in q and k, or another rounding, would change every later layer."""
    file = tmp_path / "tiny.gguf"
    gguf_files.write_gguf(file, kind).save_pretrained(tmp_path / "plain")
    tokenizer = load_tokenizer(str(tmp_path), Origin(gguf="tiny.gguf"))
    found = plop.score(file, texts=TEXTS, stop="fixed", progress=False)
    wanted = plop.score(
        tmp_path / "plain", tokenizer, TEXTS, stop="fixed", dtype="float32", progress=False
    )
    for site, other in zip(found.sites, wanted.sites, strict=True):
        assert site.name == other.name
        assert site.nfn == pytest.approx(other.nfn, rel=TOLERANCE)
    assert found.tokens == wanted.tokens
    assert found.provenance.dtype == "float32"
    assert kind.name in found.model.gguf.types


def test_the_record_names_the_file_and_its_content(tiny: Path, tmp_path: Path) -> None:
    """Scores of one quantisation must not pass for those of another, or of the original."""
    scores = plop.score(str(tiny), texts=TEXTS, stop="fixed", progress=False)
    digest = hashlib.sha256(tiny.read_bytes()).hexdigest()
    assert scores.model.name == str(tiny)
    assert dataclasses.astuple(scores.model.gguf) == ("tiny.gguf", digest, {"F32": 5, "Q8_0": 15})
    told = f"from tiny.gguf (5 tensors in F32, 15 tensors in Q8_0; SHA-256 {digest[:12]}"
    assert told in " ".join(str(scores).split())
    assert Scores.load(scores.save(tmp_path / "scores.json")) == scores


def test_the_three_ways_to_name_a_file_are_one(tiny: Path) -> None:
    """A folder with a single GGUF needs no name; the others give the same record."""
    folder = tiny.parent
    ways = [(str(tiny), None), (str(folder), None), (str(folder), "tiny.gguf")]
    assert {locate(*way) for way in ways} == {(str(folder), "tiny.gguf")}
    by_name = plop.score(folder, texts=TEXTS, gguf="tiny.gguf", progress=False)
    assert by_name.model == plop.score(folder, texts=TEXTS, progress=False).model


def test_a_file_of_the_same_name_in_the_working_directory(
    tiny: Path, tmp_path: Path, monkeypatch
) -> None:
    """The weights were read from there, and the configuration from the folder."""
    gguf_files.write_gguf(tmp_path / "tiny.gguf", KINDS.Q4_0)
    before = plop.score(tiny, texts=TEXTS, stop="fixed", progress=False)
    monkeypatch.chdir(tmp_path)
    after = plop.score(tiny, texts=TEXTS, stop="fixed", progress=False)
    assert [site.nfn for site in after.sites] == [site.nfn for site in before.sites]


def test_the_cache_tells_two_files_of_a_folder_apart(tmp_path: Path) -> None:
    """Both would have had the expected norms of the first that was scored."""
    for name, kind in (("a", KINDS.Q8_0), ("b", KINDS.Q4_0)):
        gguf_files.write_gguf(tmp_path / f"{name}.gguf", kind)
    origins = [Origin(), Origin(gguf="a.gguf"), Origin(gguf="b.gguf")]
    plain, *keys = [checkpoint_key(str(tmp_path), origin) for origin in origins]
    assert plain is None
    assert None not in keys
    assert keys[0] != keys[1]


# --------------------------------------------------------------------------- its tokenizer


def test_a_tokenizer_beside_the_file_is_used(tiny: Path, tmp_path: Path) -> None:
    """It is the model's own, and transformers would build another one from the file."""
    shutil.copy(tiny, tmp_path)
    built = load_tokenizer(str(tmp_path), Origin(gguf="tiny.gguf"))
    built.add_tokens(["three"])
    built.save_pretrained(tmp_path)
    beside = load_tokenizer(str(tmp_path), Origin(gguf="tiny.gguf"))
    assert len(beside("three")["input_ids"]) == 1


def test_a_pre_tokenizer_that_transformers_does_not_know_is_noted(tmp_path: Path) -> None:
    """GPT-2's splits are taken then, and nothing says so."""
    gguf_files.write_gguf(tmp_path / "tiny.gguf", pre_tokenizer="smollm")
    scores = plop.score(tmp_path / "tiny.gguf", texts=TEXTS, progress=False)
    assert any("'smollm' of tiny.gguf" in note for note in scores.notes)
    other = tmp_path / "other"
    load_tokenizer(str(tmp_path), Origin(gguf="tiny.gguf")).save_pretrained(other)
    given = plop.score(tmp_path / "tiny.gguf", str(other), TEXTS, progress=False)
    assert not any("smollm" in note for note in given.notes)


@pytest.mark.parametrize("kind", [None, "rwkv"])
def test_no_tokenizer_can_be_had_from_the_file(tmp_path: Path, texts: Path, run, kind) -> None:
    """The error is about the tokenizer, and `--tokenizer` is the way out."""
    gguf_files.write_gguf(tmp_path / "tiny.gguf", tokenizer=kind)
    code, _, told = run("score", str(tmp_path / "tiny.gguf"), "--data", str(texts))
    assert code == 1
    assert "cannot build a tokenizer from" in told
    assert "--tokenizer" in told


# --------------------------------------------------------------------------- what is refused


def _truncated(path: Path) -> None:
    gguf_files.write_gguf(path)
    path.write_bytes(path.read_bytes()[:-4096])


def _cut_in_its_header(path: Path) -> None:
    gguf_files.write_gguf(path)
    path.write_bytes(path.read_bytes()[:300])


def _damaged(path: Path) -> None:
    gguf_files.write_gguf(path)
    content = bytearray(path.read_bytes())
    content[8:24] = b"\xff" * 16
    path.write_bytes(content)


REFUSED = {
    "truncated": (_truncated, ("truncated or damaged", "download it again")),
    "cut in its header": (_cut_in_its_header, ("truncated or damaged",)),
    "damaged": (_damaged, ("truncated or damaged",)),
    "empty": (lambda path: path.write_bytes(b""), ("not a GGUF file",)),
    "text": (lambda path: path.write_text("<html>"), ("not a GGUF file", "letters GGUF")),
    "pointer": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"),
        ("pointer of Git LFS",),
    ),
    "a part": (lambda path: gguf_files.write_gguf(path, parts=3), ("one of 3 parts", "--merge")),
    "another architecture": (
        lambda path: gguf_files.write_gguf(path, architecture="rwkv7"),
        ("architecture 'rwkv7'", "It reads: ", "llama", "qwen3"),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_files_that_cannot_be_scored(case: str, tmp_path: Path, texts: Path, run) -> None:
    """Each of them ended in whatever failed inside of a reader."""
    write, words = REFUSED[case]
    write(tmp_path / "m.gguf")
    tokenizer = ["--tokenizer", str(MODEL)] if case == "another architecture" else []
    code, _, told = run("score", str(tmp_path / "m.gguf"), "--data", str(texts), *tokenizer)
    assert code == 1
    assert "m.gguf" in told
    for word in words:
        assert word in " ".join(told.split())


def test_a_folder_with_several_files_needs_a_name(tiny: Path, tmp_path: Path) -> None:
    """The first by name would be scored, whichever was meant."""
    for name in ("a-Q4_0.gguf", "a-Q8_0.gguf"):
        shutil.copy(tiny, tmp_path / name)
    with pytest.raises(ModelError, match=r"a-Q4_0.gguf, a-Q8_0.gguf. Name one with --gguf"):
        locate(str(tmp_path), None)
    with pytest.raises(ModelError, match=r"Did you mean 'a-Q8_0.gguf'.*holds: a-Q4_0.gguf"):
        locate(str(tmp_path), "a-Q8.gguf")
    with pytest.raises(ModelError, match=r"no GGUF file .*a-Q8.gguf"):
        locate(str(tmp_path / "a-Q8.gguf"), None)


@pytest.mark.parametrize("name", ["folder/m.gguf", "m.safetensors"])
def test_what_is_no_name_of_a_file(tiny: Path, name: str) -> None:
    with pytest.raises(UsageError, match="not the name of a GGUF file"):
        locate(str(tiny.parent), name)
    with pytest.raises(UsageError, match="is a GGUF file already"):
        locate(str(tiny), name)


def test_a_file_is_not_streamed(tiny: Path, texts: Path, run) -> None:
    """Its weights are dequantised as a whole, so that streaming would save nothing."""
    code, _, told = run("score", str(tiny), "--data", str(texts), "--engine", "stream")
    assert code == 2
    assert "--engine auto, memory or ray" in told


def test_the_package_is_an_extra(tiny: Path, texts: Path, run, monkeypatch, tmp_path) -> None:
    """The error of transformers names two packages, one of which is there."""
    copied = shutil.copy(tiny, tmp_path / "again.gguf")  # a header that was not read yet
    monkeypatch.setitem(sys.modules, "gguf", None)
    code, _, told = run("score", str(copied), "--data", str(texts))
    assert code == 1
    assert "pip install 'plop-lora[gguf]'" in told
    with pytest.raises(MissingExtraError):
        plop.score(copied, texts=TEXTS, progress=False)


def test_a_file_is_not_trained(tiny: Path, tmp_path: Path) -> None:
    """Trials would load the folder without the file, or another model in it."""
    scores = plop.score(tiny, texts=TEXTS, progress=False)
    rows = tmp_path / "rows.jsonl"
    row = '{{"prompt": "{0} and {0}", "completion": "{0}"}}\n'
    rows.write_text("".join(row.format(number) for number in range(90)))
    other = tmp_path / "other.jsonl"
    other.write_text(rows.read_text().replace("and", "or"))
    recipe = VerifyRecipe.read(None, {"task": "sft", "train": str(rows), "eval": str(other)})
    with pytest.raises(UsageError, match=r"scored but not trained.*--model converted: ") as refused:
        Study.open(scores, recipe, tmp_path / "run")
    command = str(refused.value).partition("--model converted: ")[2]
    words = shlex.split(command)
    assert words[0] == "python"
    subprocess.run([sys.executable, *words[1:]], cwd=tmp_path, check=True, capture_output=True)
    converted = plop.score(tmp_path / "converted", texts=TEXTS, progress=False)
    assert [site.nfn for site in converted.sites] == [site.nfn for site in scores.sites]
    recipe = VerifyRecipe.read(
        None,
        {
            "task": "sft",
            "train": str(rows),
            "eval": str(other),
            "model": str(tmp_path / "converted"),
        },
    )
    assert Study.open(scores, recipe, tmp_path / "run").model.name == str(tmp_path / "converted")
