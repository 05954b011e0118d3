"""The special tokens around a text go through the model, and do not count unless asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import families
import pytest
import torch
import transformers
from reference import exact_norm
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import plop_lora as plop
from plop_lora.data.batches import make_batches
from plop_lora.data.texts import Document
from plop_lora.data.tokens import TokenSequence, encode
from plop_lora.errors import DataError
from plop_lora.recipe import ScoringSettings
from plop_lora.records import Scores
from plop_lora.scoring.engines.in_memory import rows_of
from plop_lora.scoring.reference import reference_batches

GOLDEN = Path(__file__).parent / "golden" / "scores-1.json"
SOURCE = Path(__file__).parents[1] / "src"
MARKS = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "<turn>": 4}
TEXTS = [" ".join(f"w{(n * k) % 60}" for k in range(1, 3 + n % 5)) for n in range(1, 21)]
WORDS = sum(len(text.split()) for text in TEXTS)


def _tokenizer(single: str = "[CLS] $A [SEP]") -> transformers.PreTrainedTokenizerFast:
    """Return a tokenizer of words that puts special tokens around a text."""
    vocabulary = MARKS | {f"w{n}": len(MARKS) + n for n in range(60)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]",
        sep_token="[SEP]", additional_special_tokens=["<turn>"],
    )  # fmt: skip


def _encoded(*documents: Document, two_sided: bool = False, **options: bool):
    made, _, dropped = encode(
        documents, _tokenizer(), max_length=50, vocabulary=None, encoder_decoder=two_sided,
        **options,
    )  # fmt: skip
    return made, dropped


def _sequence(text: str, **options: bool) -> TokenSequence:
    return _encoded(Document(text), **options)[0][0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small BERT with a tokenizer that adds [CLS] and [SEP]."""
    place = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = transformers.BertConfig(**families.ENCODER)
    transformers.BertModel(config).save_pretrained(place)
    _tokenizer().save_pretrained(place)
    return str(place)


def _score(folder: str, **options: object) -> Scores:
    kept = {"stop": "fixed", "batch_size": 4, "progress": False}
    return plop.score(folder, texts=TEXTS, **(kept | options))


# --------------------------------------------------------------------------- which tokens


def test_the_tokens_around_a_text_are_told_from_it() -> None:
    assert _sequence("w1 w2").text_mask == (0, 1, 1, 0)
    assert _sequence("w1 w2", special_tokens=True).text_mask is None


def test_a_special_token_that_stands_for_a_word_is_text() -> None:
    """An unknown first word was taken for a mark of the beginning."""
    assert _sequence("strange w2 strange").text_mask == (0, 1, 1, 1, 0)


def test_special_tokens_inside_a_text_belong_to_it() -> None:
    """Those of a chat say who speaks, and a finetune on chats trains on them."""
    chat = Document("[CLS] <turn> w1 <turn> w2 <turn> [SEP]", rendered=True)
    assert _encoded(chat)[0][0].text_mask == (0, 0, 1, 1, 1, 0, 0)


def test_a_text_of_special_tokens_alone_is_dropped_as_an_empty_one() -> None:
    marks = Document("[CLS] [SEP]")
    assert _encoded(Document("w1"), marks)[1] == 1
    assert _encoded(Document("w1"), marks, special_tokens=True)[1] == 0
    with pytest.raises(DataError, match="or special tokens only"):
        _encoded(marks)


def test_the_decoders_start_and_end_do_not_count() -> None:
    """The decoder reads the target behind its start token, and not the target's last token."""
    (one, two), _ = _encoded(Document("w1 w2", "w3"), Document("w1", "w2 w3 w4"), two_sided=True)
    (batch,) = make_batches([one, two], batch_size=2, token_budget=1, decoder_start=0)
    assert one.target_text_mask == (0, 1, 0)
    decoder = batch.text_masks["decoder_attention_mask"]
    assert decoder.shape == batch.inputs["decoder_input_ids"].shape
    assert decoder.sum(1).tolist() == [1, 3]
    assert not decoder[:, :2].any()  # the start token, and [CLS]
    assert batch.text_masks["attention_mask"].sum(1).tolist() == [2, 1]


# --------------------------------------------------------------------------- what counts


