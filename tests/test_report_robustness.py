"""A robustness record in the report: what it says, beside which records, and of what it warns."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from builders import model_reference
from builders import placement as made_placement
from test_report_page import ACTING, GOLDEN, HOSTILE, RESULTS, run, sections
from test_robustness_resampling import FAR, NEAR, OTHER, held

import plop_lora as plop
from plop_lora.errors import RecordError, UsageError
from plop_lora.records import (
    Holding,
    Outcome,
    PipelineRun,
    Placement,
    Record,
    Robustness,
    Scores,
    VariantLeftOut,
    Verification,
)
from plop_lora.reports.page import html_page, markdown_page, read_records, results_of
from plop_lora.reports.page.blocks import Page, Tone
from plop_lora.reports.text import LANGUAGES, text

COMMITTED = RESULTS / "robustness"
EXCEPTIONS = COMMITTED / "minilm-exceptions.json"


@pytest.fixture(scope="module")
def scores() -> Scores:
    return Scores.load(GOLDEN / "llama-scores.json")


@pytest.fixture
def record(scores: Scores) -> Robustness:
    """Return a record of the model, the texts and the choice of the scores."""
    made = scores.provenance
    return Robustness(
        model=scores.model.name, architecture=scores.model.architecture,
        parameters=scores.model.parameters, data=made.data, data_fingerprint=made.data_fingerprint,
        sequences=scores.sequences, tokens=scores.tokens, nfn={},
        chosen=tuple(choice.type for choice in plop.place(scores).choices), top=3, tolerance=0.03,
        verdict=Holding.HOLDS, advice="The choice holds.",
        results=(held("bootstrap"), held("typos"), held("random-words")),
        left_out=(VariantLeftOut("merged", "no --adapter was given"),), forwards=3,
        elapsed_seconds=65.0, seed=0, scores_digest="0" * 64, plop_version="0.1.0",
        dtype="float32", device="cpu", created="2026-01-01T00:00:00+00:00",
        sequence_ids=scores.measurements.sequence_ids,
    )  # fmt: skip


def shown(page: Page) -> dict[str, tuple[tuple[str, ...], ...]]:
    """Return the tables of the section by their captions."""
    return {table.caption: table.rows for table in sections(page)["robustness"].tables}


# --------------------------------------------------------------------------- what it says


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_record_alone_has_its_section_and_its_answer(language: str) -> None:
    """Every variant stands in one of the tables, in the words of the language."""
    record, words = Robustness.load(EXCEPTIONS), text(language)
    page = results_of([record], language)
    assert list(sections(page)) == ["robustness", "study", "provenance"]
    section = sections(page)["robustness"]
    assert section.title == words("robustness.title")
    assert record.advice in section.lines[0]
    assert words("holding.changes") in section.lines[0]
    assert words.listed(list(record.chosen)) in section.lines[1]
    assert page.tone is Tone.BAD
    assert page.answer == words("answer.robustness.changes", types=words.listed([*record.chosen]))
    assert page.warnings == ()
    tables = shown(page)
    judged, aside, left = (words(f"robustness.{name}") for name in ("judged", "aside", "left"))
    assert list(tables) == [judged, aside, left]
    assert len(tables[judged]) + len(tables[aside]) == len(record.results)
    assert [row[0] for row in tables[left]] == [one.variant for one in record.left_out]
    assert [row[1] for row in tables[left]] == [one.reason for one in record.left_out]


def test_a_row_says_what_the_record_says() -> None:
    """The share and tau with their intervals, and which type stands in place of which."""
    page = results_of([Robustness.load(EXCEPTIONS)])
    rows = {row[0]: row[1:] for rows in shown(page).values() for row in rows}
    assert rows["half-length"] == (
        "other", "2.8 % (1 to 5 %)", "0.73 (0.73 to 0.87)",
        "output.dense in place of query, 0.049 NFN apart",
    )  # fmt: skip
    assert rows["typos"] == ("same", "100.0 % (99 to 100 %)", "1.00 (1.00 to 1.00)", "")
    assert rows["general-text"][0] == "tie"
    assert rows["fewer-texts: 8 texts"][0] == "open"
    lines = sections(page)["robustness"].lines
    assert [line.partition(":")[0] for line in lines[3:]] == ["Tie", "Other", "Open"]


def test_what_does_not_occur_is_left_out(record: Robustness) -> None:
    """Where every choice is the same there is no column of exchanges and no word to explain."""
    page = results_of([record])
    section = sections(page)["robustness"]
    assert len(section.lines) == 3
    assert all(len(table.columns) == 4 for table in section.tables[:2])
    bare = replace(record, results=record.results[2:], left_out=())
    section = sections(results_of([bare]))["robustness"]
    assert (len(section.tables), section.figures) == (1, ())


def test_the_figure_draws_the_variants_that_count(record: Robustness) -> None:
    """A variant without a tau cannot be drawn, and stands in the table."""
    results = (
        held("bootstrap"), held("typos", tau=0.5, tau_low=0.4, tau_high=0.6),
        held("noise", tau=None, tau_low=None, tau_high=None), held("short", **OTHER, margin=0.2),
        held("random-words"),
    )  # fmt: skip
    section = sections(results_of([replace(record, results=results)]))["robustness"]
    (figure,) = section.figures
    drawn = figure.spec["data"]["values"]
    assert [(row["name"], row["value"], row["group"]) for row in drawn] == [
        ("bootstrap", 1.0, "same"), ("typos", 0.5, "same"), ("short", 1.0, "other"),
    ]  # fmt: skip
    assert (drawn[1]["low"], drawn[1]["high"]) == (0.4, 0.6)
    assert [row[3] for row in figure.table.rows][2] == "undefined"


def test_names_that_are_cut_to_the_same_stay_apart(record: Robustness) -> None:
    """Two checkpoints of long names would be drawn on one line."""
    settings = ("/models/a/checkpoint-of-a-long-name", "/other/b/checkpoint-of-a-long-name")
    results = tuple(held("against", setting=name) for name in settings)
    page = results_of([replace(record, results=results)])
    names = [row["name"] for row in sections(page)["robustness"].figures[0].spec["data"]["values"]]
    assert len(set(names)) == 2
    assert [name[-4:] for name in names] == [" (1)", " (2)"]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    ("verdict", "tone"),
    [
        (Holding.HOLDS, Tone.GOOD),
        (Holding.TIES, Tone.GOOD),
        (Holding.CHANGES, Tone.BAD),
        (Holding.UNSETTLED, Tone.OPEN),
    ],
)
def test_every_verdict_has_its_words(record, scores, verdict, tone, language) -> None:
    """On the first screen, in the section, and as the answer where nothing else is given."""
    words, asked = text(language), replace(record, verdict=verdict)
    alone = results_of([asked], language)
    assert alone.tone is tone
    assert alone.answer == words(
        f"answer.robustness.{verdict.name.lower()}", types=words.listed(list(record.chosen))
    )
    beside = results_of([scores, plop.place(scores), asked], language)
    (fact,) = [one for one in beside.facts if one.label == words("fact.robustness")]
    assert (fact.value, fact.tone) == (words(f"holding.{verdict}"), tone)
    assert beside.answer == results_of([scores, plop.place(scores)], language).answer


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_outcome_has_its_word(record, language) -> None:
    results = (
        held("bootstrap"), held("typos", **(OTHER | NEAR)), held("noise", **OTHER, margin=0.2),
        held("short", **FAR, unchanged=0.7),
    )  # fmt: skip
    assert {one.outcome for one in results} == set(Outcome)
    page = results_of([replace(record, results=results)], language)
    rows = shown(page)[text(language)("robustness.judged")]
    assert [row[1] for row in rows] == [
        text(language)(f"outcome.{one}") for one in ("same", "tie", "other", "open")
    ]


def test_notes_are_kept(record: Robustness) -> None:
    noted = replace(
        record, notes=("3 texts cut",), results=(held("typos", notes=("its texts were cut",)),)
    )
    assert sections(results_of([noted]))["robustness"].quotes == (
        "typos: its texts were cut", "3 texts cut",
    )  # fmt: skip


def test_a_notebook_draws_it(record: Robustness) -> None:
    drawing = record.plot()
    assert "Kendall's tau" in repr(drawing)
    assert [section.name for section in drawing.page.sections] == ["robustness"]


# --------------------------------------------------------------------------- beside other records


@pytest.mark.parametrize("language", LANGUAGES)
def test_it_stands_after_the_placement(scores, record, language) -> None:
    page = results_of([record, plop.place(scores), scores], language)
    names = ["scores", "placement", "robustness", "study", "provenance"]
    assert list(sections(page)) == names
    assert page.warnings == ()
    kinds = [row[0] for row in sections(page)["provenance"].tables[0].rows]
    assert kinds == ["scores", "placement", "robustness"]
    document = html_page(page)
    assert f'<a href="#robustness" data-section="robustness">{page.sections[2].title}' in document
    assert f"## {page.sections[2].title}" in markdown_page(page)


def test_beside_a_verification_of_the_same_model() -> None:
    proof = Verification.load(RESULTS / "sft.json")
    record = Robustness.load(COMMITTED / "bundled-arithmetic.json")
    same = replace(
        record, model=proof.model.name, architecture=proof.model.architecture,
        parameters=proof.model.parameters,
        chosen=tuple(choice.type for choice in proof.placement.choices),
    )  # fmt: skip
    page = results_of([proof, same])
    assert page.warnings == ()
    assert list(sections(page))[:3] == ["placement", "robustness", "verification"]
    assert page.answer == results_of([proof]).answer


@pytest.mark.parametrize("language", LANGUAGES)
def test_records_that_do_not_belong_together_are_told(scores, record, language) -> None:
    """A verdict on another model, other texts or another choice would be taken for this one's."""
    placement, words = plop.place(scores), text(language)
    others = {
        "model": replace(record, model="org/another"),
        "texts": replace(
            record, data="other.jsonl", data_fingerprint="0", sequence_ids=("a", "b")
        ),
        "choice": replace(record, chosen=record.chosen[:2]),
    }  # fmt: skip
    for what, other in others.items():
        page = results_of([scores, placement, other], language)
        (warning,) = page.warnings
        sign = words(f"warning.robustness.{what}", other="…", name="…", data="…", types="…")
        assert all(part in warning for part in sign.split("…"))
        assert "robustness" in sections(page)
        assert words("fact.robustness") not in [fact.label for fact in page.facts]
        assert page.answer == results_of([scores, placement], language).answer
    assert "org/another" in results_of([scores, others["model"]]).warnings[0]
    assert "other.jsonl" in results_of([scores, others["texts"]]).warnings[0]


