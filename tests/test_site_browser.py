"""The site and its pictures in a browser: readable on a phone, in both themes.

Needs Playwright and Debian's Chromium; without them these tests are skipped with the reason.
"""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
FIGURES = sorted((ROOT / "docs").glob("**/figures/*.svg"))
FORESTS = ("study-networks", "study-correlations", "study-indicators", "study-firsts",
           "study-differences", "experiment-sft", "tutorial-verify", "growth")  # fmt: skip
"""Pictures with labels to the left of an axis."""
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
PAGES = ("index.html", "tutorial/index.html", "explanation/index.html", "evidence/index.html",
         "experiments/index.html", "adoption/index.html", "ja/index.html", "ja/tutorial/index.html",
         "ja/adoption/index.html")  # fmt: skip
WITHOUT_PICTURES = ("comparison/index.html", "phrases/index.html", "ja/phrases/index.html",
                    "ja/questions/index.html", "how-to/place/index.html")  # fmt: skip
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
    if not Path(CHROMIUM).is_file():
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


def build(folder: Path, **environment: str) -> Path:
    """Build the site into a folder."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)]
    given = os.environ | {"NO_MKDOCS_2_WARNING": "1"} | environment
    subprocess.run(command, check=True, cwd=ROOT, env=given)
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("site"), PLOP_SOURCE_URL="https://example.org/plop-lora")


@pytest.fixture(scope="module")
def server(site: Path) -> Iterator[str]:
    """The address of the site on a server, which the search needs for its program."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}/"
        served.shutdown()


@pytest.fixture
def page(browser) -> Iterator[Any]:
    context = browser.new_context(viewport=PHONE, color_scheme="light")
    yield context.new_page()
    context.close()


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.stem)
def test_no_letters_leave_the_picture_or_meet(page, path: Path) -> None:
    """Widths of letters are not known when a picture is drawn."""
    page.goto(path.as_uri())
    boxes = page.evaluate(
        """() => [...document.querySelectorAll("text")].map(text => {
            const box = text.getBoundingClientRect();
            return [text.textContent, box.left, box.top, box.right, box.bottom,
                    text.hasAttribute("transform")];
        })"""
    )
    height = page.evaluate("document.documentElement.getBoundingClientRect().height")
    assert boxes
    outside = [
        words for words, left, top, right, bottom, _ in boxes
        if left < 0 or top < -2 or right > 360 or bottom > height + 2
    ]  # fmt: skip
    assert outside == []
    # The boxes of turned letters hold more than the letters.
    level = [box for box in boxes if not box[5]]
    meeting = [
        (one[0], two[0])
        for place, one in enumerate(level)
        for two in level[place + 1 :]
        if min(one[3], two[3]) - max(one[1], two[1]) > 1
        and min(one[4], two[4]) - max(one[2], two[2]) > 5
    ]
    assert meeting == []


