"""The choice on random tokens, which tells what of a choice comes from the user's data."""

from __future__ import annotations

import json
from pathlib import Path

import conftest
import pytest
import torch

import plop_lora as plop
from plop_lora.data.batches import Batch
from plop_lora.demo import DATA, MODEL
from plop_lora.models.loading import load_model, load_tokenizer
from plop_lora.records import Scores
from plop_lora.reports.terminal import as_text
from plop_lora.scoring.reference import SEQUENCES, random_batches

GOLDEN = Path(__file__).parent / "golden" / "scores-1.json"
TEXTS = [f"What is {n} plus {n * n}? It is {n + n * n}." for n in range(40)]
ENGINES = ("memory", "stream")


@pytest.fixture(scope="module")
def bundled() -> tuple[torch.nn.Module, object]:
    return load_model(str(MODEL), progress=False), load_tokenizer(str(MODEL))


def _batch(rows: int, width: int = 12) -> Batch:
    ids = torch.full((rows, width), 7)
    mask = torch.ones_like(ids)
    mask[:, 9:] = 0
    inputs = {"input_ids": ids * mask, "attention_mask": mask}
    return Batch(inputs, tuple(map(str, range(rows))))


def test_random_tokens_have_the_shapes_and_no_special_token(bundled) -> None:
    """A special token, or padding that counts, would make the control another kind of input."""
    model, tokenizer = bundled
    given = [_batch(5), _batch(6)]
    made = random_batches(given, model, tokenizer, seed=0)
    assert [len(batch.names) for batch in made] == [5, SEQUENCES - 5]
    for batch, source in zip(made, given, strict=True):
        rows = len(batch.names)
        mask = source.inputs["attention_mask"][:rows]
        assert torch.equal(batch.inputs["attention_mask"], mask)
        assert not batch.inputs["input_ids"][mask == 0].any()
        drawn = set(batch.inputs["input_ids"][mask == 1].tolist())
        assert not drawn & set(tokenizer.all_special_ids)
        assert len(drawn) > rows * 9 // 2
    again = random_batches(given, model, tokenizer, seed=0)
    other = random_batches(given, model, tokenizer, seed=1)
    assert torch.equal(made[0].inputs["input_ids"], again[0].inputs["input_ids"])
    assert not torch.equal(made[0].inputs["input_ids"], other[0].inputs["input_ids"])


def test_none_where_the_vocabulary_is_unknown(models, tokenizer) -> None:
    """Embeddings, pixels, and tokens that stand for pixels cannot be drawn from a vocabulary.

    Nor can those of a ready batch without a tokenizer: nobody knows which of them are special.
    """
    whole = _batch(2)
    embedded = Batch({"inputs_embeds": torch.ones(2, 3, 8)}, ("a", "b"))
    with_pixels = Batch(whole.inputs | {"pixel_values": torch.ones(2, 3, 8, 8)}, ("a", "b"))
    for batch in (embedded, with_pixels):
        assert random_batches([batch], models("llama"), tokenizer, 0) == ()
    assert random_batches([whole], models("vit"), tokenizer, 0) == ()
    assert random_batches([whole], models("llama"), None, 0) == ()
    assert len(random_batches([whole], models("llama"), tokenizer, 0)) == 1
    scores = plop.score(models("vit"), batches=[conftest.make_batch("vit")], progress=False)
    assert scores.references == ()


@pytest.mark.slow
def test_ready_batches_have_a_control_where_a_tokenizer_is_given(bundled) -> None:
    model, tokenizer = bundled
    batches = [_batch(6).inputs]
    assert plop.score(model, batches=batches, progress=False).references == ()
    for given in (tokenizer, str(MODEL)):
        scores = plop.score(model, given, batches=batches, progress=False)
        assert [row.name for row in scores.references] == ["random tokens"]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("stop", ["adaptive", "fixed"])
def test_the_control_changes_no_score(engine: str, stop: str) -> None:
    """Random tokens that get among the user's would change every number and every interval."""
    options = {"texts": TEXTS, "engine": engine, "stop": stop, "progress": False}
    without = plop.score(MODEL, **options, reference=False)
    scores = plop.score(MODEL, **options)
    assert scores.types == without.types
    assert scores.measurements == without.measurements
    assert (scores.tokens, scores.sequences) == (without.tokens, without.sequences)
    (reference,) = scores.references
    assert (without.references, reference.name) == ((), "random tokens")
    assert reference.sequences == SEQUENCES
    assert reference.tokens <= SEQUENCES * scores.tokens


@pytest.mark.slow
def test_every_engine_gives_the_same_control() -> None:
    found = [
        plop.score(MODEL, texts=TEXTS, engine=engine, stop="fixed", progress=False).references[0]
        for engine in ENGINES
    ]
    assert found[0].chosen == found[1].chosen
    for name, nfn in found[0].nfn.items():
        assert found[1].nfn[name] == pytest.approx(nfn, rel=1e-4)


@pytest.mark.slow
def test_an_encoder_decoder_has_a_control(models, tokenizer, texts) -> None:
    scores = plop.score(models("t5"), tokenizer, texts, progress=False)
    assert len(scores.references[0].chosen) == 3


@pytest.mark.slow
def test_the_choice_of_the_bundled_model_is_its_own(tmp_path, run) -> None:
    """Seven interval estimates say that a choice is sure, and none that any text gives it."""
    record = tmp_path / "scores.json"
    words = ["score", str(MODEL), "--data", str(DATA / "snippets.jsonl"), "-o", str(record)]
    code, output, _ = run(*words)
    assert code == 0
    loaded = Scores.load(record)
    (reference,) = loaded.references
    lowest = {row.type for row in loaded.types[:3]}
    assert reference.same_choice == (set(reference.chosen) == lowest)
    same = "The same three types are lowest on random tokens: this is a property of the model more"
    other = f"On random tokens the lowest are {', '.join(reference.chosen)}: the choice depends on"
    assert (same if reference.same_choice else other) in " ".join(output.split())
    code, output, _ = run(*words, "--no-reference", "--force")
    assert code == 0
    assert Scores.load(record).references == ()
    assert "random tokens" not in output


def test_old_records_have_no_control() -> None:
    document = json.loads(GOLDEN.read_text())
    assert "references" not in document
    scores = Scores.load(GOLDEN)
    assert scores.references == ()
    assert "random tokens" not in as_text(scores)
