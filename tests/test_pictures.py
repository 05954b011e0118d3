"""The pictures of the documentation: drawn from records, and readable by everybody."""

from __future__ import annotations

import doctest
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plop_lora.demo import MODEL
from plop_lora.records import Scores, Verification

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures"
JAPANESE = ROOT / "docs" / "ja" / "figures"
STUDY = (
    "study-data",
    "study-costs",
    "study-firsts",
    "study-forgetting",
    "study-gains",
    "study-indicators",
    "study-correlations",
    "study-networks",
    "study-differences",
    "study-regrets",
    "study-triples",
)
NAMES = sorted(path.stem for path in FIGURES.glob("*.svg"))
SVG = "{http://www.w3.org/2000/svg}"
OWN = ("pictures", "drawing", "evidence")


@pytest.fixture(scope="module")
def pictures() -> Iterator[Any]:
    """The modules that draw."""
    before = list(sys.path)
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        from pictures import (
            catalogue,
            forest,
            heat,
            measure,
            pages,
            report,
            scatter,
            scenes,
            study,
            svg,
        )  # fmt: skip

        yield SimpleNamespace(
            catalogue=catalogue, forest=forest, heat=heat, measure=measure, pages=pages,
            report=report, scatter=scatter, scenes=scenes, study=study, svg=svg,
        )  # fmt: skip
    finally:
        sys.path[:] = before
        for name in [name for name in sys.modules if name.split(".")[0] in OWN]:
            sys.modules.pop(name)


def elements(text: str, name: str) -> list[ET.Element]:
    return ET.fromstring(text).findall(f".//{SVG}{name}")


# --------------------------------------------------------------------------- files and pages


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in STUDY else ()) for name in NAMES],
)
def test_a_picture_is_what_its_records_say(pictures, name: str) -> None:
    """A picture that nobody draws again shows old numbers; so does its description."""
    drawn = pictures.catalogue.PICTURES[name]()
    assert drawn.svg == (FIGURES / f"{name}.svg").read_text(encoding="utf-8"), (
        "run: python docs/generate.py --pictures"
    )
    said = {
        alt
        for path in pictures.pages.page_files()
        for shown, alt in pictures.pages.shown(path.read_text(encoding="utf-8"))
        if shown == name
    }
    assert said == {drawn.alt}


def test_a_translated_picture_is_current_and_has_the_verbs_of_the_other(pictures) -> None:
    """It stands in for a picture of the same name, on the pages of its language."""
    drawn = pictures.catalogue.TRANSLATED
    assert {path.stem for path in JAPANESE.glob("*.svg")} == set(drawn) <= set(NAMES)
    for name, draw in drawn.items():
        text = (JAPANESE / f"{name}.svg").read_text(encoding="utf-8")
        assert text == draw(), "run: python docs/generate.py --pictures"
        assert ET.fromstring(text).get("lang") == "ja", "else letters may have Chinese shapes"
    steps, translated = pictures.scenes.STEPS, pictures.scenes.STEPS_JA
    assert [step.verb for step in steps] == [step.verb for step in translated]


@pytest.mark.parametrize("name", sorted(path.stem for path in JAPANESE.glob("*.svg")))
def test_a_translated_picture_says_the_same(name: str) -> None:
    """Its names and numbers are those of the English one, and all else is in Japanese."""
    english, japanese = (
        [each.text or "" for each in elements((folder / f"{name}.svg").read_text("utf-8"), "text")]
        for folder in (FIGURES, JAPANESE)
    )
    assert len(english) == len(japanese)
    pattern = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")
    for one, other in zip(english, japanese, strict=True):
        assert one == other or pattern.search(other), (one, other)
        if one == other:
            assert " " not in one or one.startswith("plop "), f"{one} was left in English"


def test_japanese_pages_show_japanese_pictures() -> None:
    """Those of the study are drawn in English alone."""
    pages = JAPANESE.parent.glob("*.md")
    shown = {
        found for page in pages
        for found in re.findall(r"\(figures/([\w-]+\.\w+)", page.read_text(encoding="utf-8"))
    }  # fmt: skip
    assert {name for name in shown if not (JAPANESE / name).is_file()} == {"study-networks.svg"}
    assert {path.name for path in JAPANESE.iterdir()} <= shown


