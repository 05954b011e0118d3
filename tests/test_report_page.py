"""The report page: what it says follows from the records, and no record can do anything to it."""

from __future__ import annotations

import ast
import enum
import hashlib
import json
import re
import shlex
import string
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from builders import arm_result, cost_ledger, model_reference, verification
from builders import placement as made_placement
from typer.testing import CliRunner

import plop_lora as plop
from plop_lora.cli import app
from plop_lora.demo import DATA, MODEL, TASKS
from plop_lora.errors import RecordError, UsageError
from plop_lora.exports import TARGETS
from plop_lora.indicators.settling import settling
from plop_lora.records import (
    Candidate,
    Configuration,
    GatedCheckpoint,
    GateVerdict,
    GateWalk,
    Placement,
    Scores,
    SearchTrial,
    Tuning,
    Verification,
)
from plop_lora.records import analysis as analysis_words
from plop_lora.records import finetune as finetune_words
from plop_lora.records import gate as gate_words
from plop_lora.records import placement as placement_words
from plop_lora.records import run as run_words
from plop_lora.records import tuning as tuning_words
from plop_lora.records import verification as verification_words
from plop_lora.records.tuning import CandidateVerdict, SearchState, TuningVerdict
from plop_lora.records.verification import ArmVerdict, Verdict
from plop_lora.reports.page import html, html_page, markdown_page, read_records, results_of
from plop_lora.reports.page.blocks import Page, Tone
from plop_lora.reports.page.sections.placement import explorer_of, place_command
from plop_lora.reports.page.sections.provenance import score_command
from plop_lora.reports.text import LANGUAGES, text

HERE = Path(__file__).parent
GOLDEN = HERE / "golden"
RESULTS = HERE.parent / "scripts" / "experiments" / "results"
SOURCE = HERE.parent / "src" / "plop_lora" / "reports"
ALL = (
    GOLDEN / "llama-scores.json",
    RESULTS / "gsm8k.json",
    GOLDEN / "gate-verdict-1.json",
    GOLDEN / "experiment-analysis-1.json",
)


@pytest.fixture(scope="module")
def scores() -> Scores:
    return Scores.load(GOLDEN / "llama-scores.json")


@pytest.fixture(scope="module", params=LANGUAGES)
def page(request) -> Page:
    """A page of every kind of record that the repository holds."""
    return results_of(read_records(ALL), request.param)


def sections(page: Page) -> dict[str, object]:
    return {section.name: section for section in page.sections}


# --------------------------------------------------------------------------- words


def test_languages_have_the_same_words() -> None:
    """A text that one language lacks ends a report with a KeyError; a placeholder too."""
    english, *others = LANGUAGES.values()

    def holes(value: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(value) if name is not None}

    for other in others:
        assert list(other) == list(english)
        assert {key for key in english if holes(other[key]) != holes(english[key])} == set()


def test_japanese_is_japanese() -> None:
    """A sentence that was left in English is found by having no Japanese letter."""
    kept = {"column.nfn", "column.version", "column.digest", "percent", "answer.gated",
            "caveat.source", "robustness.cell", "robustness.note"}  # fmt: skip
    table = LANGUAGES["ja"]
    bare = {
        key
        for key, value in table.items()
        if not re.search(r"[\u3040-\u30ff\u4e00-\u9fff、～]", value)
    }
    assert bare == kept


def test_every_verdict_has_a_word() -> None:
    """A new member of a vocabulary would end the report of the first record that has it."""
    modules = (
        analysis_words, finetune_words, gate_words, placement_words, run_words, tuning_words,
        verification_words,
    )  # fmt: skip
    members = {
        member
        for module in modules
        for found in vars(module).values()
        if isinstance(found, type) and issubclass(found, enum.StrEnum)
        for member in found
        if found.__name__ not in ("StrEnum", "SearchState")
    }
    assert len(members) > 20
    for member in members:
        assert text("en").word(member)


def test_every_word_is_used() -> None:
    """A text that nothing shows is translated for nobody."""
    code = "\n".join(
        path.read_text("utf-8")
        for path in (SOURCE / "page").rglob("*")
        if path.suffix in (".py", ".j2")
    ) + (SOURCE / "text" / "__init__.py").read_text("utf-8")
    made = (
        "word.", "column.", "made.", "tone.", "answer.", "certainty.", "placement.",
        "verification.", "tuning.", "gate.", "explorer.", "scores.reference.", "direction.",
        "caveat.", "outcome.", "holding.", "recorded.",
    )  # fmt: skip
    unused = [k for k in LANGUAGES["en"] if f'"{k}"' not in code and not k.startswith(made)]
    assert unused == []


