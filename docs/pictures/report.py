"""Photograph the report of the tutorial, in both languages and themes, for the pages.

Run it as `python docs/pictures/report.py`.

Needs Playwright and Chromium. The bytes of a screenshot depend on the fonts of the machine, so that
no test compares them; one compares what the page says of them with the report.
"""

from __future__ import annotations

import itertools
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from pictures.measure import ROOT, SCORES, VERIFICATION
from plop_lora.placement import place
from plop_lora.records import Scores, Verification
from plop_lora.reports.page import html_page, results_of
from plop_lora.reports.page.blocks import Page

SIZE = {"width": 720, "height": 606}
DRAWN = "[data-drawn=done]"
FIGURES = {"en": ROOT / "docs" / "figures", "ja": ROOT / "docs" / "ja" / "figures"}
"""Language → the folder of its screenshots."""


def results(language: str = "en") -> Page:
    """Return the report of the tutorial's records."""
    scores = Scores.load(SCORES)
    return results_of([scores, place(scores), Verification.load(VERIFICATION)], language)


def main() -> None:
    """Write the screenshots."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as started:
        report = Path(folder, "report.html")
        browser = started.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for (language, figures), theme in itertools.product(FIGURES.items(), ("light", "dark")):
            report.write_text(html_page(results(language)), encoding="utf-8")
            opened = browser.new_context(viewport=SIZE, color_scheme=theme).new_page()
            opened.goto(report.as_uri())
            opened.wait_for_selector(DRAWN, state="attached")
            opened.screenshot(path=figures / f"tutorial-report-{theme}.png")
        browser.close()


if __name__ == "__main__":
    main()
