"""The items that went worst on the report page: shown, bounded, and without texts unless asked."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from test_report_page import ACTING, HOSTILE
from typer.testing import CliRunner

from plop_lora.cli import app
from plop_lora.errors import RecordError, UsageError
from plop_lora.gating.evidence import Line, Measurement
from plop_lora.gating.suite import Reading
from plop_lora.records import (
    CheckVerdict,
    GatedCheckpoint,
    GateVerdict,
    GateWalk,
    PipelineRun,
    StageRun,
    WorstItem,
)
from plop_lora.records.run import DONE, StageOutcome
from plop_lora.reports.page import (
    html_page,
    markdown_page,
    read_answers,
    read_files,
    results_of,
)
from plop_lora.reports.page.blocks import DataTable, Fold, Page
from plop_lora.reports.text import LANGUAGES, text

GOLDEN = Path(__file__).parent / "golden"
COUNT = 10
SECRET = "my card is 4111"


def worst_items(suite: str = "prompts") -> tuple[WorstItem, ...]:
    return tuple(
        WorstItem(
            name=f"en-fraud-{place}",
            item=f"hash-{place}",
            suite=suite,
            index=place,
            base=1.0,
            adapter=None if place == COUNT - 1 else 0.0,
        )
        for place in range(COUNT)
    )


def verdict(answer: str, folder: Path) -> GateVerdict:
    """Return a verdict of two checks, whose evidence has these answers, in a folder."""
    measurement = Measurement("a", "b", None, {"prompts": "x"}, {})
    lines = [
        Line("prompts", place, f"hash-{place}", Reading({"refused": 1.0}, f"No, {answer}"),
             Reading({"refused": 0.0}, answer if place else ""))
        for place in range(COUNT + 5)
    ]  # fmt: skip
    (folder / "v.evidence.jsonl").write_text(
        "\n".join([measurement.header(), *(json.dumps(asdict(line)) for line in lines)]) + "\n",
        encoding="utf-8",
    )
    old = GateVerdict.load(GOLDEN / "gate-verdict-1.json")
    failed = replace(old.checks[0], check="refusals", metric="refused", warning="",
                     verdict=CheckVerdict.FAIL, worst_items=worst_items())  # fmt: skip
    open_ = replace(old.checks[1], worst_items=worst_items("general"))
    made = replace(
        old, checks=(failed, open_), measurement=measurement.digest,
        evidence="/elsewhere/v.evidence.jsonl",
    )  # fmt: skip
    made.save(folder / "v.json")
    return made


def tables_of(page: Page) -> list[DataTable]:
    """Return the tables of items of the gates on a page."""
    return [
        table for section in page.sections if section.name.startswith("gate")
        for table in section.tables if table.fold is not Fold.NEVER
    ]  # fmt: skip


def report(*words: object) -> tuple[int, str, Exception | None]:
    done = CliRunner().invoke(app, ["report", *map(str, words)])
    return done.exit_code, done.output, done.exception


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_record_alone_shows_its_items_and_says_where_the_rest_is(language, tmp_path) -> None:
    made, words = verdict(SECRET, tmp_path), text(language)
    page = results_of([made], language)
    failed, open_ = tables_of(page)
    assert (failed.fold, open_.fold) == (Fold.OPEN, Fold.CLOSED)
    assert failed.rows[0] == ("en-fraud-0", "1.0000", "0.0000", "-1.0000")
    assert failed.rows[-1] == (f"en-fraud-{COUNT - 1}", "1.0000", words("undecided"), "")
    lines = page.sections[0].lines
    assert words("gate.evidence", path=made.evidence) in lines
    assert words("gate.answers") in lines
    document = html_page(page)
    assert SECRET not in document
    assert document.count('<details class="fold"') == 2
    assert document.count('<details class="fold" open>') == 1


def test_markdown_has_three_items_of_a_check(tmp_path) -> None:
    """A pull request is no place for thirty rows."""
    document = markdown_page(results_of([verdict(SECRET, tmp_path)]))
    named = [line for line in document.splitlines() if line.startswith("| en-fraud-")]
    assert len(named) == 2 * 3


def test_answers_are_shown_where_they_are_asked_for(tmp_path) -> None:
    """Of the check that generates; losses have none. They are cut, and told where empty."""
    verdict("A long answer. " * 50, tmp_path)
    found = read_files([tmp_path / "v.json"])
    page = results_of([record for _, record in found], answers=read_answers(found))
    failed, open_ = tables_of(page)
    assert len(open_.columns) == 4
    assert failed.columns[4:] == ("answer of the base", "answer of the adapter")
    assert failed.rows[0][5] == "(no text)"
    assert failed.rows[1][5].startswith("A long answer. A long")
    assert len(failed.rows[1][5]) <= 241
    assert failed.rows[1][5].endswith("…")
    assert text("en")("gate.answers") not in page.sections[0].lines


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """The folder of a run whose gate has failed."""
    root = tmp_path / "plop-run"
    stage = root / "gate-1"
    stage.mkdir(parents=True)
    verdict(SECRET, stage)
    PipelineRun(
        stages=(
            StageRun(stage="gate", key="k", state=DONE, folder="gate-1", result="gate-1/v.json",
                     outcome=StageOutcome(words="fails")),
        ),
        folder="plop-run", model="toy", recipe_digest="0", plop_version="0",
    ).save(root / "pipeline.json")  # fmt: skip
    return root


@pytest.mark.parametrize("form", ["html", "md"])
def test_the_folder_of_a_run_has_its_evidence(run_folder, tmp_path, form) -> None:
    path = tmp_path / f"r.{form}"
    assert report(run_folder, "-o", path)[0] == 0
    assert "en-fraud-0" in path.read_text()
    assert SECRET not in path.read_text()
    assert report(run_folder, "-o", path, "--answers")[0] == 0
    assert SECRET in path.read_text()


def test_checkpoints_have_answers_too(tmp_path) -> None:
    made = verdict(SECRET, tmp_path)
    GateWalk(
        folder="run", checkpoints=1, gated=(GatedCheckpoint(step=3, verdict=made),)
    ).save(tmp_path / "walk.json")  # fmt: skip
    found = read_files([tmp_path / "walk.json"])
    page = results_of([record for _, record in found], answers=read_answers(found))
    assert tables_of(page)[0].rows[1][5] == SECRET


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda path: path.unlink(), RecordError, "is not there. Put the file v.evidence.jsonl"),
        (lambda path: path.write_text("notes\n"), RecordError, "line 1 is not JSON"),
        (lambda path: path.write_text(""), RecordError, "is no evidence of plop gate"),
        (lambda path: path.write_text('{"kind": "gate-evidence", "version": 2, "digest": "0"}\n'),
         UsageError, "evidence of another measurement than the verdict"),
        (lambda path: path.write_text(path.read_text().replace('"hash-3"', '"hash-4"')),
         RecordError, "has another item in the place of en-fraud-3"),
    ],
)  # fmt: skip
def test_evidence_that_is_not_that_of_the_verdict(tmp_path, change, kind, message) -> None:
    """Answers of another gate beside these values would be believed."""
    verdict(SECRET, tmp_path)
    change(tmp_path / "v.evidence.jsonl")
    output = tmp_path / "r.html"
    code, _, error = report(tmp_path / "v.json", "--answers", "-o", output)
    assert code != 0
    assert isinstance(error, kind)
    assert message in str(error)
    assert not output.exists()
    assert report(tmp_path / "v.json", "-o", output)[0] == 0


@pytest.mark.parametrize("path", ["../v.evidence.jsonl", "C:\\runs\\v.evidence.jsonl", "/etc/x"])
def test_the_path_in_a_record_is_not_followed(tmp_path, path) -> None:
    """A record from somebody else would read any file of whoever reports it."""
    here = tmp_path / "here"
    here.mkdir()
    made = verdict(SECRET, here)
    replace(made, evidence=path).save(here / "v.json")
    shutil.copy(here / "v.evidence.jsonl", tmp_path)
    found = read_files([here / "v.json"])
    if path == "/etc/x":
        with pytest.raises(RecordError, match="is not there"):
            read_answers(found)
    else:
        assert len(read_answers(found)) == COUNT
        (here / "v.evidence.jsonl").unlink()
        with pytest.raises(RecordError, match="is not there"):
            read_answers(found)


def test_a_gate_without_evidence_says_so(tmp_path) -> None:
    made = replace(verdict(SECRET, tmp_path), evidence=None)
    made.save(tmp_path / "v.json")
    found = read_files([tmp_path / "v.json"])
    page = results_of([made], answers=read_answers(found))
    assert text("en")("gate.unkept") in page.sections[0].lines


def test_hostile_answers_stay_text(tmp_path) -> None:
    """An answer is what a model says to anybody."""
    made = verdict(HOSTILE + ACTING, tmp_path)
    hostile = replace(
        made.checks[0],
        worst_items=(replace(made.checks[0].worst_items[0], name=HOSTILE + ACTING, index=1,
                             item="hash-1"),),
    )  # fmt: skip
    made = replace(made, checks=(hostile,))
    page = results_of([made], answers=read_answers([(tmp_path / "v.json", made)]))
    document = html_page(page)
    assert "<img" not in document
    assert "&lt;img" in document
    assert document.count("<script") == document.count("</script>") == 3
    lines = markdown_page(page).splitlines()
    assert not any(line.startswith("# e") for line in lines)
    (row,) = [line for line in lines if "onerror" in line]
    assert "<img" not in row.replace("\\<", "")