def test_an_unknown_language_is_refused(scores) -> None:
    with pytest.raises(UsageError, match="Allowed: en, ja"):
        results_of([scores], "fr")


# --------------------------------------------------------------------------- what the page says


def test_every_record_has_its_section(page) -> None:
    names = list(sections(page))
    assert names == [
        "scores", "placement", "verification", "gate-1", "analysis", "study", "provenance",
    ]  # fmt: skip


def test_the_first_screen_answers(page) -> None:
    """The lead reads the answer, how sure, the gain, the gate and both costs, without scrolling."""
    words = text(page.language)
    record = Verification.load(RESULTS / "gsm8k.json")
    types = words.listed([choice.type for choice in record.placement.choices])
    assert page.answer == words("answer.confirmed", types=types)
    assert page.tone is Tone.GOOD
    labels = [fact.label for fact in page.facts]
    for key in (
        "fact.verified",
        "fact.gate",
        "fact.cost",
        "fact.search",
        "fact.before",
        "fact.chance",
    ):
        assert words(key) in labels
    cost = next(fact for fact in page.facts if fact.label == words("fact.cost"))
    assert cost.value == words.duration(record.cost.total.device_seconds)


def test_scores_alone_do_not_claim_a_placement(scores) -> None:
    page = results_of([scores])
    assert page.tone is Tone.OPEN
    assert "no placement was made" in page.answer
    assert not any(section.explorer for section in page.sections)


def test_records_of_other_scores_are_told(scores) -> None:
    """A verification of other scores beside these would be taken for theirs."""
    assert results_of([scores, plop.place(scores)]).warnings == ()
    stranger = replace(plop.place(scores), scores_digest="0" * 64)
    assert "placement" in results_of([scores, stranger]).warnings[0]


def test_figures_say_what_the_record_says(scores) -> None:
    page = results_of([scores, plop.place(scores)])
    (ranking,) = [f for f in sections(page)["scores"].figures if f.name == "ranking"]
    drawn = [(row["value"], row["low"]) for row in ranking.spec["data"]["values"]]
    assert drawn == [(row.nfn, row.low) for row in scores.types]
    assert [row[1] for row in ranking.table.rows] == [f"{row.nfn:.3f}" for row in scores.types]


def test_every_figure_has_a_text_and_a_table(page) -> None:
    """Who cannot see a drawing reads it."""
    figures = [figure for section in page.sections for figure in section.figures]
    assert len(figures) > 5
    for figure in figures:
        assert len(figure.alt) > 10
        assert figure.table.rows
        assert all(len(row) == len(figure.table.columns) for row in figure.table.rows)


def test_settling_ends_at_the_score(scores) -> None:
    """The curve would otherwise show another quantity than the ranking."""
    values = settling(scores)
    last = {value.type: value.nfn for value in values if value.sequences == scores.sequences}
    assert last == pytest.approx({row.type: row.nfn for row in scores.types})
    one = replace(scores.measurements, sequence_ids=scores.measurements.sequence_ids[:1])
    assert settling(replace(scores, measurements=one)) == []


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"strategy": "plop-inverse", "top": 2, "rank": 4},
        {"strategy": "custom", "types": ("q_proj",), "rslora": True, "scaling": 1.5},
        {"layers": [0], "budget": "2%", "dropout": 0.1, "init": "gaussian"},
    ],
)
def test_the_command_makes_the_placement_again(scores, keys, tmp_path, monkeypatch) -> None:
    """A command that a reader copies must give the record on the page."""
    monkeypatch.chdir(tmp_path)
    scores.save("scores.json")
    asked = plop.place(scores, **keys)
    done = CliRunner().invoke(app, shlex.split(place_command(asked))[1:])
    assert done.exit_code == 0, done.output
    assert Placement.load("placement.json").sites == asked.sites
    assert Placement.load("placement.json").settings == asked.settings