@pytest.mark.parametrize("change", [{"architecture": "Other"}, {"parameters": 1}])
def test_a_model_that_is_built_otherwise_is_another_one(scores, record, change) -> None:
    assert "another model" in results_of([scores, replace(record, **change)]).warnings[0]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("/a/model/", "./model", True),
        ("org/model", "C:\\models\\model", True),
        ("/a/model", "/a/model/model.Q8_0.gguf", True),
        ("/a/model", "/a/model-instruct", False),
        ("model.gguf", "other.gguf", False),
    ],
)
def test_the_folders_above_a_model_do_not_matter(record, one, other, same) -> None:
    """The same model is given by another path from another folder."""
    model = model_reference(
        name=one, architecture=record.architecture, parameters=record.parameters
    )
    page = results_of([made_placement(model=model), replace(record, model=other)])
    assert any("another model" in warning for warning in page.warnings) is not same


def test_texts_of_a_part_are_no_other_texts(scores, record) -> None:
    """`plop score` stops early by default, and `plop robustness` reads all texts."""
    ids = scores.measurements.sequence_ids
    more = replace(record, data_fingerprint="0", sequence_ids=(*ids, "another"))
    fewer = replace(record, data_fingerprint="0", sequence_ids=ids[:1])
    mixed = replace(record, data_fingerprint="0", sequence_ids=(*ids[:1], "another"))
    told = [bool(results_of([scores, one]).warnings) for one in (more, fewer, mixed)]
    assert told == [False, False, True]
    older = replace(record, data_fingerprint="0", sequence_ids=())
    assert results_of([scores, older]).warnings == ()
    assert results_of([scores, replace(older, data="other.jsonl")]).warnings != ()