def test_every_picture_is_drawn_and_shown(pictures) -> None:
    """Files that nothing draws or shows stay behind when pages change."""
    assert set(NAMES) == set(pictures.catalogue.PICTURES)
    shown = {
        name
        for path in pictures.pages.page_files()
        for name, _ in pictures.pages.shown(path.read_text(encoding="utf-8"))
    }
    assert shown == set(NAMES)


def test_no_two_images_have_the_same_description(pictures) -> None:
    """A description that fits two pictures tells the content of neither."""
    said: dict[str, str] = {}
    for path in pictures.pages.page_files():
        for alt, file in re.findall(
            r"!\[([^]]*)\]\((\S+?)(?:#[\w-]+)?\)", path.read_text(encoding="utf-8")
        ):
            assert len(alt) > 40, (path, file)
            stem = re.sub(r"-(light|dark)$", "", Path(file).stem)
            assert said.setdefault(alt, stem) == stem


@pytest.mark.slow
def test_the_front_page_claims_what_the_study_found(pictures) -> None:
    """Its sentences have no numbers; with other findings they must be written anew."""
    page = (ROOT / "docs" / "index.md").read_text(encoding="utf-8").replace("\n", " ")
    assert "rule for choosing types could be told from a constant one" in page
    assert "the interval over networks holds zero" in page
    used, evidence = pictures.study.pairs(), pictures.study.evidence
    opposite = "plop-inverse"  # neither a constant nor drawn
    rows = [row for each in used for row in evidence.comparisons(each)]
    assert {row.verdict for row in rows if row.rule != opposite} == {"tie"}
    low, high = evidence.network_interval(used)
    assert low < 0 < high
    assert sum(map(evidence.correlation, used)) < 0


# --------------------------------------------------------------------------- how they look


@pytest.mark.parametrize(
    "path", [*sorted(FIGURES.glob("*.svg")), *sorted(JAPANESE.glob("*.svg"))],
    ids=lambda path: f"{path.parents[1].name}-{path.stem}",
)  # fmt: skip
def test_a_picture_stands_alone_and_fits_a_phone(pictures, path: Path) -> None:
    """What loads from elsewhere is missing offline; letters below 11 are too small to read."""
    text = path.read_text(encoding="utf-8")
    root = ET.fromstring(text)
    assert root.get("viewBox") == f"0 0 360 {root.get('height')}"
    assert "prefers-color-scheme:dark" in text
    assert root.find(f"{SVG}title").text
    assert not re.search(r"href|url\(|<script|<image|@import", text)
    sizes = {int(size) for size in re.findall(r"font-size:(\d+)px", text)}
    assert sizes == {pictures.svg.SIZE, pictures.svg.MIDDLE, pictures.svg.SMALL}
    assert min(sizes) >= 11
    assert not [each for each in root.iter() if each.get("font-size")]


@pytest.mark.parametrize("scheme", ["LIGHT", "DARK"])
def test_letters_stand_out_from_what_is_behind_them(pictures, scheme: str) -> None:
    """The least contrast that WCAG 2.2 asks of text, in both themes."""
    colours = getattr(pictures.svg, scheme)
    strongest = 0.6
    behind = [colours["surface"], colours["panel"]]
    for words in ("text", "muted", "accent", "second"):
        assert all(contrast(colours[words], back) >= 4.5 for back in behind), words
    for cell in ("heat", "loss"):
        assert contrast(colours["text"], mixed(colours[cell], behind[0], strongest)) >= 4.5, cell


def mixed(colour: str, back: str, opacity: float) -> str:
    parts = zip(bytes.fromhex(colour[1:]), bytes.fromhex(back[1:]), strict=True)
    return "#" + bytes(round(opacity * a + (1 - opacity) * b) for a, b in parts).hex()


def contrast(one: str, two: str) -> float:
    lights = []
    for colour in (one, two):
        parts = [value / 255 for value in bytes.fromhex(colour[1:])]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)
    return max(lights) / min(lights)


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