@pytest.mark.slow
@pytest.mark.parametrize("words", [("--stop", "fixed"), ("--special-tokens", "--samples", "64")])
def test_the_command_makes_the_scores_again(words, tmp_path, monkeypatch) -> None:
    """The same texts, read in the same way, and ended by the same rule."""
    monkeypatch.chdir(tmp_path)
    given = [
        "--template",
        TASKS["problems"]["template"],
        "--max-length",
        "48",
        "--dtype",
        "float32",
    ]
    first = ["score", str(MODEL), "--data", str(DATA / "problems.jsonl"), *given, *words]
    for line in (first, None):
        command = line or shlex.split(score_command(Scores.load("first.json")))[1:]
        output = ["-o", "first.json"] if line else []
        done = CliRunner().invoke(app, [*command, *output, "--format", "quiet"])
        assert done.exit_code == 0, done.output
    again, before = Scores.load("scores.json"), Scores.load("first.json")
    assert again.types == before.types
    assert again.stopping == before.stopping
    assert again.provenance.settings == before.provenance.settings


def test_no_explorer_without_sizes() -> None:
    """A placement that was imported may not know its weights."""
    assert explorer_of(made_placement()) is None


def test_downloads_are_what_export_renders(scores) -> None:
    """A configuration that dropped a part of the placement would train something else."""
    placement = plop.place(scores, budget="3%")
    (section,) = [s for s in results_of([placement]).sections if s.name == "placement"]
    files = {one.name: one.content for one in section.downloads}
    assert Placement.from_dict(json.loads(files.pop("placement.json"))) == placement
    assert "adapter_config.json" in files
    for target in TARGETS.values():
        rendered = target.render(placement)
        assert files.get(target.file_name) == (None if rendered.losses else rendered.text)


def candidate(label: str, verdict: str, **values: object) -> Candidate:
    fields = {
        "configuration": Configuration(label, 8, "default", 1e-3), "parameters": 800,
        "selection": 0.5, "mean": 0.6, "values": (0.6, 0.6), "difference": None, "low": None,
        "high": None, "p": None, "verdict": CandidateVerdict(verdict),
    }  # fmt: skip
    return Candidate(**fields | values)


def tuning(**values: object) -> Tuning:
    """Return a tuning that improved on its default."""
    default, better = (
        candidate("plop", "reference"),
        candidate("mlp", "better", difference=0.1, low=0.05, high=0.15),
    )
    trials = tuple(
        SearchTrial(number=number, configuration=better.configuration, parameters=800,
                    value=0.5 + number / 100, state=SearchState.SEARCHED, cause=None,
                    device_seconds=1.0)
        for number in range(4)
    )  # fmt: skip
    fields = {
        "model": model_reference(), "task": "sft", "metric": "exact-match",
        "higher_is_better": True, "margin": 0.01, "budget": 1000,
        "verdict": TuningVerdict.IMPROVED, "chosen": better.configuration,
        "default": default.configuration, "candidates": (default, better), "ladder": (),
        "history": trials, "search_seed": 0, "seeds": (1, 2), "train_rows": 10,
        "selection_rows": 10, "report_rows": 10, "cost": cost_ledger(),
        "placement": made_placement(), "recipe": {}, "scores_digest": "0" * 64,
        "plop_version": "0",
    }  # fmt: skip
    return Tuning(**fields | values)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("verdict", TuningVerdict)
def test_a_tuning_is_shown(verdict, language) -> None:
    """Each verdict of a search has its sentence, and the search and its confirmation a figure."""
    page = results_of([tuning(verdict=verdict)], language)
    section = sections(page)["tuning"]
    assert [figure.name for figure in section.figures] == ["search", "confirmation"]
    assert page.answer == section.lines[0]
    assert (page.tone is Tone.GOOD) == (verdict.name in ("IMPROVED", "STANDS"))
    both = results_of([tuning(verdict=verdict), Verification.load(RESULTS / "sft.json")], language)
    labels = [fact.label for fact in both.facts]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("verdict", Verdict)
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_verdict_of_a_verification_has_its_answer(verdict, language) -> None:
    """Beaten must not read as confirmed, in either language."""
    record = verification(
        arm_result("plop", [0.5, 0.5], verdict=ArmVerdict.SHORTLIST),
        arm_result("mlp", [0.4, 0.4], difference=-0.1, low=-0.2, high=-0.05,
                   verdict=ArmVerdict.BETTER),
        verdict=verdict, better="mlp" if verdict is Verdict.BEATEN else None,
    )  # fmt: skip
    page = results_of([record], language)
    tones = {Verdict.CONFIRMED: Tone.GOOD, Verdict.BEATEN: Tone.BAD}
    assert page.tone is tones.get(verdict, Tone.OPEN)
    assert ("mlp" in page.answer) == (verdict is Verdict.BEATEN)
    quick = results_of([replace(record, quick=True)], language)
    assert text(language)("fact.quick") in [fact.detail for fact in quick.facts]