def test_a_record_names_its_texts(decoder: str, tmp_path: Path) -> None:
    """What `plop score` and `plop robustness` write of the same texts belongs together."""
    from plop_lora.data.general_text import texts_of

    given = list(texts_of("english")[:24])
    made = plop.score(decoder, texts=given[:16], stop="fixed", reference=False, progress=False)
    record = plop.robustness(decoder, None, given, variants=["bootstrap"], progress=False)
    path = record.save(tmp_path / "robustness.json")
    assert results_of([made, plop.place(made), Robustness.load(path)]).warnings == ()
    assert set(made.measurements.sequence_ids) < set(record.sequence_ids)


def test_older_records_keep_their_identity() -> None:
    """A record without the names of its texts has the digest that it was written with."""
    for path in COMMITTED.glob("*.json"):
        assert Robustness.load(path).digest() == json.loads(path.read_text())["digest"]


def test_two_records_are_refused(record: Robustness) -> None:
    with pytest.raises(UsageError, match="There are 2 'robustness' records"):
        results_of([record, record])


def test_a_report_without_one_says_nothing_of_it(scores) -> None:
    """`test_example_report.py` holds a whole page to the byte."""
    for language in LANGUAGES:
        page = results_of([scores, plop.place(scores)], language)
        document = html_page(page) + markdown_page(page)
        assert "robustness" not in document
        assert text(language)("robustness.title") not in document
        assert text(language)("fact.robustness") not in document