def test_doctests(pictures) -> None:
    results = [doctest.testmod(module) for module in (pictures.svg, pictures.scenes)]
    assert all(result.attempted and not result.failed for result in results)


def test_a_forest_plot_puts_values_and_intervals_in_their_places(pictures) -> None:
    """A dot on the wrong side of zero says the opposite."""
    module = pictures.forest
    rows = [
        module.Row(label="a", value=-1.0, low=-2.0, high=0.0),
        module.Row(label="<b>", value=2.0),
        module.Row(label="mean", value=0.5, low=-1.0, high=2.0, pooled=True),
    ]
    scale = module.Scale(title="t", marks=(0.0, 1.0))
    text = module.forest("plot", [module.Panel(heading="", rows=rows)], scale)
    first, second = (float(dot.get("cx")) for dot in elements(text, "circle"))
    unit = (second - first) / 3
    zero = first + unit
    (bar,) = [each for each in elements(text, "path") if each.get("stroke-width") == "2" and
              len(set(re.findall(r" ([\d.]+)", each.get("d")))) == 1]  # fmt: skip
    reach = [float(x) for x in re.findall(r"[ML]([\d.]+) ", bar.get("d"))]
    assert reach == pytest.approx([first - unit, zero], abs=0.02)
    marks = [each for each in elements(text, "path") if "s-muted" in each.get("class")]
    places = [float(re.match(r"M([\d.]+)", each.get("d"))[1]) for each in marks]
    assert places == pytest.approx([zero, zero + unit], abs=0.02)
    assert [each.get("stroke-dasharray") for each in marks] == [None, "4 3"]
    words = [each.text for each in elements(text, "text")]
    assert "<b>" in words
    assert {"−1.00", "+2.00", "+0.50"} <= set(words)
    (diamond,) = [each for each in elements(text, "path") if each.get("d").endswith("Z")]
    ends = [float(x) for x in re.findall(r"[ML]([\d.]+) ", diamond.get("d"))]
    assert [min(ends), max(ends)] == pytest.approx([zero - unit, zero + 2 * unit], abs=0.02)


def test_the_idea_is_computed(pictures) -> None:
    """The ratio that the picture names is that of the points it shows."""
    scenes = pictures.scenes
    found = scenes.idea()
    assert found == scenes.idea()
    lengths = [abs(complex(*scenes._image(point))) for point in found.features]
    noise = [abs(complex(*scenes._image(point))) for point in found.randoms]
    ratio = (sum(lengths) / len(lengths)) / (sum(noise) / len(noise))
    assert found.nfn == pytest.approx(ratio, rel=0.05)
    spread = [abs(complex(*point)) for point in (*found.features, *found.randoms)]
    assert spread == pytest.approx([1.0] * len(spread))


def test_a_block_has_its_adapters_on_the_lowest_types(pictures) -> None:
    """Twice an adapter is two matrices; the frozen weights have none."""
    scores = Scores.load(pictures.measure.SCORES)
    lowest = sorted(scores.types, key=lambda row: row.nfn)[:3]
    text = pictures.catalogue.block().svg
    chosen = {
        each.text
        for each in elements(text, "text")
        if each.get("class").startswith("f-accent bold")
    }
    assert {row.type for row in lowest} <= chosen
    assert not {row.type for row in scores.types if row not in lowest} & chosen
    legend = 2
    adapters = [each for each in elements(text, "rect") if each.get("class") == "f-accent"]
    assert len(adapters) == 2 * len(lowest) + legend


# --------------------------------------------------------------------------- what was measured


@pytest.mark.slow
def test_the_records_are_what_this_machine_measures(pictures, monkeypatch) -> None:
    """Pictures are drawn from records; these must be those of the model that is bundled."""
    monkeypatch.chdir(ROOT)
    old, new = Scores.load(pictures.measure.SCORES), pictures.measure.scores()
    assert Path(old.model.name) == MODEL.relative_to(ROOT)
    for before, after in zip(old.sites, new.sites, strict=True):
        assert (before.name, before.layer) == (after.name, after.layer)
        assert before.nfn == pytest.approx(after.nfn, rel=5e-3)
    responses = json.loads(pictures.measure.RESPONSES.read_text(encoding="utf-8"))
    for name, each in pictures.measure.responses().items():
        for kind, values in each.items():
            assert responses[name][kind] == pytest.approx(values, rel=1e-2), (name, kind)
        site = f"model.layers.{pictures.measure.LAYER}.self_attn.{name}"
        (nfn,) = [row.nfn for row in old.sites if row.name == site]
        assert sum(each["features"]) / len(each["features"]) == pytest.approx(nfn, rel=0.05)