def test_a_walk_shows_the_checkpoint_that_passes() -> None:
    """The first screen tells of the checkpoint that may ship, the table of all that were gated."""
    open_ = GateVerdict.load(GOLDEN / "gate-verdict-1.json")
    passed = replace(open_, checks=tuple(c for c in open_.checks if c.verdict == "pass"))
    walk = GateWalk(
        folder="run", checkpoints=3,
        gated=(GatedCheckpoint(step=30, verdict=open_), GatedCheckpoint(step=20, verdict=passed)),
    )  # fmt: skip
    page = results_of([walk])
    assert page.tone is Tone.GOOD
    assert [row[0] for row in sections(page)["checkpoints"].tables[0].rows] == ["30", "20"]


def test_records_draw_themselves(scores, tmp_path) -> None:
    """In a notebook the value of a cell is the figures; a record without any is refused."""
    drawing = scores.plot()
    assert "NFN by layer" in repr(drawing)
    assert drawing._repr_html_().startswith('<div id="plop-')
    assert "shadowrootmode" not in drawing._repr_html_()
    assert drawing.save(tmp_path / "s.html").read_text().startswith("<!doctype html>")
    assert Verification.load(RESULTS / "sft.json").plot("ja").page.language == "ja"
    with pytest.raises(UsageError, match="no part in a report"):
        plop.compare(scores, scores).plot()


def test_the_page_of_the_documentation_runs(scores, tmp_path, monkeypatch) -> None:
    """Its block of Python, as it stands."""
    monkeypatch.chdir(tmp_path)
    scores.save("scores.json")
    guide = (HERE.parent / "docs" / "how-to" / "report.md").read_text("utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    found: dict[str, object] = {}
    exec(compile(block, "report.md", "exec"), found)
    assert str(found["page"]).startswith("<!doctype html>")
    assert Path("figures.html").read_text("utf-8").count('lang="ja"') == 2


# --------------------------------------------------------------------------- hostile records

HOSTILE = "</script><img src=x onerror=alert(1)>\"'`{{7*7}}|&amp;"
ACTING = "a\u202eb\u2066c\x1b[2Jd\n# e"


def hostile_scores(scores: Scores) -> Scores:
    """Return scores whose every name attacks the page."""
    names = {row.type: f"{HOSTILE}{ACTING}{number}" for number, row in enumerate(scores.types)}
    return replace(
        scores,
        types=tuple(
            replace(row, type=names[row.type], host_type=names[row.type]) for row in scores.types
        ),
        sites=tuple(replace(site, type=names[site.type]) for site in scores.sites),
        hosts=tuple(replace(host, type=names[host.type]) for host in scores.hosts),
        notes=(HOSTILE, ACTING),
        model=replace(scores.model, name=HOSTILE + ACTING),
        provenance=replace(scores.provenance, data=HOSTILE + ACTING),
    )


def test_hostile_names_stay_text(scores) -> None:
    """A name that closed a script or reordered a line would act on whoever opens the page."""
    hostile = hostile_scores(scores)
    document = html_page(results_of([hostile, plop.place(hostile)]))
    assert "<img" not in document
    assert "</script><" not in document.replace("</script>\n<", "")
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x1b]", document)
    assert document.count("<script") == document.count("</script>") == 3


def test_hostile_names_stay_text_in_markdown(scores) -> None:
    hostile = hostile_scores(scores)
    lines = markdown_page(results_of([hostile, plop.place(hostile)])).splitlines()
    lines = [line for line in lines if not line.startswith("    plop ")]  # a block of code
    assert not any(re.search("(?<!\\\\)<(?!!-- plop-lora report -->)", line) for line in lines)
    assert not any(line.startswith("# e") for line in lines)
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("| ")}
    assert widths <= set(range(3, 15))


# --------------------------------------------------------------------------- one file, no network


def test_the_page_names_no_other_file(page) -> None:
    """A page that loads something tells a stranger who reads it."""
    document = html_page(page)
    own = document.replace(html.asset("vega.js"), "")
    assert not re.search(r'(?:src|href)="(?!data:application/octet-stream;base64,|#)', own)
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|WebSocket", own)
    assert len(document.encode()) < 1_500_000


