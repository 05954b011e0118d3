"""The general text that is scored beside the user's, which tells what of a ranking is theirs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import conftest
import families
import numpy as np
import pytest
import torch
from scipy import stats

import plop_lora as plop
from plop_lora.data.batches import Batch, ready_batches
from plop_lora.data.general_text import passages as general_passages
from plop_lora.demo import DATA, MODEL
from plop_lora.models.loading import load_model, load_tokenizer
from plop_lora.recipe import ScoringSettings
from plop_lora.records import Agreement, ReferenceChoice, Scores
from plop_lora.reports.markdown import table_markdown
from plop_lora.reports.page import markdown_page, results_of
from plop_lora.reports.rows import scores_table
from plop_lora.reports.terminal import as_text
from plop_lora.reports.text import LANGUAGES
from plop_lora.scoring.reference import FEWEST, LONGEST, MOST, NAME, reference_batches
from plop_lora.statistics import rank_correlation
from plop_lora.statistics.ranks import LEAST_PAIRS

GOLDEN = Path(__file__).parent / "golden" / "scores-1.json"
TEXTS = [f"What is {n} plus {n * n}? It is {n + n * n}." for n in range(40)]
ENGINES = ("memory", "stream")


@pytest.fixture(scope="module")
def bundled() -> tuple[torch.nn.Module, object]:
    return load_model(str(MODEL), progress=False), load_tokenizer(str(MODEL))


def _batch(rows: int, width: int) -> Batch:
    """Return a batch of which one token in four is padding."""
    ids = torch.full((rows, width), 7)
    mask = torch.ones_like(ids)
    mask[:, width - width // 4 :] = 0
    inputs = {"input_ids": ids * mask, "attention_mask": mask}
    return Batch(inputs, tuple(map(str, range(rows))))


# --------------------------------------------------------------------------- the batches


@pytest.mark.parametrize(("width", "length"), [(4, 8), (40, 30), (96, 72), (400, LONGEST)])
def test_its_sequences_are_as_long_as_the_users(bundled, width: int, length: int) -> None:
    """The first tokens of a sequence have features of their own, whose share its length decides."""
    model, tokenizer = bundled
    made = reference_batches([_batch(200, width)], model, tokenizer, ScoringSettings())
    assert made.notes == ()
    rows = sum(len(batch.names) for batch in made.batches)
    assert rows == min(max(FEWEST, -(-1024 // length)), MOST)
    assert all(batch.inputs["attention_mask"].sum(1).eq(length).all() for batch in made.batches)
    names = [name for batch in made.batches for name in batch.names]
    assert len(set(names)) == rows
    assert all(name.startswith("reference ") for name in names)


def test_it_has_no_more_tokens_than_the_users_texts(bundled) -> None:
    """Where a token costs seconds, a few texts would cost less than the comparison."""
    model, tokenizer = bundled
    made = reference_batches([_batch(25, 16)], model, tokenizer, ScoringSettings()).batches
    assert sum(len(batch.names) for batch in made) == 25


def test_the_settings_of_the_user_hold_for_it(bundled) -> None:
    """A model that reads one text at a time, or a shorter context, would refuse it."""
    model, tokenizer = bundled
    asked = ScoringSettings(batch_size=1, max_length=10)
    made = reference_batches([_batch(3, 40)], model, tokenizer, asked).batches
    assert {batch.inputs["input_ids"].shape for batch in made} == {(1, 10)}


def test_passages_share_no_text() -> None:
    passages = general_passages("english", FEWEST, 8 * LONGEST)
    lines = [line for passage in passages for line in passage.split("\n")]
    assert len(lines) == len(set(lines)) >= 2 * FEWEST
    assert all(len(passage) >= 8 * LONGEST for passage in passages)
    with pytest.raises(ValueError, match="no 200 passages of 500 characters"):
        general_passages("english", 200, 500)


def test_what_cannot_be_compared_has_none_and_says_so(models, tokenizer) -> None:
    """Embeddings and pixels are another kind of input; without a tokenizer nothing can be read."""
    asked = ScoringSettings()
    whole = _batch(2, 12)
    embedded = Batch({"inputs_embeds": torch.ones(2, 3, 8)}, ("a", "b"))
    with_pixels = Batch(whole.inputs | {"pixel_values": torch.ones(2, 3, 8, 8)}, ("a", "b"))
    llama = models("llama")
    for batch, reader, reason in (
        (embedded, tokenizer, "the batches hold inputs_embeds"),
        (with_pixels, tokenizer, "the batches hold pixel_values"),
        (whole, None, "need their tokenizer"),
        (whole, conftest.WordTokenizer(vocabulary=10**6), "no tokens of it that the model has"),
    ):
        made = reference_batches([batch], llama, reader, asked)
        assert made.batches == ()
        assert reason in made.notes[0]
        assert made.notes[0].startswith(f"{NAME} was not scored beside the data: ")
        off = reference_batches([batch], llama, reader, ScoringSettings(reference=False))
        assert (off.batches, off.notes) == ((), ())


def test_a_vision_model_says_that_it_has_none(models) -> None:
    scores = plop.score(models("vit"), batches=[conftest.make_batch("vit")], progress=False)
    assert scores.references == ()
    assert any("hold pixel_values" in note for note in scores.notes)
    assert "general English text was not scored" in as_text(scores)


def test_a_model_that_is_not_finite_on_it_says_so(tokenizer, texts) -> None:
    """The user's scores are whole, and must not be lost for the sake of the comparison."""
    model = families.build("llama")
    words = {word for text in texts for word in text.split()}
    seen = {number for word in words for number in tokenizer(word)["input_ids"]}
    unseen = [number for number in range(1, 96) if number not in seen]
    model.get_input_embeddings().weight.data[unseen] = float("nan")
    scores = plop.score(model, tokenizer, texts, progress=False)
    assert scores.references == ()
    assert any("NaN or infinity on it" in note for note in scores.notes)