@pytest.mark.parametrize(
    "path", [path for path in FIGURES if path.stem in FORESTS], ids=lambda path: path.stem
)
def test_no_label_of_a_forest_plot_meets_a_value(page, path: Path) -> None:
    """A long name at the left once ran into the point of the lowest value."""
    page.goto(path.as_uri())
    labels, values = page.evaluate(
        """() => ["text[x='12']", "circle"].map(what => [...document.querySelectorAll(what)].map(
            each => {
                const box = each.getBoundingClientRect();
                return [box.left, box.top, box.right, box.bottom];
            }))"""
    )
    assert len(labels) >= len(values) > 0
    assert [
        (one, two)
        for one in labels
        for two in values
        if one[2] > two[0] and min(one[3], two[3]) - max(one[1], two[1]) > 5
    ] == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_a_phone(page, site: Path, name: str) -> None:
    """Nothing but tables and code is wider than the screen, and pictures keep their size."""
    page.goto((site / name).as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    images = page.locator("article img[src$='.svg']")
    assert images.count() > 0
    for number in range(images.count()):
        image = images.nth(number)
        image.scroll_into_view_if_needed()
        image.evaluate("each => each.decode()")
        assert image.evaluate("each => each.naturalWidth") == 360
        assert image.bounding_box()["width"] >= 330


@pytest.mark.parametrize("name", WITHOUT_PICTURES)
def test_a_page_of_words_fits_a_phone(page, site: Path, name: str) -> None:
    page.goto((site / name).as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


@pytest.mark.parametrize(
    ("name", "last"),
    [("index.html", "That an A/B test pays off"), ("ja/index.html", "実際の利用者との A/B テスト")],
)
def test_the_front_page_shows_all_in_one_screen(browser, site: Path, name: str, last: str) -> None:
    """On a desktop nobody has to scroll to learn what it does, what was found and what was not."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page = context.new_page()
    page.goto((site / name).as_uri())
    pictures = [page.locator("article img").nth(number).bounding_box() for number in range(4)]
    assert page.locator("article img").count() == len(pictures)
    words = page.get_by_text(last).bounding_box()
    ends = [box["y"] + box["height"] for box in (*pictures, words)]
    context.close()
    assert max(ends) <= 900


@pytest.mark.parametrize(("start", "end"), [("", "ja/"), ("ja/", "")])
def test_the_language_is_switched_on_the_same_page(page, site: Path, start: str, end: str) -> None:
    """A reader stays on the page that they read; English pages keep their addresses."""
    page.goto((site / f"{start}tutorial" / "index.html").as_uri())
    assert page.evaluate("document.documentElement.lang") == ("ja" if start else "en")
    code = "ja" if end else "en"
    link = page.locator(f".md-select__link[hreflang={code}]").first
    address = page.evaluate("link => link.href", link.element_handle())
    assert address.rstrip("/").endswith(f"{site.name}/{end}tutorial")


def test_a_page_that_is_not_translated_says_so(page, site: Path) -> None:
    """Its words are marked as English for programs that read them aloud."""
    page.goto((site / "ja" / "gate" / "index.html").as_uri())
    assert page.locator("article[lang=en] h1").count() == 1
    assert page.locator("article[lang=en] .admonition[lang=ja]").count() == 1
    assert page.get_by_text("まだ翻訳されていない").count() == 1
    page.goto((site / "gate" / "index.html").as_uri())
    assert page.locator("article[lang]").count() == 0


@pytest.mark.parametrize(
    ("start", "typed", "found"),
    [("ja/", "忘却", "ja/questions/"), ("", "forgetting", "questions/")],
)
def test_search_finds_pages_of_the_language(
    page, server: str, start: str, typed: str, found: str
) -> None:
    page.goto(f"{server}{start}index.html")
    page.locator("label[for=__search]").first.click()
    page.locator(".md-search__input").type(typed)
    page.locator(".md-search-result__link").first.wait_for(timeout=60_000)
    links = page.locator(".md-search-result__link")
    addresses = [links.nth(number).get_attribute("href") for number in range(links.count())]
    assert any(f"/{found}" in address for address in addresses)
    assert all(("/ja/" in address) == bool(start) for address in addresses)


def test_the_theme_is_switched_and_the_pictures_follow(page, site: Path) -> None:
    """On a light system, too, the pictures of the dark theme are dark."""
    page.goto((site / "index.html").as_uri())
    schemes = []
    corner = {}
    for _ in range(3):
        scheme = page.evaluate("document.body.dataset.mdColorScheme")
        schemes.append(scheme)
        image = page.locator("article img").first
        image.scroll_into_view_if_needed()
        corner[scheme] = image.screenshot()
        page.locator("form.md-header__option label:visible").click()
    assert schemes == ["default", "default", "slate"]
    assert brightness(page, corner["default"]) > 200
    assert brightness(page, corner["slate"]) < 60


def brightness(page: Any, image: bytes) -> float:
    """Return the mean brightness of a screenshot, from 0 to 255."""
    return page.evaluate(
        """async bytes => {
            const blob = new Blob([new Uint8Array(bytes)], {type: "image/png"});
            const bitmap = await createImageBitmap(blob);
            const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
            const context = canvas.getContext("2d");
            context.drawImage(bitmap, 0, 0);
            const pixels = context.getImageData(0, 0, bitmap.width, bitmap.height).data;
            let sum = 0;
            for (let place = 0; place < pixels.length; place += 4)
                sum += (pixels[place] + pixels[place + 1] + pixels[place + 2]) / 3;
            return sum / (pixels.length / 4);
        }""",
        list(image),
    )


def test_the_source_is_linked_where_its_address_is_known(page, site: Path, tmp_path: Path) -> None:
    """The address of the repository is that of whoever builds the site."""
    page.goto((site / "index.html").as_uri())
    link = page.locator(".md-source").first
    assert link.get_attribute("href") == "https://example.org/plop-lora"
    plain = build(tmp_path / "plain", PLOP_SOURCE_URL="")
    assert "md-source" not in (plain / "index.html").read_text(encoding="utf-8")