def test_the_policy_allows_exactly_the_scripts(page) -> None:
    """A hash that is not that of the script would leave the page without figures."""
    document = html_page(page)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', document)[1]
    assert policy.startswith("default-src &#39;none&#39;")
    assert "unsafe" not in policy
    scripts = re.findall(r"<script>(.*?)</script>", document, re.DOTALL)
    assert html._hashes(scripts).replace("'", "&#39;") in policy
    styles = re.findall(r"<style>(.*?)</style>", document, re.DOTALL)
    allowed = re.search("style-src ([^;]*)", policy.replace("&#39;", "'"))[1]
    assert set(html._hashes(styles).split()) == set(allowed.split())


def test_the_bundle_is_the_one_that_was_built() -> None:
    """A library that was exchanged or edited by hand is noticed."""
    assets = SOURCE / "page" / "assets"
    digest = hashlib.sha256((assets / "vega.js").read_bytes()).hexdigest()
    assert digest == (assets / "vega.js.sha256").read_text().strip()
    assert "</script" not in (assets / "vega.js").read_text("utf-8").lower()
    licences = (assets / "vega-licences.txt").read_text("utf-8")
    bundled = json.loads((HERE.parent / "scripts/report_bundle/package.json").read_text())
    for name, version in bundled["dependencies"].items():
        assert f"{name} {version} (BSD-3-Clause)" in licences


# --------------------------------------------------------------------------- the command line


def run(*words: object) -> tuple[int, str, Exception | None]:
    done = CliRunner().invoke(app, ["report", *map(str, words)])
    return done.exit_code, done.output, done.exception


def test_the_command_writes_and_replaces_its_own(tmp_path) -> None:
    """A second run must not be refused because the first one wrote the file."""
    for name in ("r.html", "r.md"):
        for _ in range(2):
            code, output, error = run(ALL[0], "-o", tmp_path / name)
            assert code == 0, (output, error)
    assert (
        (tmp_path / "r.html").read_text().startswith("<!doctype html>\n<!-- plop-lora report -->")
    )
    assert (tmp_path / "r.md").read_text().startswith("<!-- plop-lora report -->")
    code, output, _ = run(ALL[0], "--format", "md", "-o", "-", "--lang", "ja")
    assert code == 0
    assert "スコア" in output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("gone.json",), "No such file"),
        ((GOLDEN / "trial-1.json",), "has no part in a report"),
        ((ALL[0], ALL[0]), "There are 2 'scores' records"),
        ((HERE / "conftest.py",), "not complete JSON"),
        ((HERE,), "is a folder"),
        ((ALL[0], "-o", HERE / "conftest.py", "--format", "html"), "was not written by plop-lora"),
        ((ALL[0], "-o", ALL[0], "--format", "html"), "is read here and would be lost"),
    ],
)
def test_wrong_input_is_told(words, message, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, _, error = run(*words)
    assert isinstance(error, UsageError | RecordError)
    assert message in str(error)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("document", ["[1]", "{}", '{"kind": ["scores"]}', '{"kind": {}}'])
def test_what_is_no_record_is_told(document, tmp_path) -> None:
    """A kind that is a list ended in a message that spoke of a bug."""
    (tmp_path / "x.json").write_text(document)
    with pytest.raises(RecordError, match="is not a plop-lora record"):
        read_records([tmp_path / "x.json"])


@pytest.mark.parametrize("parameters", [0, 1])
def test_a_model_without_parameters_is_shown(parameters) -> None:
    """A record may lack the size of its model; a share of it is then a dash."""
    page = results_of([made_placement(model=model_reference(parameters=parameters))])
    assert ("—" in sections(page)["placement"].lines[0]) == (parameters == 0)


def test_no_record_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one record"):
        results_of([])


def test_a_report_imports_no_torch() -> None:
    """`plop report` is to start at once."""
    code = (
        "import sys\n"
        "from plop_lora.reports.page import html_page, read_records, results_of\n"
        f"html_page(results_of(read_records({[str(path) for path in ALL]!r})))\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_section_computes() -> None:
    """Reports render: a mean or a square root in a section would be a second opinion."""
    for path in (SOURCE / "page").rglob("*.py"):
        names = {
            node.name if isinstance(node, ast.alias) else node.module
            for tree in [ast.parse(path.read_text("utf-8"))]
            for top in ast.walk(tree)
            for node in (top.names if isinstance(top, ast.Import) else [top])
            if isinstance(node, ast.alias | ast.ImportFrom)
        }
        assert not names & {"math", "numpy", "scipy", "statistics", "plop_lora.statistics"}, path