@pytest.mark.slow
def test_ready_batches_have_one_where_a_tokenizer_is_given(bundled) -> None:
    model, tokenizer = bundled
    batches = [_batch(6, 12).inputs]
    assert plop.score(model, batches=batches, progress=False).references == ()
    for given in (tokenizer, str(MODEL)):
        scores = plop.score(model, given, batches=batches, progress=False)
        assert [row.name for row in scores.references] == [NAME]


# --------------------------------------------------------------------------- the measurement


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("stop", ["adaptive", "fixed"])
def test_it_changes_no_score(engine: str, stop: str) -> None:
    """A text that gets among the user's would change every number and every interval."""
    options = {"texts": TEXTS, "engine": engine, "stop": stop, "progress": False}
    without = plop.score(MODEL, **options, reference=False)
    scores = plop.score(MODEL, **options)
    assert scores.types == without.types
    assert scores.measurements == without.measurements
    assert (scores.tokens, scores.sequences) == (without.tokens, without.sequences)
    (reference,) = scores.references
    assert (without.references, reference.name) == ((), NAME)
    assert reference.sequences == MOST
    assert len(reference.measurements.sums) == len(scores.sites)


def test_a_text_of_the_user_may_be_the_general_text(models, tokenizer) -> None:
    """Texts are known by their content, and equal ones by the same name."""
    texts = general_passages("english", MOST, 8 * 60)
    scores = plop.score(models("llama"), tokenizer, texts, stop="fixed", progress=False)
    without = plop.score(
        models("llama"), tokenizer, texts, stop="fixed", progress=False, reference=False
    )
    assert scores.measurements == without.measurements
    assert scores.sequences == MOST