def test_the_tutorial_prints_its_record(pictures) -> None:
    """The output below the command is that of the record from which the picture is drawn."""
    page = pictures.pages.TUTORIAL.read_text(encoding="utf-8")
    assert pictures.pages.printed(page) == page, "run: python docs/generate.py --pictures"
    record = Verification.load(pictures.measure.VERIFICATION)
    assert f"exit code is {record.exit_code}" in page


def test_the_photograph_of_the_report_is_described(pictures) -> None:
    """Its description has the answer of the report, and what its first screen says."""
    text = pictures.pages.TUTORIAL.read_text(encoding="utf-8")
    light, dark = re.findall(r"!\[([^]]*)\]\(figures/tutorial-report-\w+\.png", text)
    assert light == dark
    shown = pictures.report.results()
    assert shown.answer in light
    record = Verification.load(pictures.measure.VERIFICATION)
    assert f"cannot separate, against {len(record.arms) - 1} rivals" in light
    assert f"on {record.report_rows} rows" in light
    worst = min(arm.difference for arm in record.arms if arm.difference is not None)
    assert f"{worst:.4f} of loss".replace("-", "−") in light


def test_the_japanese_photograph_of_the_report_is_described(pictures) -> None:
    """It is the same report in the language of the page, with the words of that report."""
    text = (JAPANESE.parent / "tutorial.md").read_text(encoding="utf-8")
    light, dark = re.findall(r"!\[([^]]*)\]\(figures/tutorial-report-\w+\.png", text)
    assert light == dark
    shown = pictures.report.results("ja")
    assert shown.answer.rstrip("。") in light
    record = Verification.load(pictures.measure.VERIFICATION)
    assert f"判別できない。対抗案 {len(record.arms) - 1} 件、{record.report_rows} 行" in light
    worst = min(arm.difference for arm in record.arms if arm.difference is not None)
    assert f"損失で {worst:.4f}".replace("-", "−") in light


@pytest.mark.slow
def test_every_command_of_the_tutorial_runs(pictures, tmp_path: Path) -> None:
    """About a minute: the verification is the same one, and its report can be opened."""
    page = pictures.pages.TUTORIAL.read_text(encoding="utf-8").partition("## Your own model")[0]
    pattern = r"```sh\n(.*?)```(?:\n\n<!-- \w+ -->)?\n*(?:```text\n(.*?)```)?"
    blocks = re.findall(pattern, page, re.DOTALL)
    commands = [line.split()[1] for code, _ in blocks for line in code.splitlines()
                if line.startswith("plop ")]  # fmt: skip
    steps = ["score", "score", "compare", "place", "export", "acquire", "verify", "report"]
    assert commands == steps
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    codes, outputs = [], []
    for code in ("plop demo", *(code for code, _ in blocks)):
        done = subprocess.run(
            ["bash", "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        codes.append(done.returncode)
        outputs.append(done.stdout + done.stderr)
        assert done.returncode in (0, 4), done.stderr
    old = Verification.load(pictures.measure.VERIFICATION)
    new = Verification.load(tmp_path / "verification.json")
    assert codes == [0, 0, new.exit_code, 0]
    assert (old.train_rows, old.report_rows, old.seeds) == (
        new.train_rows, new.report_rows, new.seeds,
    )  # fmt: skip
    for before, after in zip(
        *(sorted(each.arms, key=lambda arm: arm.arm) for each in (old, new)), strict=True
    ):
        assert (before.arm, before.parameters) == (after.arm, after.parameters)
        assert before.mean == pytest.approx(after.mean, rel=0.1)
    assert outputs[-1].strip() == blocks[-1][1].strip()
    assert "cannot separate" in (tmp_path / "report.html").read_text(encoding="utf-8").lower()
