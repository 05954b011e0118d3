"""The report page in a browser: nothing fails, nothing leaves it, and everybody can use it.

Needs Playwright and Debian's Chromium, and for one test axe-core, which `.ci/run` installs where it
may; without them these tests are skipped with the reason.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_report_curves import finetune, with_curves
from test_report_items import verdict
from test_report_page import ALL, GOLDEN, HOSTILE, RESULTS, hostile_scores
from typer.testing import CliRunner
from waiting import PATIENCE

import plop_lora as plop
from plop_lora.cli import app
from plop_lora.errors import UsageError
from plop_lora.placement.budget import RankCost, allocate
from plop_lora.records import Placement, Record, Robustness, Scores, SiteScore
from plop_lora.reports.page import (
    fragment,
    html_page,
    read_answers,
    read_records,
    results_of,
)
from plop_lora.reports.text import LANGUAGES, text

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
AXE = Path(__file__).parents[1] / "scripts/report_bundle/node_modules/axe-core/axe.min.js"
DRAWN = "[data-drawn=done]"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
    if not Path(CHROMIUM).is_file():
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


class Opened:
    """A page with what it said on its console and what it asked of the network."""

    def __init__(self, browser: Any, document: str, path: Path, **context: Any) -> None:
        """Write the document, open it, and wait until its figures are drawn."""
        path.write_text(document, encoding="utf-8")
        self.context = browser.new_context(**context)
        self.context.set_default_timeout(1000 * PATIENCE)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(f"dialog {dialog.message}"))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector(DRAWN, state="attached")
        self.asked.remove(path.as_uri())


@pytest.fixture
def opened(browser, tmp_path) -> Iterator[Any]:
    """Return a function that opens a report of records."""
    contexts: list[Any] = []

    def opens(*records: Record, language: str = "en", document: str = "", **context: Any) -> Opened:
        document = document or html_page(results_of(records, language))
        found = Opened(browser, document, tmp_path / "report.html", **context)
        contexts.append(found.context)
        return found

    yield opens
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def scores() -> Scores:
    return Scores.load(GOLDEN / "llama-scores.json")


# --------------------------------------------------------------------------- it opens


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(("width", "theme"), [(1400, "light"), (390, "dark")])
def test_the_page_draws_and_stays_silent(opened, language, width, theme) -> None:
    """A figure that its own policy blocks is an empty box with an error on the console."""
    shown = opened(
        *read_records(ALL), language=language,
        viewport={"width": width, "height": 900}, color_scheme=theme, locale=language,
    )  # fmt: skip
    assert shown.said == []
    assert shown.asked == []
    plots = shown.page.locator(".plot")
    assert plots.count() > 5
    for place in plots.all():
        assert place.locator("svg").count() == 1
        assert place.locator("svg").bounding_box()["width"] > 200
    whole = shown.page.evaluate("document.documentElement.scrollWidth")
    assert whole <= width


def test_a_cell_tells_its_value(opened, scores) -> None:
    """The colour of a cell is no number; what it stands for is shown under the pointer, as text."""
    hostile = hostile_scores(scores)
    page = opened(hostile).page
    cell = page.locator("[data-figure=scores-map] svg .mark-rect path").first
    cell.scroll_into_view_if_needed()
    cell.hover()
    tip = page.locator(".tip")
    tip.wait_for(state="visible")
    assert HOSTILE[:12] in tip.text_content()
    assert any(f"{site.nfn:.4f}" in tip.text_content() for site in hostile.sites)
    page.mouse.move(1, 1)
    tip.wait_for(state="hidden")


def test_a_hostile_record_injects_nothing(opened, scores) -> None:
    """A name that became markup, a script or an expression would act here."""
    hostile = hostile_scores(scores)
    shown = opened(hostile, plop.place(hostile))
    assert shown.said == []
    assert shown.asked == []
    assert shown.page.locator("img, iframe, object, embed, base").count() == 0
    drawn = shown.page.locator("[data-figure=scores-ranking] svg").text_content()
    assert HOSTILE[:12] in drawn


def test_a_fragment_keeps_to_itself(opened, scores) -> None:
    """In a notebook the styles of the page and of the report must not reach each other."""
    inner = json.dumps(fragment(results_of([scores, plop.place(scores)])))
    inner = inner.replace("</", "<\\/")
    document = (
        "<!doctype html><html lang=en><title>notebook</title><style>p, td { color: rgb(1, 2, 3) "
        "!important }</style><body><p id=mine>text</p><div id=out></div><script>\n"
        f"const out = document.getElementById('out'); out.innerHTML = {inner};\n"
        "for (const old of out.querySelectorAll('script:not([type])')) {\n"
        "  const made = document.createElement('script');\n"
        "  made.textContent = old.textContent; old.replaceWith(made); }</script>"
    )
    shown = opened(document=document)
    assert shown.said == []
    color = "element => getComputedStyle(element).color"
    assert shown.page.locator("main p").first.evaluate(color) != "rgb(1, 2, 3)"
    assert shown.page.locator("#mine").evaluate("e => getComputedStyle(e).maxWidth") == "none"
    assert shown.page.locator(".plot svg").count() == 3


def test_tables_and_notes_are_there_without_scripts(opened, scores, browser, tmp_path) -> None:
    """A viewer that runs no script still shows everything but the drawings."""
    path = tmp_path / "still.html"
    path.write_text(html_page(results_of([scores, plop.place(scores)])), encoding="utf-8")
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    assert page.get_by_text("need JavaScript").count() == 1
    assert page.get_by_role("heading", name="Placement", exact=True).count() == 1
    context.close()


# --------------------------------------------------------------------------- learning curves


def test_small_drawings_take_the_room_that_there_is(opened) -> None:
    """A bundle of curves shows nothing, and drawings beside the screen are not seen."""
    record = with_curves(arms=6, seeds=2)
    hostile = replace(record.arms[1], arm=HOSTILE + "'\"\\")
    record = replace(record, arms=(record.arms[0], hostile, *record.arms[2:]))
    shown = opened(record, finetune(), viewport={"width": 1400, "height": 900})
    place = shown.page.locator("[data-figure=verification-curves]")
    assert place.get_attribute("data-columns") == "4"
    assert place.locator(".mark-line path").count() == 12
    assert HOSTILE[:12] in place.locator("svg").text_content()
    narrow = "[data-figure=verification-curves][data-columns='1'] svg"
    shown.page.set_viewport_size({"width": 390, "height": 900})
    shown.page.wait_for_selector(narrow)
    assert shown.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert place.locator("svg").bounding_box()["width"] <= 340
    assert shown.said == []
    assert shown.page.locator("[data-figure=finetune-curve] svg").count() == 1


# --------------------------------------------------------------------------- robustness


def test_long_names_of_variants_leave_room_for_the_legend(opened) -> None:
    """Its words were cut at the edge of a telephone, and a hostile setting is only drawn."""
    record = Robustness.load(RESULTS / "robustness" / "minilm-exceptions.json")
    attacked = replace(record.results[0], setting=HOSTILE)
    record = replace(record, results=(attacked, *record.results[1:]))
    shown = opened(record, viewport={"width": 390, "height": 900})
    drawn = shown.page.locator("[data-figure=robustness-tau] svg")
    whole, legend = drawn.bounding_box(), drawn.locator(".role-legend").first.bounding_box()
    assert legend["x"] + legend["width"] <= whole["x"] + whole["width"]
    assert shown.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert shown.page.locator("#robustness img").count() == 0
    assert shown.said == []
    assert shown.asked == []


# --------------------------------------------------------------------------- items of a gate


def test_items_are_folded_by_keyboard_and_printed(opened, tmp_path) -> None:
    """A folded table that only a mouse opens, or that paper leaves out, is lost to some."""
    made = verdict(HOSTILE, tmp_path)
    answers = read_answers([(tmp_path / "v.json", made)])
    document = html_page(results_of([made], answers=answers))
    shown = opened(document=document)
    page = shown.page
    folded = page.locator(".fold:not([open])")
    assert folded.count() == 1
    cell = page.locator(".fold").last.locator("tbody th").first
    assert not cell.is_visible()
    page.locator(".fold summary").last.focus()
    page.keyboard.press("Enter")
    assert cell.is_visible()
    page.keyboard.press("Enter")
    assert not cell.is_visible()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert cell.is_visible()
    assert page.locator("img").count() == 0
    assert HOSTILE[:12] in page.locator(".fold td").nth(9).text_content()
    assert shown.said == []


# --------------------------------------------------------------------------- budgets


def test_the_rule_of_the_page_is_that_of_the_library(opened, scores) -> None:
    """Ranks that differ by one from those of `plop place` would be trained by nobody."""
    draw = random.Random(0)
    cases = []
    for _ in range(300):
        groups = draw.randint(1, 4)
        costs = [
            RankCost(draw.randint(1, 900), draw.randint(1, 64), draw.randrange(groups))
            for _ in range(draw.randint(1, 24))
        ]
        least = sum(cost.parameters_per_rank for cost in costs)
        cases.append((costs, draw.randint(max(1, least - 50), 70 * least)))
    page = opened(scores, plop.place(scores)).page
    found = page.evaluate(
        "cases => cases.map(([weights, budget]) => plopAllocate(weights, budget))",
        [
            (
                [
                    {"price": c.parameters_per_rank, "most": c.largest_rank, "group": c.group}
                    for c in costs
                ],
                budget,
            )
            for costs, budget in cases
        ],
    )
    for (costs, budget), ranks in zip(cases, found, strict=True):
        try:
            assert ranks == allocate(costs, budget)
        except UsageError:
            assert ranks is None


@pytest.mark.parametrize("keys", [{}, {"strategy": "all-linear"}, {"top": 2, "layers": [1]}])
def test_the_explorer_shows_what_plop_place_does(opened, scores, keys, tmp_path, monkeypatch):
    """The command that stands below the table makes the placement that the table shows."""
    import shlex

    monkeypatch.chdir(tmp_path)
    scores.save("scores.json")
    page = opened(scores, plop.place(scores, **keys)).page
    field = page.get_by_label("Budget in parameters")
    words, runner = text("en"), CliRunner()
    held = results_of([plop.place(scores, **keys)]).sections[0].explorer
    for step in range(12):
        budget = round(held.smallest * (held.largest / held.smallest) ** (step / 11)) + step
        field.fill(str(budget))
        command = page.locator(".explorer code").text_content()
        done = runner.invoke(app, [*shlex.split(command)[1:], "-o", "p.json"])
        assert done.exit_code == 0, done.output
        placement = Placement.load("p.json")
        assert placement.budget == budget
        used = page.locator(".explorer output").text_content()
        assert used == words.count(placement.trainable_parameters)
        rows = [row.split("\t") for row in page.locator(".explorer tbody").inner_text().split("\n")]
        assert [tuple(row) for row in rows] == [
            (
                choice.type,
                str(choice.lowest_rank)
                if choice.lowest_rank == choice.highest_rank
                else f"{choice.lowest_rank}–{choice.highest_rank}",
                words.count(choice.parameters),
            )
            for choice in placement.choices
        ]


def test_the_slider_works_by_keyboard_and_refuses_nonsense(opened, scores) -> None:
    """A budget below the smallest, or a word, is told and changes nothing else."""
    page = opened(scores, plop.place(scores)).page
    slider, field = page.get_by_label("Budget, from"), page.get_by_label("Budget in parameters")
    output = page.locator(".explorer output")
    before = int(field.input_value())
    slider.focus()
    for _ in range(40):
        page.keyboard.press("ArrowRight")
    assert int(field.input_value()) > before
    assert int(output.text_content().replace(",", "")) <= int(field.input_value())
    page.keyboard.press("Home")
    for wrong, told in (("1", "smallest budget"), ("much", "whole number"), ("", "whole number")):
        field.fill(wrong)
        assert told in output.text_content()
        assert field.get_attribute("aria-invalid") == "true"
    field.fill("9,000")
    assert field.get_attribute("aria-invalid") == "false"


# --------------------------------------------------------------------------- large


def large(scores: Scores, types: int, layers: int) -> Scores:
    """Return scores of so many types in so many layers, with the sums of those given repeated."""
    draw = random.Random(0)
    names = [f"block.experts_{number}.projection" for number in range(types)]
    pattern = scores.sites[0]
    sites: list[SiteScore] = [
        replace(pattern, name=f"{layer}.{name}", host=f"{layer}.{name}", type=name, layer=layer,
                nfn=1 + draw.random())
        for layer in range(layers)
        for name in names
    ]  # fmt: skip
    held = scores.measurements
    return replace(
        scores,
        sites=tuple(sites),
        hosts=tuple(
            replace(scores.hosts[0], name=site.name, type=site.type, layer=site.layer)
            for site in sites
        ),
        types=tuple(replace(scores.types[0], type=name, host_type=name) for name in names),
        measurements=replace(
            held, sums=held.sums[:1] * len(sites), count_row=held.count_row[:1] * len(sites)
        ),
    )


def test_a_large_map_is_one_drawing(opened, scores) -> None:
    """18,000 cells as elements would stop the browser; as a file they must not exceed its limit."""
    record = large(scores, 300, 60)
    document = html_page(results_of([record]))
    assert len(document.encode()) < 1_500_000
    shown = opened(document=document, color_scheme="dark")
    assert shown.said == []
    place = shown.page.locator("[data-figure=scores-map]")
    assert place.locator("canvas").count() == 1
    assert place.locator("canvas").bounding_box()["width"] > 300 * 10
    place.locator("canvas").evaluate("canvas => { canvas.dataset.before = 'yes'; }")
    shown.page.emulate_media(color_scheme="light")
    place.locator("canvas:not([data-before])").wait_for()
    assert place.locator("canvas").count() == 1
    assert shown.said == []


# --------------------------------------------------------------------------- for everybody


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_axe_finds_no_serious_violation(opened, language, theme) -> None:
    """Contrast, names of controls, order of headings, tables: what a checker can find."""
    if not AXE.is_file():
        pytest.skip("needs axe-core: npm ci --prefix scripts/report_bundle")
    page = opened(*read_records(ALL), language=language, color_scheme=theme).page
    page.evaluate("document.querySelector('[id^=plop-]').shadowRoot"
                  ".querySelectorAll('details').forEach(one => { one.open = true; })")  # fmt: skip
    page.evaluate(AXE.read_text("utf-8"))
    found = page.evaluate("axe.run(document)")
    serious = [
        (violation["id"], [node["html"][:200] for node in violation["nodes"]][:3])
        for violation in found["violations"]
    ]
    assert serious == []
    assert len(found["passes"]) > 20