@pytest.mark.slow
def test_every_engine_gives_the_same() -> None:
    found = [
        plop.score(MODEL, texts=TEXTS, engine=engine, stop="fixed", progress=False).references[0]
        for engine in ENGINES
    ]
    assert found[0].chosen == found[1].chosen
    assert found[0].measurements.sequence_ids == found[1].measurements.sequence_ids
    for name, nfn in found[0].nfn.items():
        assert found[1].nfn[name] == pytest.approx(nfn, rel=1e-4)


@pytest.mark.parametrize("name", ["t5", "bert"])
def test_other_kinds_of_model_have_one(models, tokenizer, texts, name: str) -> None:
    scores = plop.score(models(name), tokenizer, texts, progress=False)
    (reference,) = scores.references
    assert len(reference.chosen) == 3
    assert reference.agreement.weights == len(scores.sites)


def test_experts_of_a_list_that_it_did_not_reach_are_not_compared(tokenizer, texts) -> None:
    """A weight without a token has no NFN there, which is neither zero nor an error."""
    scores = plop.score(families.build("mixtral"), tokenizer, texts, progress=False)
    (reference,) = scores.references
    assert 0 < reference.agreement.weights <= len(scores.sites)
    assert Scores.from_dict(json.loads(scores.to_json())) == scores


# --------------------------------------------------------------------------- the statistics


def test_the_agreement_is_that_of_the_ranks_of_the_weights(models, tokenizer, texts) -> None:
    """Against scipy, from the values of two records that are scored apart."""
    model = models("llama")
    scores = plop.score(model, tokenizer, texts, stop="fixed", progress=False)
    (reference,) = scores.references
    batches = reference_batches(
        [_batch(scores.sequences, 10)], model, tokenizer,
        ScoringSettings(),
    ).batches  # fmt: skip
    apart = plop.score(
        model, batches=[batch.inputs for batch in batches], stop="fixed", reference=False,
        progress=False,
    )  # fmt: skip
    given, others = ([site.nfn for site in one.sites] for one in (scores, apart))
    expected = stats.spearmanr(given, others).statistic
    held = reference.agreement
    assert held.correlation == pytest.approx(expected)
    assert held.weights == len(scores.sites)
    assert -1 <= held.low <= held.correlation <= held.high <= 1
    assert held.share == pytest.approx(1 - max(expected, 0) ** 2)
    names = sorted(reference.nfn)
    by_type = {row.type: row.nfn for row in apart.types}
    assert reference.nfn == pytest.approx(by_type)
    of_types = stats.spearmanr([scores[n].nfn for n in names], [by_type[n] for n in names])
    assert held.of_types == pytest.approx(of_types.statistic)


def test_the_same_texts_explain_nothing_and_reversed_ranks_everything() -> None:
    """A share below 0, or of 0 for a ranking turned around, would say the opposite."""
    numbers = list(map(float, range(20)))
    same = rank_correlation(numbers, [3 * number + 1 for number in numbers])
    assert same == (1.0, 1.0, 1.0)
    reverse = rank_correlation(numbers, numbers[::-1])
    assert reverse == (-1.0, -1.0, -1.0)
    assert Agreement(20, *same, None).share == 0
    assert Agreement(20, *reverse, None).share == 1
    assert Agreement(20, 0.9, 0.8, 0.95, None).share_interval == pytest.approx((0.0975, 0.36))


def test_a_rank_correlation_that_is_undefined_is_none() -> None:
    assert rank_correlation([1.0], [2.0]) is None
    assert rank_correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None
    few = [float(number) for number in range(LEAST_PAIRS - 1)]
    assert rank_correlation(few, few) == (1.0, None, None)


def test_the_interval_of_a_rank_correlation_covers_it() -> None:
    """Of pairs with a known correlation, 95 of 100 intervals should hold it."""
    rng = np.random.default_rng(0)
    rho = 0.8
    true = 6 / np.pi * np.arcsin(rho / 2)  # of Gaussian pairs
    held = 0
    for _ in range(200):
        first = rng.standard_normal(60)
        second = rho * first + np.sqrt(1 - rho**2) * rng.standard_normal(60)
        found = rank_correlation(first, second)
        assert found == rank_correlation(first, second)
        assert found.value == pytest.approx(stats.spearmanr(first, second).statistic)
        held += found.low <= true <= found.high
    assert 180 <= held <= 198


