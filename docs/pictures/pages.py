"""What the pages take from pictures and records: descriptions, and printed output."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from pictures.catalogue import PICTURES, TRANSLATED, Picture
from pictures.measure import ROOT, VERIFICATION
from plop_lora.records import Verification
from plop_lora.reports.terminal import as_text

FIGURES = ROOT / "docs" / "figures"
JAPANESE = ROOT / "docs" / "ja"
TUTORIAL = ROOT / "docs" / "tutorial.md"
MARK = "<!-- verification -->"
"""The line of the tutorial below which the output of its verification stands."""
COLUMNS = 80
"""Width of the terminal whose output that is, which fits the page."""
_IMAGE = re.compile(r"!\[[^]]*\]\(((?:[\w./]*/)?figures/([\w-]+)\.svg)\)")


def page_files() -> list[Path]:
    """Return the pages that may show a picture, but for translations, whose words are their own."""
    pages = sorted((ROOT / "docs").rglob("*.md"))
    return [ROOT / "README.md", *(page for page in pages if JAPANESE not in page.parents)]


def shown(page: str) -> Iterator[tuple[str, str]]:
    """Yield name and description of each picture that a page shows."""
    for found in _IMAGE.finditer(page):
        yield found[2], found[0][2 : found[0].index("]")]


def described(page: str, pictures: Mapping[str, Picture]) -> str:
    """Return a page with the descriptions of its pictures."""

    def replaced(found: re.Match[str]) -> str:
        picture = pictures.get(found[2])
        return f"![{picture.alt}]({found[1]})" if picture else found[0]

    return _IMAGE.sub(replaced, page)


def printed(page: str) -> str:
    """Return the tutorial with the output of its verification, up to the notes."""
    text = as_text(Verification.load(VERIFICATION), COLUMNS).partition("\nNote:")[0].strip()
    before, _, rest = page.partition(MARK)
    _, _, after = rest.partition("\n```\n")
    return f"{before}{MARK}\n\n```text\n{text}\n```\n{after}"


def write() -> None:
    """Draw every picture, and renew what the pages say of them."""
    pictures = {name: draw() for name, draw in PICTURES.items()}
    for name, picture in pictures.items():
        (FIGURES / f"{name}.svg").write_text(picture.svg, encoding="utf-8")
    for name, draw_translated in TRANSLATED.items():
        path = JAPANESE / "figures" / f"{name}.svg"
        path.write_text(draw_translated(), encoding="utf-8")
    for path in page_files():
        page = path.read_text(encoding="utf-8")
        renewed = described(printed(page) if path == TUTORIAL else page, pictures)
        if renewed != page:
            path.write_text(renewed, encoding="utf-8")