def test_only_text_enters_the_score(folder: str) -> None:
    """[CLS] alone raised a type of all-MiniLM-L6-v2 from 1.12 to 1.18."""
    scores = _score(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    layer = model.encoder.layer[1].output.dense
    values: list[torch.Tensor] = []

    def keep(module, arguments, output) -> None:
        norms = (output - module.bias).norm(dim=-1) / arguments[0].norm(dim=-1)
        values.append(norms[0, 1:-1] / exact_norm(module.weight))

    handle = layer.register_forward_hook(keep)
    with torch.no_grad():
        for text in TEXTS:
            model(**tokenizer(text, return_tensors="pt"))
    handle.remove()
    site = next(s for s in scores.sites if s.name == "encoder.layer.1.output.dense")
    assert site.nfn == pytest.approx(float(torch.cat(values).mean()), rel=1e-3)
    assert site.tokens == scores.tokens == WORDS
    assert not [note for note in scores.notes if "counted" in note]


def test_they_count_where_asked_for(folder: str) -> None:
    """They are two more tokens a text; ready batches count what their masks admit."""
    kept = _score(folder, special_tokens=True)
    made = _tokenizer()(TEXTS, padding=True, return_tensors="pt", return_token_type_ids=False)
    ready = plop.score(folder, batches=[dict(made)], stop="fixed", progress=False)
    assert kept.tokens == ready.tokens == WORDS + 2 * len(TEXTS)
    nfn = {site.name: site.nfn for site in kept.sites}
    assert {s.name: s.nfn for s in ready.sites} == pytest.approx(nfn, rel=1e-4)
    assert kept.provenance.special_tokens
    assert ready.provenance.special_tokens
    assert not _score(folder).provenance.special_tokens


def test_nothing_changes_where_none_is_added(models, tokenizer, texts) -> None:
    options = {"stop": "fixed", "progress": False}
    one, other = (
        plop.score(models("llama"), tokenizer, texts, special_tokens=special, **options)
        for special in (True, False)
    )
    assert one.measurements == other.measurements


def test_an_encoder_decoder_counts_text_on_both_sides(models) -> None:
    scores = plop.score(
        models("t5"), _tokenizer("$A [SEP]"), TEXTS, stop="fixed", progress=False
    )  # fmt: skip
    assert scores.tokens == 2 * WORDS
    assert {site.tokens for site in scores.sites} == {WORDS}


def test_experts_count_text_only() -> None:
    """The rows of an expert are tokens that a router picked, special ones among them."""
    scores = plop.score(
        families.build("mixtral"), _tokenizer(), TEXTS, stop="fixed", progress=False
    )  # fmt: skip
    assert not [note for note in scores.notes if "counted" in note]
    of_experts = [site for site in scores.sites if site.experts]
    assert of_experts
    assert {site.tokens % WORDS for site in of_experts} == {0}


# --------------------------------------------------------------------------- engines, batches


def _same(one: Scores, other: Scores) -> None:
    assert one.measurements.sequence_ids == other.measurements.sequence_ids
    assert one.measurements.counts == other.measurements.counts
    for row, expected in zip(one.measurements.sums, other.measurements.sums, strict=True):
        assert row == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 20}, {"engine": "stream"}])
def test_batches_and_the_stream_engine_agree(folder: str, options: dict[str, object]) -> None:
    _same(_score(folder, **options), _score(folder))


def test_a_row_alone_keeps_its_mask() -> None:
    """A model that mixes texts runs each alone, without padding."""
    made, _ = _encoded(Document("w1 w2 w3"), Document("w4"))
    (batch,) = make_batches(made, batch_size=2, token_budget=1)
    masks = [row.text_masks["attention_mask"].tolist() for row in rows_of(batch)]
    assert masks == [[[0, 1, 1, 1, 0]], [[0, 1, 0]]]
    assert batch.part(1, 2).text_masks["attention_mask"].tolist() == [[0, 1, 0, 0, 0]]


def test_the_general_text_counts_the_same_tokens(folder: str) -> None:
    """It would be another kind of input if [CLS] counted there and not in the texts."""
    tokenizer, model = _tokenizer(), transformers.AutoModel.from_pretrained(folder)
    made, _ = _encoded(Document("w1 w2 w3"), Document("w4"))
    batches = make_batches(made, batch_size=2, token_budget=1)
    for counted in (False, True):
        asked = ScoringSettings(special_tokens=counted)
        for batch in reference_batches(batches, model, tokenizer, asked).batches:
            ids = batch.inputs["input_ids"]
            assert ids[:, 0].tolist() == [MARKS["[CLS]"]] * len(ids)
            assert set(ids[:, -1].tolist()) == {MARKS["[SEP]"]}
            if counted:
                assert batch.text_masks == {}
            else:
                mask = batch.text_masks["attention_mask"]
                assert not mask[:, 0].any()
                assert not mask[:, -1].any()
                assert mask[:, 1:-1].all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_workers_of_ray_agree(folder: str, ray_cluster: None) -> None:
    _same(_score(folder, engine="ray"), _score(folder))


@pytest.mark.slow
def test_several_processes_agree(folder: str, tmp_path: Path) -> None:
    data, output = tmp_path / "texts.txt", tmp_path / "scores.json"
    data.write_text("\n".join(TEXTS))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    score = ["-m", "plop_lora", "score", folder, "--data", str(data), "--stop", "fixed"]
    paths = os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [sys.executable, *launcher, *score, "--batch-size", "4", "-o", str(output)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        check=True, capture_output=True, timeout=600,
    )  # fmt: skip
    _same(Scores.load(output), _score(folder))


# --------------------------------------------------------------------------- records


def test_records_from_before_count_special_tokens() -> None:
    assert Scores.load(GOLDEN).provenance.special_tokens


def test_comparing_names_the_difference(folder: str) -> None:
    """Two records of one model and one sample differed by 0.06 for no reason to be seen."""
    left_out, kept = _score(folder), _score(folder, special_tokens=True)
    (note,) = plop.compare(left_out, kept).notes
    assert "count in the second file only" in note
    assert not plop.compare(kept, kept).notes


def test_comparing_is_silent_where_there_was_none_to_count(scores: Scores) -> None:
    settings = scores.provenance.settings | {"special_tokens": True}
    other = replace(scores, provenance=replace(scores.provenance, settings=settings))
    assert not plop.compare(scores, other).notes


def test_the_option_sets_the_key(folder: str, tmp_path: Path, run) -> None:
    data, output = tmp_path / "texts.txt", tmp_path / "scores.json"
    data.write_text("\n".join(TEXTS))
    words = ["score", folder, "--data", str(data), "--stop", "fixed", "-o", str(output)]
    assert run(*words, "--special-tokens", "--format", "quiet")[0] == 0
    assert Scores.load(output).tokens == WORDS + 2 * len(TEXTS)