# --------------------------------------------------------------------------- what is said


def _choice(**values: object) -> ReferenceChoice:
    agreement = Agreement(42, 0.9, 0.8, 0.96, 0.75)
    given = {"same_choice": True, "agreement": agreement} | values
    return ReferenceChoice(NAME, ("q_proj", "k_proj", "o_proj"), nfn={}, sequences=16, tokens=99,
                           **given)  # fmt: skip


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        (_choice(), "The same three types are lowest on general English text: this is a property"),
        (
            _choice(same_choice=False, near_tie=True, margin=0.004),
            "the types exchanged differ by 0.004 NFN, within the tolerance",
        ),
        (
            _choice(same_choice=False, margin=0.4),
            "the lowest are q_proj, k_proj, o_proj: the choice depends on the data.",
        ),
    ],
)
def test_the_texts_say_it_in_one_line(scores, choice: ReferenceChoice, said: str) -> None:
    """In the terminal, in Markdown, in the text of the record and on the page."""
    told = replace(scores, references=(choice,))
    share = "Your texts explain 19.0% (7.8%–36.0%) of the ranking of 42 weights"
    for text in (as_text(told), str(told), table_markdown(scores_table(told), "# ")):
        flat = " ".join(text.split())
        assert said in flat
        assert f"{share} (rank correlation 0.900; of the types 0.750)." in flat
    for language in LANGUAGES:
        lines = markdown_page(results_of([told], language)).splitlines()
        assert any("42" in line and "0.900" in line and "19" in line for line in lines)


def test_an_exchange_within_the_tolerance_is_no_effect_of_the_data(tokenizer, texts) -> None:
    """A near tie between the third and the fourth type changes place on any other texts."""
    found = [
        plop.score(families.build("llama"), tokenizer, texts, tolerance=t, progress=False,
                   stop="fixed").references[0]
        for t in (0.0, 9.0)
    ]  # fmt: skip
    assert [one.same_choice for one in found] == [False, False]
    assert [one.near_tie for one in found] == [False, True]
    assert found[0].margin == found[1].margin > 0


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
    same = f"The same three types are lowest on {NAME}: this is a property of the model more"
    other = f"On {NAME} the lowest are {', '.join(reference.chosen)}: "
    assert (same if reference.same_choice else other) in " ".join(output.split())
    code, output, _ = run(*words, "--no-reference", "--force")
    assert code == 0
    assert Scores.load(record).references == ()
    assert NAME not in output


def test_records_of_earlier_versions_are_read_as_they_were() -> None:
    """They hold no reference, or one on random tokens without an agreement, and their digest."""
    document = json.loads(GOLDEN.read_text())
    assert "references" not in document
    scores = Scores.load(GOLDEN)
    assert scores.references == ()
    assert "random tokens" not in as_text(scores)
    earlier = {"name": "random tokens", "chosen": ["a", "b", "c"], "same_choice": False,
               "nfn": {"a": 1.0}, "sequences": 8, "tokens": 81}  # fmt: skip
    read = Scores.from_dict(document | {"references": [earlier]})
    assert read.to_dict()["references"] == [earlier]
    assert "On random tokens the lowest are a, b, c: the choice depends on the data." in " ".join(
        as_text(read).split()
    )


def test_ready_batches_of_the_reference_are_batches(bundled) -> None:
    """What any engine reads: rows of ids with their mask, and nothing else."""
    model, tokenizer = bundled
    made = reference_batches([_batch(2, 20)], model, tokenizer, ScoringSettings()).batches
    again = list(ready_batches([batch.inputs for batch in made]))
    assert [batch.inputs.keys() for batch in made] == [batch.inputs.keys() for batch in again]