# --------------------------------------------------------------------------- in the folder of a run


def run_folder(folder: Path, *records: Record) -> Path:
    """Write the record of a run without stages, and others beside it."""
    PipelineRun(
        folder=".", model="m", recipe_digest="0", stages=(), plop_version="0"
    ).save(folder / "pipeline.json")  # fmt: skip
    for record in records:
        record.save(folder / "robustness.json")
    return folder


def test_a_record_in_the_folder_of_a_run_is_shown(record, scores, tmp_path) -> None:
    assert [one.kind for one in read_records([run_folder(tmp_path)])] == ["pipeline-run"]
    found = read_records([run_folder(tmp_path, record)])
    assert [one.kind for one in found] == ["pipeline-run", "robustness"]
    assert "robustness" in sections(results_of(found))
    with pytest.raises(RecordError, match="is a 'scores' record, but a 'robustness'"):
        read_records([run_folder(tmp_path, scores)])


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_command_shows_it(record, tmp_path, monkeypatch, language) -> None:
    monkeypatch.chdir(tmp_path)
    record.save("robustness.json")
    for name in ("r.html", "r.md"):
        code, output, error = run("robustness.json", "-o", name, "--lang", language)
        assert code == 0, (output, error)
        assert text(language)("robustness.title") in Path(name).read_text("utf-8")


# --------------------------------------------------------------------------- hostile records


def hostile(record: Robustness) -> Robustness:
    """Return a record whose every text attacks the page."""
    bad = HOSTILE + ACTING
    one = held("bootstrap", setting=bad, notes=(bad,), **(OTHER | {"rival": (bad, "c")}))
    return replace(
        record, model=bad, data=bad, chosen=(f"{bad}a", f"{bad}b"), advice=bad, notes=(bad,),
        architecture=bad, prompt=bad, created=bad, dtype=bad, device=bad, plop_version=bad,
        results=(replace(one, variant=bad), one, held("noise", setting=bad)),
        left_out=(VariantLeftOut(bad, bad),),
    )  # fmt: skip


@pytest.mark.parametrize("language", LANGUAGES)
def test_hostile_names_stay_text(scores, record, language) -> None:
    """In the section, in the warnings, in the answer, and in the data of the figure."""
    for records in ([hostile(record)], [scores, plop.place(scores), hostile(record)]):
        page = results_of(records, language)
        document = html_page(page)
        assert "<img" not in document
        assert "</script><" not in document.replace("</script>\n<", "")
        assert not re.search("[\u202a-\u202e\u2066-\u2069\x1b]", document)
        assert document.count("<script") == document.count("</script>") == 3
        marked = markdown_page(page)
        assert not re.search("[\u202a-\u202e\u2066-\u2069\x1b]", marked)
        lines = [line for line in marked.splitlines() if not line.startswith("    plop ")]
        assert not any(re.search("(?<!\\\\)<(?!!-- plop-lora report -->)", line) for line in lines)
        assert not any(line.startswith("# e") for line in lines)


def broken(record: Robustness) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield documents that are no valid record, with the field that is named."""
    document = record.to_dict()
    yield "advice", document | {"advice": "a\x1b[2J"}
    yield "verdict", document | {"verdict": "wonderful"}
    for value in (1e308, -0.5):
        results = [document["results"][0] | {"unchanged_high": value}]
        yield "results.0.unchanged_high", document | {"results": results}


def test_a_damaged_record_is_told(record, tmp_path) -> None:
    """A share beyond 1 ended the table in an OverflowError."""
    path = tmp_path / "robustness.json"
    for field, document in broken(record):
        path.write_text(json.dumps(document))
        with pytest.raises(RecordError, match=re.escape(field)):
            read_records([path])


def test_placements_of_a_later_choice_are_compared(scores, record) -> None:
    """The placement that the page shows is that of the proof where none is given."""
    placement = Placement.from_dict(plop.place(scores, top=2).to_dict())
    assert "asks about the choice" in results_of([placement, record]).warnings[0]
